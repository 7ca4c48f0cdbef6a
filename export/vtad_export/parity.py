"""The proof of an export: torch and the artefact judge the same real good images and synthetic defects.

Good images come from their files through the runtime's own decoding. Errors of the maps are in units of normal variation;
where a defect sends a map far above 1, they are relative to it, for that is what float32 can promise. The score's error is
relative to the spread of the calibration scores. A verdict that differs is a flip, and one is too many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.calibrate import batches, spread
from vtad.data import ImageCache, split_good
from vtad.defects import synthetic
from vtad.detector import Detector
from vtad.inspection import input_spec
from vtad.layout import find_category
from vtad.run_folder import Run
from vtad_runtime.card import Calibration, Parity

GOOD_IMAGES = 32
DEFECTIVE_IMAGES = 32
BATCH = 4

TOLERANCE = {
    "reconstruction": 1e-5,  # intensity
    "ssim_map": 5e-4,  # units of normal variation
    "nll_map": 5e-4,
    "heatmap": 5e-4,
    "score": 1e-4,  # of the calibration spread
}

Pixels = NDArray[np.uint8]
Execute = Callable[[Pixels], dict[str, NDArray[np.float32]]]  # (B, 3, H, W) -> outputs by name


class ParityError(RuntimeError):
    """The artefact does not run or does not agree with torch. The message is one line: where and by how much."""


@dataclass(frozen=True)
class Samples:
    """What the proof runs on, (N, H, W, 3) uint8 each."""

    good: Pixels
    defective: Pixels


def samples(run: Run, data: Path | None = None) -> Samples:
    """Held-out good images of the run and synthetic defects on them. Raises DataError when the images are not there."""
    config = run.config()
    files = find_category(data or Path(config.data), config.category)
    _, held_out = split_good(files.train_good, config.val_split, config.seed)
    with ImageCache(held_out[:GOOD_IMAGES], input_spec(config)) as images:
        good = images[:]
    return Samples(good, synthetic(good, DEFECTIVE_IMAGES, config.seed + 1)[0])


@dataclass(frozen=True)
class Comparison:
    """What running both on all samples showed."""

    max_error: dict[str, float]
    flips: int  # verdicts that differ
    undecided: int  # images whose score in torch is nearer to the threshold than the score's tolerance
    undecided_flips: int  # of the flips: those of undecided images


def prove(
    detector: Detector,
    execute: Execute,
    sample: Samples,
    calibration: Calibration,
    *,
    format: str,
    precision: str,
    tolerance: dict[str, float] = TOLERANCE,
) -> Parity:
    """Run both on all samples. Raises ParityError: a flip, a value that is not finite, or an error over its tolerance."""
    found = compare(detector, execute, sample, calibration, tolerance)
    return accept(found, found.flips, sample, format=format, precision=precision, tolerance=tolerance)


def compare(
    detector: Detector, execute: Execute, sample: Samples, calibration: Calibration, tolerance: dict[str, float]
) -> Comparison:
    """Run both on all samples and measure."""
    worst = dict.fromkeys(tolerance, 0.0)
    flips = undecided = undecided_flips = 0
    unit = spread(calibration.scores)
    images = np.concatenate([sample.good, sample.defective])
    for batch in batches(images, torch.device("cpu"), BATCH):
        with torch.inference_mode():
            expected = {k: v.numpy() for k, v in detector(batch)._asdict().items()}
        got = execute(batch.numpy())
        for name in tolerance:
            worst[name] = max(worst[name], _error(name, expected[name], got[name], unit))
        score, threshold = expected["score"], calibration.threshold
        flipped = (score > threshold) != (got["score"] > threshold)
        near = np.abs(score - threshold) <= tolerance["score"] * unit * np.maximum(1.0, np.abs(score))
        flips, undecided = flips + int(flipped.sum()), undecided + int(near.sum())
        undecided_flips += int((flipped & near).sum())
    return Comparison(worst, flips, undecided, undecided_flips)


def accept(
    found: Comparison, flips: int, sample: Samples, *, format: str, precision: str, tolerance: dict[str, float]
) -> Parity:
    """The card's entry. Raises ParityError when there are `flips`, or an error is over its tolerance."""
    images = len(sample.good) + len(sample.defective)
    worst = found.max_error
    over = [f"{k} {worst[k]:.2e} (at most {tolerance[k]:.0e})" for k in tolerance if not worst[k] <= tolerance[k]]
    if flips:
        over.append(f"{flips} of {images} verdicts differ")
    if over:
        raise ParityError(f"the {format} artefact does not agree with torch: {'; '.join(over)}; nothing was kept")
    return Parity(
        format=format,
        precision=precision,
        images_good=len(sample.good),
        images_defective=len(sample.defective),
        max_error=worst,
        tolerance=dict(tolerance),
        verdict_flips=flips,
    )


def _error(name: str, expected: NDArray[np.float32], got: NDArray[np.float32], unit: float) -> float:
    """Largest difference; infinite where shapes differ or a value is not finite."""
    if expected.shape != got.shape or not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return math.inf
    difference = np.abs(expected.astype(np.float64) - got)
    if name == "reconstruction":
        return float(difference.max())
    size = np.maximum(1.0, np.abs(expected))
    return float((difference / size).max()) / (unit if name == "score" else 1.0)
