"""One training by several processes, each with a share of every batch: started by torchrun, joined by torch.distributed.

What is learnt does not depend on how many they are. Everything that is drawn for a picture of a batch - the picture, its
defects, its noise - follows from the seed, the step and its row in the whole batch, and a loss is a mean over the whole batch.
So the sum of the processes' gradients is the gradient of one process, but for rounding. It is summed here, in one message a step,
and not by DistributedDataParallel: that takes the mean over processes, whose shares differ in size; it wants one forward pass
for each backward pass, and the segmentation head learns again by itself; and it would wrap the model, whose parts are used
one by one. What it does better is to send the first gradients while the last are computed.

The first process alone looks for symmetries, fits the statistics, calibrates, writes and speaks; the others get its result.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vtad.config import ConfigError
from vtad_runtime.contract.errors import FAILED, VtadError, one_line

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun says in the environment
PATIENCE = timedelta(days=1)  # the first process may fit and calibrate for long; one that dies is noticed at once

Made = TypeVar("Made")


class ProcessLost(VtadError):
    """Another process of the training ended. The message is one line."""

    exit_code = FAILED


class Ended(VtadError):
    """This process ends because another one does, which says why."""

    exit_code = FAILED


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """What it holds."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Hold this."""
        ...


@dataclass(frozen=True)
class Processes:
    """Those that train together, seen from one of them. Every process must call the same methods in the same order."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Which rows of a batch, or of anything, are this one's: every so many, so that the first rows are everybody's."""
        return slice(self.rank, None, self.count)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Let each tensor be the sum over the processes. Raises ProcessLost."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self._connected():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def clock(self, seconds: float) -> float:
        """The seconds on the clock of the first. Raises ProcessLost."""
        return self._largest(seconds if self.first else 0.0)

    def any(self, said: bool) -> bool:
        """Whether it is so in any process. Raises ProcessLost."""
        return bool(self._largest(float(said)))

    def _largest(self, value: float) -> float:
        if self.count == 1:
            return value
        values = torch.tensor(value, dtype=torch.float64)
        with self._connected():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.item()

    def of_first(self, work: Callable[[], Made]) -> Made:
        """What the first process makes, for all. Raises what `work` does there, Ended elsewhere; ProcessLost."""
        made: list[Any] = [None]
        with self.together():
            made[0] = work() if self.first else None
        if self.count > 1:
            with self._connected():
                dist.broadcast_object_list(made)
        found: Made = made[0]
        return found

    def take_over(self, *parts: Stateful) -> None:
        """Let each part be as it is in the first process. Raises ProcessLost."""
        if self.count == 1:
            return
        states = self.of_first(lambda: _packed([part.state_dict() for part in parts]))
        if not self.first:
            for part, state in zip(parts, torch.load(io.BytesIO(states), "cpu", weights_only=True), strict=True):
                part.load_state_dict(state)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where the block raises a VtadError in one process, all end. The first that it does in says why; others raise Ended."""
        error: VtadError | None = None
        try:
            yield
        except VtadError as e:
            if self.count == 1 or isinstance(e, ProcessLost):
                raise
            error = e
        if self.count == 1:
            return
        codes: list[int | None] = [None] * self.count
        with self._connected():
            dist.all_gather_object(codes, error.exit_code if error else None)
        failed = [rank for rank, code in enumerate(codes) if code is not None]
        if not failed:
            return
        if error is None or failed[0] != self.rank:
            raise Ended("another process says why", codes[failed[0]])
        raise error if self.first else VtadError(f"process {self.rank} of {self.count}: {error}", error.exit_code)

    def require_same(self, value: str, what: str) -> None:
        """Raise ConfigError where the processes do not have the same."""
        if self.count == 1:
            return
        values: list[str] = [""] * self.count
        with self._connected():
            dist.all_gather_object(values, value)
        with self.together():
            if self.first and len(set(values)) > 1:
                others = [str(rank) for rank, other in enumerate(values) if other != value]
                raise ConfigError(
                    f"{what}: expected the same for every process, process {', '.join(others)} has others"
                )

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:  # gloo and NCCL know many ways to say that somebody is gone
            said = re.sub(r"\[[^]]*\]\s*", "", one_line(e))  # without addresses, and places in the sources of gloo
            raise ProcessLost(
                f"process {self.rank} of {self.count}: another process of this training ended ({said}); "
                "continue by vtad-train --resume"
            ) from e


ALONE = Processes()


def launched() -> bool:
    """Whether this process is one of several."""
    return all(name in os.environ for name in VARIABLES) and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, connected inside the block; alone where it did not. Raises ConfigError.

    On machines with NVIDIA's cards each takes one, tensors on them go by NCCL, and all else by gloo.
    """
    if not launched():
        yield ALONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= cards:
            raise ConfigError(f"expected a process for each card of this machine, got more: --nproc-per-node {cards}")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as e:
        raise ConfigError(f"the processes of torchrun cannot reach each other: {one_line(e)}") from e
    yield Processes(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error: the others may be gone


def _packed(states: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    torch.save(states, stream)
    return stream.getvalue()
