"""A detector whose every weight is moved by its last bit: how far that moves its outputs is what rounding alone may do.

Attention whose logits are in the hundreds (`vtad.backbones.layers.Attention`) magnifies that ten thousand times, and float32
promises no more of its reconstruction then. An artefact cannot either, however right it is.
"""

from __future__ import annotations

import copy

import torch

from vtad.models.detector import Detector
from vtad_export.proof.material import Execute, Pixels, Values

LAST_BIT = torch.finfo(torch.float32).eps  # of a weight


def nudged(detector: Detector, seed: int = 0) -> Execute:
    """The detector so moved, as if it were an artefact."""
    moved, generator = copy.deepcopy(detector), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in moved.model.parameters():
            up = torch.rand(weight.shape, generator=generator) < 0.5
            weight.mul_(torch.where(up, 1 + LAST_BIT, 1 - LAST_BIT))

    def execute(pixels: Pixels) -> Values:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in moved(torch.from_numpy(pixels))._asdict().items()}

    return execute
