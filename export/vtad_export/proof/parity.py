"""The proof of an export: torch and the artefact judge the same real good images and synthetic defects.

Maps are z-scores, and so are their errors; where a defect sends a map far above 1, they are relative to it, for that is what
float32 can promise. The score's error is relative to the spread of the calibration scores. A verdict that differs is a flip,
and one is too many unless more were allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.data.batches import batches
from vtad.models.detector import Detector, Judgement
from vtad_export.proof.errors import FlipError, ParityError
from vtad_export.proof.material import Execute, Samples, Values
from vtad_export.proof.tolerance import TOLERANCE, Limits
from vtad_runtime.contract.card import Calibration, Parity
from vtad_runtime.contract.conformal import spread

BATCH = 4
NAMED = 5  # flips that an error names


@dataclass(frozen=True)
class Flip:
    """An image judged differently."""

    image: str
    expected: float  # torch's score
    got: float

    def __str__(self) -> str:
        return f"{self.image} ({self.expected:.4g} in torch, {self.got:.4g})"


@dataclass(frozen=True)
class FallbackComparison:
    """The same of the ONNX fallback, and how it and the artefact differ."""

    max_error: dict[str, float]  # fallback and torch
    apart: dict[str, float]  # largest differences of fallback and artefact
    flips: int  # verdicts on which fallback and artefact differ


@dataclass(frozen=True)
class Comparison:
    """What running both on all samples showed."""

    max_error: dict[str, float]
    near: int  # images whose score in torch is nearer to the threshold than the score may drift
    flipped: tuple[Flip, ...]  # all verdicts that differ, by image
    fallback: FallbackComparison | None


def prove(
    detector: Detector,
    execute: Execute,
    sample: Samples,
    calibration: Calibration,
    *,
    format: str,
    precision: str,
    tolerance: Mapping[str, float] = TOLERANCE,
) -> Parity:
    """Run both on all samples. Raises ParityError: a flip, a value that is not finite, or an error over its tolerance."""
    found = compare(detector, execute, sample, calibration, tolerance)
    return accept(found, sample, format=format, precision=precision, tolerance=tolerance)


def compare(
    detector: Detector, execute: Execute, sample: Samples, calibration: Calibration, tolerance: Mapping[str, float]
) -> Comparison:
    """Run both on all samples, and the ONNX fallback where the samples have one, and measure."""
    worst, fallback_worst, apart = (dict.fromkeys(Judgement._fields, 0.0) for _ in range(3))
    flipped: list[Flip] = []
    near = fallback_flips = 0
    unit = spread(calibration.scores)
    images = np.concatenate([sample.good, sample.defective])
    for number, batch in enumerate(batches(images, torch.device("cpu"), BATCH)):
        with torch.inference_mode():
            expected = {k: v.numpy() for k, v in detector(batch)._asdict().items()}
        got = execute(batch.numpy())
        _widen(worst, expected, got, unit)
        score, threshold = expected["score"], calibration.threshold
        differs = _differs(score, got["score"], threshold)
        drift = tolerance["score"] * unit * np.maximum(1.0, np.abs(score))
        near += int((np.abs(score - threshold) <= drift).sum())
        flipped += [
            Flip(sample.name(number * BATCH + int(i)), float(score[i]), float(got["score"].flat[i]))
            for i in np.flatnonzero(differs)
        ]
        if sample.fallback:
            third = sample.fallback.execute(batch.numpy())
            _widen(fallback_worst, expected, third, unit)
            _widen(apart, third, got, unit)
            fallback_flips += int(_differs(third["score"], got["score"], threshold).sum())
    return Comparison(
        worst,
        near,
        tuple(flipped),
        FallbackComparison(fallback_worst, apart, fallback_flips) if sample.fallback else None,
    )


def accept(
    found: Comparison,
    sample: Samples,
    *,
    format: str,
    precision: str,
    tolerance: Mapping[str, float],
    tests: int = 0,
) -> Parity:
    """The card's entry. Raises ParityError: more flips than `tolerance` allows, an error over it, or a fallback that is off.

    `tests`: test images that were judged besides the samples, whose flips are among those found.
    """
    flips, images = len(found.flipped), len(sample.good) + len(sample.defective) + tests
    worst = found.max_error
    over = [f"{k} {worst[k]:.2e} (at most {tolerance[k]:.0e})" for k in tolerance if not worst[k] <= tolerance[k]]
    allowed = tolerance.flips if isinstance(tolerance, Limits) else 0
    error = ParityError if over else FlipError
    if flips > allowed:
        most = f" (at most {allowed})" if allowed else ""
        over.append(f"{flips} of {images} verdicts differ{most}: {named(found.flipped)}")
    if over:
        raise error(f"the {format} artefact does not agree with torch: {'; '.join(over)}; nothing was kept")
    if sample.fallback and found.fallback:
        limits = sample.fallback.parity.tolerance
        off = [f"{k} {e:.2e}" for k, e in found.fallback.max_error.items() if not e <= limits.get(k, 0.0)]
        if off:
            raise ParityError(
                f"{sample.fallback.path}: the ONNX fallback does not agree with torch any more: {'; '.join(off)}; "
                "nothing was kept; remove it, and the export makes it anew"
            )
    return Parity(
        format=format,
        precision=precision,
        images_good=len(sample.good),
        images_defective=len(sample.defective),
        max_error=worst,
        tolerance={name: tolerance[name] for name in worst},
        verdict_flips=flips,
    )


def named(flips: tuple[Flip, ...]) -> str:
    """The first flips, by image and with both scores."""
    more = f" and {len(flips) - NAMED} more" if len(flips) > NAMED else ""
    return ", ".join(map(str, flips[:NAMED])) + more


def _differs(expected: NDArray[np.float32], got: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Which verdicts differ, (B,): all of them where there is not one score an image."""
    if expected.shape != got.shape:
        return np.ones(expected.shape, np.bool_)
    return np.asarray((expected > threshold) != (got > threshold))


def _widen(worst: dict[str, float], expected: Values, got: Values, unit: float) -> None:
    for name, before in worst.items():
        worst[name] = max(before, _error(name, expected[name], got[name], unit))


def _error(name: str, expected: NDArray[np.float32], got: NDArray[np.float32], unit: float) -> float:
    """Largest difference; infinite where shapes differ or a value is not finite."""
    if expected.shape != got.shape or not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return math.inf
    difference = np.abs(expected.astype(np.float64) - got)
    if name == "reconstruction":
        return float(difference.max())
    size = np.maximum(1.0, np.abs(expected))
    return float((difference / size).max()) / (unit if name == "score" else 1.0)
