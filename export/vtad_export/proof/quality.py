"""What rounding costs on the category's own test images: image AUROC and AUPRO, of torch and of the artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.data.layout import GOOD, DataError, TestImage
from vtad.metrics import evaluate_pixels, image_metrics
from vtad.models.detector import Detector
from vtad_export.proof.errors import RoundingError
from vtad_export.proof.material import Execute
from vtad_export.proof.parity import Flip
from vtad_runtime.contract.card import Card
from vtad_runtime.contract.fit import fit_mask, read_fitted
from vtad_runtime.contract.image import ImageError, read_mask
from vtad_runtime.contract.progress import watched


@dataclass(frozen=True)
class Measured:
    """Of one program; None where undefined."""

    image_auroc: float | None
    aupro: float | None  # at the model's resolution, up to a false-positive rate of 0.3


@dataclass(frozen=True)
class Quality:
    """Both programs on the same test images."""

    images: int
    of: int  # test images there are
    before: Measured  # torch
    after: Measured  # the artefact
    flipped: tuple[Flip, ...]  # images judged otherwise, by file


def measured(every: Sequence[TestImage], card: Card, detector: Detector, execute: Execute, most: int) -> Quality:
    """Judge test images by both, at most `most`, evenly spread over the kinds.

    Raises DataError for one that cannot be read, RoundingError for one of which the artefact gives what is no number.
    """
    number = min(most, len(every))
    tests = [every[i * len(every) // number] for i in range(number)]
    scores: tuple[list[float], list[float]] = [], []
    maps: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = [], []
    masks: list[NDArray[np.bool_] | None] = []
    for test in watched(tests, "judging test pictures"):
        pixels, mask = _read(test, card)
        with torch.inference_mode():
            judged = detector(torch.from_numpy(pixels))
        here = execute(pixels)
        if not all(np.isfinite(here[output]).all() for output in ("score", "heatmap")):
            raise RoundingError(
                f"{_name(test)}: expected a score and a heatmap of numbers, got infinity or NaN; "
                "export with --precision fp32; nothing was kept"
            )
        masks.append(mask)
        both = ((judged.score.numpy(), judged.heatmap.numpy()), (here["score"], here["heatmap"]))
        for i, (score, heatmap) in enumerate(both):
            scores[i].append(float(score[0]))
            maps[i].append(heatmap[0])
    defective = [test.kind != GOOD for test in tests]
    threshold = card.calibration.threshold
    return Quality(
        images=len(tests),
        of=len(every),
        before=_measured(defective, scores[0], masks, maps[0]),
        after=_measured(defective, scores[1], masks, maps[1]),
        flipped=tuple(
            Flip(_name(test), expected, got)
            for test, expected, got in zip(tests, *scores, strict=True)
            if (expected > threshold) != (got > threshold)
        ),
    )


def _measured(
    defective: list[bool],
    scores: list[float],
    masks: list[NDArray[np.bool_] | None],
    maps: list[NDArray[np.float32]],
) -> Measured:
    marked = [(mask, heat) for mask, heat in zip(masks, maps, strict=True) if mask is not None]
    pixels = evaluate_pixels([mask for mask, _ in marked], [heat for _, heat in marked])
    return Measured(image_metrics(defective, scores).auroc, pixels.aupro)


def _name(test: TestImage) -> str:
    return f"{test.kind}/{test.path.name}"


def _read(test: TestImage, card: Card) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Pixels (1, 3, H, W), and the mask (H, W): empty for a good image, None for a defect that nobody marked."""
    try:
        fitted, _ = read_fitted(test.path, card.input)
        mask = np.zeros(fitted.shape[:2], np.bool_) if test.kind == GOOD else None
        if test.mask is not None:
            mask = fit_mask(read_mask(test.mask), card.input)
    except ImageError as e:
        raise DataError(f"{e}; vtad-data check finds every such file") from e
    return np.ascontiguousarray(fitted.transpose(2, 0, 1)[None]), mask
