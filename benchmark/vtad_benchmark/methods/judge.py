"""A detector on test images, by the metrics code and at the resolution of `vtad-eval`, and what a threshold makes of its scores.

`vtad.evaluation.evaluate` judges trained runs only; a test holds the two to the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vtad.data.batches import BATCH, batches
from vtad.data.layout import GOOD, TestImage
from vtad.evaluation.at_source import at_source, fitted
from vtad.metrics import ImageMetrics, PixelReport, evaluate_pixels, image_metrics
from vtad_benchmark.results.row import Decision
from vtad_runtime.contract.card import Calibration, Input
from vtad_runtime.contract.threshold.conformal import REVIEW, review_level
from vtad_runtime.verdict.verdict import Verdict, decide


@dataclass(frozen=True)
class Judged:
    """What the test images say of a detector."""

    scores: tuple[float, ...]  # in the order of the images
    image: ImageMetrics
    pixels: PixelReport


def judge(detector: nn.Module, test: Sequence[TestImage], spec: Input, device: torch.device) -> Judged:
    """Score every test image by a `Baseline`, or by what gives scores and maps first as one does.

    Raises DataError for an image or a mask that cannot be used.
    """
    scores: list[float] = []
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    for part in _parts(test):
        taken = [fitted(image, spec) for image in part]
        score, found = _forward(detector, [pixels for pixels, _, _ in taken], device)
        scores += score
        for image, (_, placement, _), values in zip(part, taken, found, strict=True):
            (at_size,), mask = at_source(image, placement, [values])
            if mask is not None:  # without one it counts as an image only
                maps.append(at_size)
                masks.append(mask)
    labels = [t.kind != GOOD for t in test]
    return Judged(tuple(scores), image_metrics(labels, scores), evaluate_pixels(masks, maps))


def scores_and_peaks(
    detector: nn.Module, files: Sequence[Path], spec: Input, device: torch.device
) -> tuple[list[float], list[float]]:
    """The score of each picture, and the highest value of its map at the model's size. Raises DataError."""
    scores: list[float] = []
    peaks: list[float] = []
    for part in _parts([TestImage(file, GOOD, None) for file in files]):
        score, maps = _forward(detector, [fitted(image, spec)[0] for image in part], device)
        scores += score
        peaks += maps.reshape(len(maps), -1).max(1).tolist()
    return scores, peaks


def decisions(
    calibration: Calibration, test: Sequence[TestImage], scores: Sequence[float]
) -> tuple[Decision, Decision | None]:
    """What the guaranteed and the estimated threshold make of the scores of test images; None where nothing was estimated."""
    guaranteed = calibration.threshold if calibration.guaranteed is None else calibration.guaranteed
    good = [score for image, score in zip(test, scores, strict=True) if image.kind == GOOD]
    defective = [score for image, score in zip(test, scores, strict=True) if image.kind != GOOD]
    estimated = calibration.estimated
    return (
        decision(dataclasses.replace(calibration, threshold=guaranteed), good, defective),
        decision(dataclasses.replace(calibration, threshold=estimated.threshold), good, defective)
        if estimated
        else None,
    )


def decision(calibration: Calibration, good: Sequence[float], defective: Sequence[float]) -> Decision:
    """What the calibration's threshold makes of the scores of good and of defective pictures."""
    unsure_from = review_level(calibration, REVIEW)
    of_good = [decide(calibration, score, unsure_from) for score in good]
    of_defective = [decide(calibration, score, unsure_from) for score in defective]
    alarms, unsure = of_good.count(Verdict.NG), of_good.count(Verdict.UNSURE)
    return Decision(
        threshold=calibration.threshold,
        unsure_from=unsure_from,
        false_alarms=alarms,
        misses=len(defective) - of_defective.count(Verdict.NG),
        defective_ok=of_defective.count(Verdict.OK),
        good_unsure=unsure,
        good_with_region=alarms + unsure,
    )


def _parts(images: Sequence[TestImage]) -> list[Sequence[TestImage]]:
    return [images[i : i + BATCH] for i in range(0, len(images), BATCH)]


def _forward(
    detector: nn.Module, pixels: Sequence[NDArray[np.uint8]], device: torch.device
) -> tuple[list[float], NDArray[np.float32]]:
    """Scores, and maps (B, H, W), of pictures (H, W, 3)."""
    with torch.inference_mode():
        score, maps = detector(next(batches(np.stack(pixels), device, BATCH)))[:2]
    return score.tolist(), maps.float().cpu().numpy()
