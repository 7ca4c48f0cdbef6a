"""The proof of an export: torch and the artefact judge the same real good images and synthetic defects.

The score's error is in spreads of the calibration scores, those of the maps are z-scores: in full up to the level at which they
decide, the threshold and the pixel threshold; relative to that level beyond it, where a defect sends a map to a hundred and
float32 itself promises no more. What only is looked at may be off as far as `rounding` moves it. A verdict that differs is a
flip, and one is too many unless more were allowed. Not so on images that were graded to lie at the threshold: there any error can
flip a verdict, and the error itself is what is held to its limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.data.batches import batches
from vtad.models.detector import Detector, Judgement
from vtad_export.proof.errors import ParityError, RoundingError
from vtad_export.proof.material import Execute, Samples, Values
from vtad_export.proof.rounding import nudged
from vtad_export.proof.tolerance import COMPRESSED, TOLERANCE, Limits
from vtad_runtime.contract.card import Calibration, Near, Parity
from vtad_runtime.contract.references import LARGEST, largest_error
from vtad_runtime.contract.threshold.conformal import spread

BATCH = 4
NAMED = 5  # flips that an error names
ROUNDINGS = 4  # times what rounding alone moves, an output may be off that decides nothing
FLOAT16_FORMATS = ("coreml", "coreai")  # they compute in float16 in all precisions but fp32, and that may overflow
FAULT = "install the versions of constraints.txt and export again, or report it"


@dataclass(frozen=True)
class Flip:
    """An image judged differently."""

    image: str
    expected: float  # torch's score
    got: float
    near: bool = False  # whether it was graded to lie near the threshold

    def __str__(self) -> str:
        return f"{self.image} ({self.expected:.4g} in torch, {self.got:.4g})"


@dataclass(frozen=True)
class FallbackComparison:
    """The same of the ONNX fallback, and how it and the artefact differ."""

    max_error: dict[str, float]  # fallback and torch
    apart: dict[str, float]  # largest differences of fallback and artefact
    flips: int  # verdicts on which fallback and artefact differ, but for graded images


@dataclass(frozen=True)
class Comparison:
    """What running both on all samples showed."""

    max_error: dict[str, float]
    scores: NDArray[np.float32]  # torch's, by image
    near: Near | None  # on the graded images, where there are any
    flipped: tuple[Flip, ...]  # all verdicts that differ, by image
    fallback: FallbackComparison | None
    # How far that alone moves outputs that decide nothing, if they are over the limits of float32.
    rounding: dict[str, float]
    faulty: frozenset[str]  # outputs that are not of torch's shape, or no numbers in torch: no matter of precision


def compare(
    detector: Detector, execute: Execute, sample: Samples, calibration: Calibration, tolerance: Mapping[str, float]
) -> Comparison:
    """Run both on all samples, and the ONNX fallback where the samples have one, and measure."""
    worst, fallback_worst, apart = (dict.fromkeys(Judgement._fields, 0.0) for _ in range(3))
    flipped: list[Flip] = []
    scores: list[NDArray[np.float32]] = []
    fallback_flips, near_error = 0, 0.0
    faulty: set[str] = set()
    for number, batch in enumerate(batches(sample.images, torch.device("cpu"), BATCH, "proving")):
        with torch.inference_mode():
            expected = {k: v.numpy() for k, v in detector(batch)._asdict().items()}
        got = execute(batch.numpy())
        _widen(worst, expected, got, calibration)
        faulty |= {k for k, v in expected.items() if v.shape != got[k].shape or not np.isfinite(v).all()}
        score, threshold = expected["score"], calibration.threshold
        graded = np.arange(number * BATCH, number * BATCH + len(batch)) >= sample.ungraded
        differs = _differs(score, got["score"], threshold)
        scores.append(score)
        if graded.any():
            near_error = max(near_error, largest_error("score", score[graded], got["score"][graded], calibration))
        flipped += [
            Flip(sample.name(number * BATCH + int(i)), float(score[i]), float(got["score"].flat[i]), bool(graded[i]))
            for i in np.flatnonzero(differs)
        ]
        if sample.fallback:
            third = sample.fallback.execute(batch.numpy())
            _widen(fallback_worst, expected, third, calibration)
            _widen(apart, third, got, calibration)
            fallback_flips += int((_differs(third["score"], got["score"], threshold) & ~graded).sum())
    judged = np.concatenate(scores)
    return Comparison(
        worst,
        judged,
        _near(judged[sample.ungraded :], near_error, sum(flip.near for flip in flipped), calibration),
        tuple(flipped),
        FallbackComparison(fallback_worst, apart, fallback_flips) if sample.fallback else None,
        _rounding(detector, sample, calibration, worst, tolerance),
        frozenset(faulty),
    )


def _rounding(
    detector: Detector,
    sample: Samples,
    calibration: Calibration,
    worst: Mapping[str, float],
    tolerance: Mapping[str, float],
) -> dict[str, float]:
    """By output that decides nothing and is off by more than the limit of float32, if that is its limit."""
    weights = {"ssim_map": detector.ssim_weight, "density_map": detector.density_weight}
    looked_at = ["reconstruction", *(name for name, weight in weights.items() if weight == 0)]
    over = [name for name in looked_at if worst[name] > TOLERANCE[name] == tolerance.get(name)]
    if not over:
        return {}
    moved = compare(detector, nudged(detector), dataclasses.replace(sample, fallback=None), calibration, {}).max_error
    return {name: moved[name] for name in over}


def accept(
    found: Comparison,
    sample: Samples,
    *,
    format: str,
    precision: str,
    tolerance: Mapping[str, float],
    tests: int = 0,
) -> Parity:
    """The card's entry. Raises ParityError: an error over `tolerance`, more flips than it allows, or a fallback that is off.

    RoundingError where that is a matter of the precision.

    `tests`: test images that were judged besides the samples, whose flips are among those found.
    """
    flipped = tuple(flip for flip in found.flipped if not flip.near)
    flips, images = len(flipped), sample.ungraded + tests
    worst = found.max_error
    limit = {**tolerance, **{k: max(tolerance[k], ROUNDINGS * moved) for k, moved in found.rounding.items()}}
    over = [
        f"{name} {error:.2e}" + (f" (at most {limit[name]:.2g})" if name in limit else "")
        for name, error in worst.items()
        if not error <= limit.get(name, LARGEST)
    ]
    allowed = tolerance.flips if isinstance(tolerance, Limits) else 0
    if flips > allowed:
        most = f" (at most {allowed})" if allowed else ""
        over.append(f"{flips} of {images} verdicts differ{most}: {named(flipped)}")
    if over:
        finite = all(map(math.isfinite, worst.values()))
        rounded = precision != "fp32" and (finite or (format in FLOAT16_FORMATS and not found.faulty))
        error = RoundingError if rounded else ParityError
        remedy = _remedy(found, format, precision, limit, flips if flips > allowed else 0) if rounded else FAULT
        raise error(f"the {format} artefact does not agree with torch: {'; '.join(over)}; {remedy}; nothing was kept")
    if sample.fallback and found.fallback:
        limits = sample.fallback.parity.tolerance
        off = [f"{k} {e:.2e}" for k, e in found.fallback.max_error.items() if not e <= limits.get(k, LARGEST)]
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
        tolerance={name: limit[name] for name in worst if name in limit},
        verdict_flips=flips,
        near=found.near,
        images_test=tests,
    )


def _near(scores: NDArray[np.float32], error: float, flips: int, calibration: Calibration) -> Near | None:
    """Of the graded images, whose scores in torch are (N,)."""
    if len(scores) == 0:
        return None
    above = int((scores > calibration.threshold).sum())
    nearest = float(np.abs(scores - calibration.threshold).min()) / spread(calibration.scores)
    return Near(len(scores) - above, above, nearest, error, flips)


def _remedy(found: Comparison, format: str, precision: str, tolerance: Mapping[str, float], flips: int) -> str:
    """What to do where rounding moved too much: a finer precision, or options that allow what was found."""
    if not all(map(math.isfinite, found.max_error.values())):
        return "float16 overflows: export with --precision fp32"
    finer = "fp16" if format == "coreml" and precision in COMPRESSED else "fp32"
    allow = [
        f"--tolerance {name}={_rounded_up(error):g}"
        for name, error in found.max_error.items()
        if error > tolerance.get(name, LARGEST)
    ]
    if flips:
        allow.append(f"--max-flips {flips}")
    return f"{precision} is too coarse for this run: export with --precision {finer}, or allow it: {' '.join(allow)}"


def _rounded_up(error: float) -> float:
    """To two digits."""
    digit: float = 10.0 ** (math.floor(math.log10(error)) - 1)
    return math.ceil(error / digit) * digit


def named(flips: tuple[Flip, ...]) -> str:
    """The first flips, by image and with both scores."""
    more = f" and {len(flips) - NAMED} more" if len(flips) > NAMED else ""
    return ", ".join(map(str, flips[:NAMED])) + more


def _differs(expected: NDArray[np.float32], got: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Which verdicts differ, (B,): all of them where there is not one score an image."""
    if expected.shape != got.shape:
        return np.ones(expected.shape, np.bool_)
    return np.asarray((expected > threshold) != (got > threshold))


def _widen(worst: dict[str, float], expected: Values, got: Values, calibration: Calibration) -> None:
    for name, before in worst.items():
        worst[name] = max(before, largest_error(name, expected[name], got[name], calibration))
