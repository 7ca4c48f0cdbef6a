"""Pictures of known verdict into the model, and all that it says of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.data.batches import BATCH, batches
from vtad.data.layout import TestImage
from vtad.evaluation.at_source import Map, fitted
from vtad.models.detector import Detector
from vtad_runtime.contract.card import Input
from vtad_runtime.contract.fit import Placement


@dataclass(frozen=True, eq=False)
class Judged:
    """A picture as the model takes it, and what the model says; all at the model's resolution (H, W)."""

    image: TestImage
    pixels: NDArray[np.uint8]  # (H, W, 3)
    placement: Placement  # where they were in the picture
    doubt: str | None  # why the picture is not to be trusted, if so
    score: float
    heatmap: Map  # (H, W), as the next two: z-scores
    ssim_map: Map
    density_map: Map
    reconstruction: Map  # (H, W, 3), about 0..1


def judged(detector: Detector, images: Sequence[TestImage], spec: Input, device: torch.device) -> Iterator[Judged]:
    """Each picture in turn. Raises DataError."""
    for i in range(0, len(images), BATCH):
        part = images[i : i + BATCH]
        taken = [fitted(image, spec) for image in part]
        with torch.inference_mode():
            found = detector(next(batches(np.stack([pixels for pixels, _, _ in taken]), device, BATCH)))
        heat, ssim, density, drawn = (m.float().cpu().numpy() for m in found[1:])
        for j, (image, (pixels, placement, doubt)) in enumerate(zip(part, taken, strict=True)):
            reconstruction = drawn[j].transpose(1, 2, 0)  # (3, H, W) -> (H, W, 3)
            yield Judged(
                image, pixels, placement, doubt, found.score[j].item(), heat[j], ssim[j], density[j], reconstruction
            )
