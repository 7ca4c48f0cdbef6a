"""Which device computes, whether bfloat16 makes it faster there, and what is said when its memory does not suffice."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from vtad.config import ConfigError
from vtad_runtime.contract.errors import VtadError, one_line

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
GAIN = 1.05  # bfloat16 must make a step this much faster to be worth its rounding
TURNS = 3  # times that each way is timed, after one that is not
HOPELESS = 3.0  # a product that is so much slower in bfloat16 decides it
NO_ROOM = (  # as torch says it of CUDA, MPS and the CPU, where it has no class for it; and OpenCV
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "insufficient memory",
    "alloc_failed",
)


class NoRoom(VtadError):
    """What was to be computed does not fit into memory. The message is one line."""


def pick_device(name: str) -> torch.device:
    """`auto` takes cuda, then mps, then cpu. Raises ConfigError for a device that this machine lacks.

    Convolutions on cuda are held to float32 from then on: NVIDIA's TF32 would calibrate another detector than the one that runs.
    """
    torch.backends.cudnn.allow_tf32 = False
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present.get(name, False):
        have = ", ".join(kind for kind, there in present.items() if there)
        raise ConfigError(f"device: expected one that this machine has ({have}) or auto, got {name}")
    return torch.device(name)


@contextmanager
def room_errors_as_lines(remedy: str) -> Iterator[None]:
    """Raise NoRoom, which names the remedy, for whatever a library raises inside the block when memory is at its end."""
    try:
        yield
    except VtadError:
        raise
    except Exception as e:
        said = one_line(e)
        if not isinstance(e, MemoryError) and not any(words in said.lower() for words in NO_ROOM):
            raise
        raise NoRoom(f"expected enough memory, got: {said}: {remedy}") from e


def matrix_product(bfloat16: bool) -> None:
    """One product of 192 x 192 numbers, in bfloat16 or float32."""
    a = torch.ones(192, 192, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    a @ a


def bfloat16_gains(
    device: torch.device,
    step: Callable[[bool], None],
    product: Callable[[bool], None] = matrix_product,
    clock: Callable[[], float] = time.perf_counter,
) -> bool:
    """Whether `step` is clearly faster in bfloat16; it takes whether to compute in it.

    True on GPUs that have it. On a CPU the step itself is timed both ways, in turns, since the gain of a single `product` says
    little of it. No step is timed where the product alone is far slower, as on CPUs without bfloat16.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    rounded, whole = _fastest(product, clock)
    if rounded > HOPELESS * whole:
        return False
    rounded, whole = _fastest(step, clock)
    return rounded * GAIN < whole


def _fastest(work: Callable[[bool], None], clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds that `work` takes in bfloat16 and not, each the least of some: what else a machine does only slows."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 + TURNS):
        for bfloat16, taken in seconds.items():
            start = clock()
            work(bfloat16)
            taken.append(clock() - start)
    return min(seconds[True][1:]), min(seconds[False][1:])  # the first of each prepares


def keep_memory() -> bool:
    """Let this process keep what it frees, where its C library is glibc; whether it is.

    Otherwise the system hands out every large tensor of a training step anew, zeroed page by page: a fifth of the step's time.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
