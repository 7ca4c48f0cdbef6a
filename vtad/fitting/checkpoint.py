"""Where training stands, in one safetensors file: tensors as tensors, numbers as JSON, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vtad.older_runs import tensors_of_today
from vtad.run_folder import RunError, replacing
from vtad_runtime.contract.disk import files


@dataclass
class Progress:
    """How far training is. A step is a function of the seed and its number, so no random state need be kept."""

    step: int = 0
    epoch: int = 0  # completed
    seconds: float = 0.0  # of training so far
    best_loss: float = float("inf")  # validation
    stale: int = 0  # validations since the best
    autocast: bool = False  # bfloat16; decided once, so that a resumed run computes alike
    data_fingerprint: str = ""  # of all good images; a resumed run must see the same
    sums: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)  # of the loss and its parts over the steps of the epoch so far


def save(
    path: Path, model: nn.Module, best: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, at: Progress
) -> None:
    """Write a checkpoint whole or not at all. Raises WriteError."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    numbers: dict[str, float] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            elif value is not None:
                numbers[f"{index}.{name}"] = value
    metadata = {"progress": json.dumps(asdict(at)), "optimizer": json.dumps(numbers)}
    save_tensors(path, tensors, metadata)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Progress]:
    """Restore model and optimizer in place; the best weights so far and the progress are returned. Raises RunError."""
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = tensors_of_today({k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118 - not a dict
        at = Progress(**json.loads(metadata["progress"]))
        numbers = json.loads(metadata["optimizer"])
        model.load_state_dict(_under("model.", tensors))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise RunError(f"{path}: expected a checkpoint of this run, got {type(e).__name__}: {e}".splitlines()[0]) from e
    state: dict[int, dict[str, Tensor | float]] = {}
    for key, value in (_under("optimizer.", tensors) | numbers).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return _under("best.", tensors), at


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all. Raises WriteError."""
    plain = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    with replacing(path) as beside:
        beside.touch()
        mode = beside.stat().st_mode  # as any new file has it here; safetensors would let its owner alone read it
        try:
            save_file(plain, beside, metadata)
            beside.chmod(mode)
            files.sync(beside)  # or a power cut after the renaming leaves an empty file in place of the earlier one
        except SafetensorError as e:  # its only cause here is a failed write
            raise OSError(str(e)) from e


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
