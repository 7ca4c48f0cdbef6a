"""Pictures at the threshold: synthetic defects and changed good pictures, graded in strength until torch's verdict turns.

Far from the threshold no verdict flips, whatever an artefact's arithmetic. A defect is laid over its good picture more or less
opaquely; a good picture is made lighter or darker, moved aside, or mixed with another one. The strength is bisected on a
logarithmic scale, for all of them at once: each gives the strongest that is still OK, and the weakest that is NG.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vtad.data.batches import batches
from vtad.models.detector import Detector
from vtad_runtime.contract.card import Calibration
from vtad_runtime.contract.threshold.conformal import LEAST_MARGIN, spread

RGB = NDArray[np.uint8]  # (H, W, 3)
Change = Callable[[RGB, RGB, float], RGB]  # of a good picture, with another good one at hand, by a strength

DEFECTS = GOOD = 8  # that are graded; each gives two pictures where its scores reach the threshold
WEAKEST, STRONGEST = 1 / 64, 4.0  # 1 is a synthetic defect as it was drawn
STEPS = 7  # of the bisection
WITHIN = 0.1  # of the threshold: how far from it a score may be to be near
ENOUGH = 8  # pictures on either side of the threshold: with fewer, the proof says so
BATCH = 4  # pictures


@dataclass(frozen=True, eq=False)
class Graded:
    """A picture whose score lies near the threshold."""

    name: str
    pixels: RGB  # (H, W, 3)
    above: bool  # the threshold


def graded(
    detector: Detector, calibration: Calibration, good: RGB, defective: RGB, names: Sequence[str]
) -> tuple[Graded, ...]:
    """Below and above the threshold in turn, defects and good pictures in turn; none of what does not reach it.

    `good` and `defective` are (N, H, W, 3), a defect on the good picture of its number modulo their count; `names` are of all,
    the good ones first. No score is nearer to the threshold than LEAST_MARGIN of the calibration spread: what float32 promises.
    """
    drawn: list[tuple[str, Callable[[float], RGB]]] = []
    for i in range(max(DEFECTS, GOOD)):
        first, second = good[i % len(good)], good[(i + 1) % len(good)]
        if i < min(DEFECTS, len(defective)):
            drawn.append((names[len(good) + i], _bound(blended, first, defective[i])))
        if i < GOOD:
            word, change = CHANGES[i % len(CHANGES)]
            drawn.append((f"{names[i % len(good)]} {word}", _bound(change, first, second)))
    lowest, highest = np.full(len(drawn), WEAKEST), np.full(len(drawn), STRONGEST)
    sides: tuple[dict[int, tuple[float, Graded]], ...] = {}, {}  # nearest found below, and above: distance and picture
    least = LEAST_MARGIN * spread(calibration.scores)
    most = WITHIN * max(abs(calibration.threshold), spread(calibration.scores))
    for _ in range(STEPS):
        strengths = np.sqrt(lowest * highest)
        pictures = np.stack([make(float(a)) for (_, make), a in zip(drawn, strengths, strict=True)])
        distances = _scores(detector, pictures) - calibration.threshold
        above = distances > 0
        lowest, highest = np.where(above, lowest, strengths), np.where(above, strengths, highest)
        for i, distance in enumerate(np.abs(distances).tolist()):
            side = sides[int(above[i])]
            if least <= distance <= most and (i not in side or distance < side[i][0]):
                side[i] = distance, Graded(f"{drawn[i][0]}, strength {strengths[i]:.3f}", pictures[i], bool(above[i]))
    return tuple(side[i][1] for i in range(len(drawn)) for side in sides if i in side)


def shortage(found: Sequence[Graded]) -> str | None:
    """One line where there are too few on a side of the threshold, else None."""
    above = sum(g.above for g in found)
    if min(above, len(found) - above) >= ENOUGH:
        return None
    return (
        f"only {len(found) - above} images just below the threshold and {above} just above: with this model, no more of the "
        f"{DEFECTS} defects and {GOOD} good images come within {WITHIN:.0%} of it at any strength"
    )


def blended(clean: RGB, other: RGB, strength: float) -> RGB:
    """A picture and the difference to another one, more or less of it."""
    return _pixels(clean + (other.astype(np.float32) - clean) * np.float32(strength))


def lighter(rgb: RGB, _: RGB, strength: float) -> RGB:
    """More light."""
    return _pixels(rgb * np.float32(1 + strength / 2))


def darker(rgb: RGB, _: RGB, strength: float) -> RGB:
    """Less light."""
    return _pixels(rgb * np.float32(1 / (1 + strength / 2)))


def shifted(rgb: RGB, _: RGB, strength: float) -> RGB:
    """To the right, by a sixteenth of the width at strength 1."""
    height, width = rgb.shape[:2]
    matrix = np.array([[1, 0, strength * width / 16], [0, 1, 0]], np.float32)
    return np.asarray(cv2.warpAffine(rgb, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def mixed(rgb: RGB, other: RGB, strength: float) -> RGB:
    """With another good picture: an eighth of it at strength 1, half of it at most."""
    return blended(rgb, other, strength / 8)


CHANGES: tuple[tuple[str, Change], ...] = (
    ("lighter", lighter),
    ("darker", darker),
    ("shifted", shifted),
    ("mixed with another", mixed),
)


def _bound(change: Change, rgb: RGB, other: RGB) -> Callable[[float], RGB]:
    return lambda strength: change(rgb, other, strength)


def _pixels(values: NDArray[np.float32]) -> RGB:
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


def _scores(detector: Detector, pictures: RGB) -> NDArray[np.float64]:
    """Of pictures (N, H, W, 3), (N,)."""
    with torch.inference_mode():
        each = batches(pictures, torch.device("cpu"), BATCH, "pictures near the threshold")
        found = [detector(batch).score.numpy() for batch in each]
    return np.concatenate(found).astype(np.float64)
