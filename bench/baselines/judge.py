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
from vtad.data.layout import GOOD, TestImage
from vtad.evaluation.at_source import at_source, fitted
from vtad.metrics import PixelReport, evaluate_pixels, image_auroc
from vtad_runtime.contract.card import Input


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
        taken = [fitted(image, spec) for image in part]
        pixels = torch.from_numpy(np.stack([p for p, _, _ in taken])).permute(0, 3, 1, 2)
        with torch.inference_mode():
            score, found = baseline(pixels.to(device))
        scores += score.tolist()
        for image, (_, placement, _), values in zip(part, taken, found.cpu().numpy(), strict=True):
            (at_size,), mask = at_source(image, placement, [values])
            if mask is not None:  # without one it counts as an image only
                maps.append(at_size)
                masks.append(mask)
    labels = [t.kind != GOOD for t in test]
    return Judged(image_auroc(labels, scores), evaluate_pixels(masks, maps))
