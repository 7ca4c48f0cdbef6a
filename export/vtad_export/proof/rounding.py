"""What rounding alone makes of a detector: how far its outputs move when every weight moves by its last bit.

Attention whose logits are in the hundreds (`vtad.backbones.layers.Attention`) magnifies that ten thousand times, and float32
promises no more of its reconstruction then. An artefact cannot either, however right it is.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.data.batches import batches
from vtad.models.detector import Detector
from vtad_runtime.contract.card import Calibration
from vtad_runtime.contract.references import largest_error

BATCH = 4


def moved_by_rounding(
    detector: Detector, images: NDArray[np.uint8], calibration: Calibration, seed: int = 0
) -> dict[str, float]:
    """The largest error of every output on images (N, H, W, 3), in the units of `largest_error`."""
    nudged, generator = copy.deepcopy(detector), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in nudged.model.parameters():
            up = torch.rand(weight.shape, generator=generator) < 0.5
            weight.mul_(torch.where(up, 1 + torch.finfo(torch.float32).eps, 1 - torch.finfo(torch.float32).eps))
    moved: dict[str, float] = {}
    for batch in batches(images, torch.device("cpu"), BATCH, "rounding"):
        with torch.inference_mode():
            pair = zip(detector(batch)._asdict().items(), nudged(batch), strict=True)
        for (name, expected), got in pair:
            error = largest_error(name, expected.numpy(), got.numpy(), calibration)
            moved[name] = max(moved.get(name, 0.0), error)
    return moved
