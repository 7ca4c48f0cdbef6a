"""What an artefact's constants are held to."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from torch import nn


def tensors_of(module: nn.Module) -> dict[str, NDArray[Any]]:
    """All parameters and buffers by their names."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
