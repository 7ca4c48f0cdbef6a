"""A baseline on test images, by the metrics code and at the resolution of `vtad-eval`.

`vtad.evaluation.evaluate` judges trained runs only; a test holds the two to the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.baselines.baseline import BATCH
from vtad.data.layout import GOOD, DataError, TestImage
from vtad.evaluation.evaluate import LONGEST_SIDE
from vtad.metrics import PixelReport, evaluate_pixels, image_auroc
from vtad_runtime.contract.card import Input
from vtad_runtime.contract.image import ImageError, Placement, fit_image, read_mask, read_rgb, resize, unfit_map


@dataclass(frozen=True)
class Judged:
    """What the test images say of a baseline."""

    image_auroc: float | None
    pixels: PixelReport


def judge(baseline: nn.Module, test: tuple[TestImage, ...], spec: Input, device: torch.device) -> Judged:
    """Score every test image by a `Baseline`, or by what gives scores and maps as one does.

    Raises DataError for an image or a mask that cannot be used.
    """
    scores: list[float] = []
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    for i in range(0, len(test), BATCH):
        part = test[i : i + BATCH]
        fitted = [_read(image, spec) for image in part]
        pixels = torch.from_numpy(np.stack([p for p, _ in fitted])).permute(0, 3, 1, 2)
        with torch.inference_mode():
            score, found = baseline(pixels.to(device))
        scores += score.tolist()
        for image, (_, placement), values in zip(part, fitted, found.cpu().numpy(), strict=True):
            mask = _mask(image, placement)
            if mask is None:
                continue  # it counts as an image only
            at_source = unfit_map(values, placement)
            size = _compared_at(placement)
            maps.append(resize(at_source, *size))
            masks.append(mask if mask.shape == size[::-1] else resize(mask.astype(np.float32), *size) > 0)
    labels = [t.kind != GOOD for t in test]
    return Judged(image_auroc(labels, scores), evaluate_pixels(masks, maps))


def _compared_at(placement: Placement) -> tuple[int, int]:
    """(width, height) of the source, or of its copy with a longest side of LONGEST_SIDE."""
    width, height = placement.source_width, placement.source_height
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _read(image: TestImage, spec: Input) -> tuple[NDArray[np.uint8], Placement]:
    try:
        return fit_image(read_rgb(image.path), spec)
    except ImageError as e:
        raise DataError(str(e)) from e


def _mask(image: TestImage, placement: Placement) -> NDArray[np.bool_] | None:
    """(H, W) of the source; None for a defective image without one."""
    shape = placement.source_height, placement.source_width
    if image.kind == GOOD:
        return np.zeros(shape, np.bool_)
    if image.mask is None:
        return None
    try:
        mask = read_mask(image.mask)
    except ImageError as e:
        raise DataError(str(e)) from e
    if mask.shape != shape:
        raise DataError(f"{image.mask}: expected a mask of the size of {image.path.name}, {shape}, got {mask.shape}")
    return mask
