"""The proof of an export: torch and the artefact judge the same real good images and synthetic defects.

Every image is a file and comes through the runtime's own decoding; its pixels must be those of the training, bit for bit.
Maps are z-scores, and so are their errors; where a defect sends a map far above 1, they are relative to it, for that is what
float32 can promise. The score's error is relative to the spread of the calibration scores. A verdict that differs is
a flip, and one is too many unless more were allowed.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vtad.data.batches import batches
from vtad.data.images import ImageCache, split_good
from vtad.data.run_data import run_data
from vtad.data.synthetic_defects import synthetic
from vtad.inspection import input_spec
from vtad.models.detector import Detector, Judgement
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad_runtime.contract.card import Calibration, Card, Input, Parity
from vtad_runtime.contract.conformal import spread
from vtad_runtime.contract.errors import FAILED, VtadError
from vtad_runtime.contract.image import ImageError, fit_image, read_rgb

GOOD_IMAGES = 32
DEFECTIVE_IMAGES = 32
BATCH = 4
NAMED = 5  # flips that an error names
FLIP_SHARE = 0.01  # of the images, rounded up: verdicts that int8 may change, each named

TOLERANCE = {
    **dict.fromkeys(Judgement._fields, 5e-4),  # maps: z-scores
    "reconstruction": 1e-5,  # intensity
    "score": 1e-4,  # of the calibration spread
}

Pixels = NDArray[np.uint8]
Values = dict[str, NDArray[np.float32]]
Execute = Callable[[Pixels], Values]  # (B, 3, H, W) -> outputs by name


class ParityError(VtadError):
    """The artefact does not run or does not agree with torch. The message is one line: where and by how much."""

    exit_code = FAILED


class FlipError(ParityError):
    """The artefact agrees with torch within the tolerances, and yet more verdicts differ than may."""


def allowed_flips(precision: str, asked: int | None, images: int) -> int:
    """Verdicts that may differ: what was asked for, or none, or one in a hundred for int8."""
    if asked is not None:
        return asked
    return math.ceil(FLIP_SHARE * images) if precision == "int8" else 0


class Limits(dict[str, float]):
    """The largest error allowed, by output; and how many verdicts may differ."""

    def __init__(self, errors: dict[str, float], flips: int = 0) -> None:
        super().__init__(errors)
        self.flips = flips


@dataclass(frozen=True, eq=False)
class Twin:
    """The ONNX artefact of the same weights, held to the tolerances of its own proof."""

    path: Path
    execute: Execute
    parity: Parity


@dataclass(frozen=True, eq=False)
class Samples:
    """What the proof runs on, (N, H, W, 3) uint8 each; `files` are where the good ones come from."""

    good: Pixels
    defective: Pixels
    files: tuple[Path, ...] = ()
    note: str | None = None  # set when the images are not those of the training
    twin: Twin | None = None  # compared as well, where there is one

    def name(self, number: int) -> str:
        """What to call an image, the good ones first."""
        if number < len(self.files):
            return self.files[number].name
        good = number < len(self.good)
        kind, index = ("good image", number) if good else ("synthetic defect", number - len(self.good))
        base = self.files[index % len(self.files)].name if self.files and not good else ""
        return f"{kind} {index + 1}" + (f" on {base}" if base else "")

    def first(self, count: int) -> Samples:
        """At most `count` of each kind."""
        return dataclasses.replace(
            self, good=self.good[:count], defective=self.defective[:count], files=self.files[:count]
        )


@dataclass(frozen=True, eq=False)
class Material:
    """A run, loaded once for all artefacts that are made of it."""

    run: Run
    card: Card
    detector: Detector
    sample: Samples
    data: Path | None  # where the images were asked for; None: where the run was trained from


def load_material(run: Run, data: Path | str | None = None) -> Material:
    """Raises RunError, CardError, DataError."""
    card = run.card()
    where = Path(data) if data else None
    return Material(run, card, load_detector(run), samples(run, where), where)


def samples(run: Run, data: Path | None = None) -> Samples:
    """Held-out good images of the run and synthetic defects on them. Raises DataError when the images are not there."""
    config, found = run.config(), run_data(run, data)
    files = found.files
    _, held_out = split_good(files.train_good, config.val_split, config.seed)
    chosen = held_out[:GOOD_IMAGES]
    with ImageCache(chosen, input_spec(config)) as images:
        good = images[:]
    return Samples(good, synthetic(good, DEFECTIVE_IMAGES, config.seed + 1)[0], tuple(chosen), found.note)


@contextmanager
def image_files(sample: Samples) -> Iterator[list[Path]]:
    """A file for every image, the good ones first: theirs, or one written without loss for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="vtad-proof-") as folder:
        written = []
        images = np.concatenate([sample.good[len(sample.files) :], sample.defective])
        for number, pixels in enumerate(images):
            path = Path(folder) / f"{number:04d}.png"
            Image.fromarray(pixels).save(path, compress_level=1)
            written.append(path)
        yield [*sample.files, *written]


def decoded(file: Path, spec: Input, trained_on: Pixels) -> Pixels:
    """A file through the runtime's decoding, (H, W, 3). Raises ParityError where that is not the training's, bit for bit."""
    try:
        pixels, _ = fit_image(read_rgb(file), spec)
    except ImageError as e:
        raise ParityError(f"{e}; nothing was kept") from e
    if not np.array_equal(pixels, trained_on):
        raise ParityError(f"{file}: the runtime's pixels are not those of the training; nothing was kept")
    return pixels


def check_pixels(sample: Samples, spec: Input) -> None:
    """Decode a file for every image. Raises ParityError where its pixels are not the training's."""
    with image_files(sample) as files:
        for file, pixels in zip(files, np.concatenate([sample.good, sample.defective]), strict=True):
            decoded(file, spec, pixels)


@dataclass(frozen=True)
class Flip:
    """An image judged differently."""

    image: str
    expected: float  # torch's score
    got: float

    def __str__(self) -> str:
        return f"{self.image} ({self.expected:.4g} in torch, {self.got:.4g})"


@dataclass(frozen=True)
class TwinComparison:
    """The same of the ONNX twin, and how it and the artefact differ."""

    max_error: dict[str, float]  # twin and torch
    apart: dict[str, float]  # largest differences of twin and artefact
    flips: int  # verdicts on which twin and artefact differ


@dataclass(frozen=True)
class Comparison:
    """What running both on all samples showed."""

    max_error: dict[str, float]
    near: int  # images whose score in torch is nearer to the threshold than the score may drift
    flipped: tuple[Flip, ...]  # all verdicts that differ, by image
    twin: TwinComparison | None


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
    return accept(found, sample, format=format, precision=precision, tolerance=tolerance)


def compare(
    detector: Detector, execute: Execute, sample: Samples, calibration: Calibration, tolerance: dict[str, float]
) -> Comparison:
    """Run both on all samples, and the ONNX twin where the samples have one, and measure."""
    worst, twin_worst, apart = (dict.fromkeys(Judgement._fields, 0.0) for _ in range(3))
    flipped: list[Flip] = []
    near = twin_flips = 0
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
        if sample.twin:
            third = sample.twin.execute(batch.numpy())
            _widen(twin_worst, expected, third, unit)
            _widen(apart, third, got, unit)
            twin_flips += int(_differs(third["score"], got["score"], threshold).sum())
    return Comparison(
        worst,
        near,
        tuple(flipped),
        TwinComparison(twin_worst, apart, twin_flips) if sample.twin else None,
    )


def accept(
    found: Comparison,
    sample: Samples,
    *,
    format: str,
    precision: str,
    tolerance: dict[str, float],
    tests: int = 0,
) -> Parity:
    """The card's entry. Raises ParityError: more flips than `tolerance` allows, an error over it, or a twin that is off.

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
    if sample.twin and found.twin:
        limits = sample.twin.parity.tolerance
        off = [f"{k} {e:.2e}" for k, e in found.twin.max_error.items() if not e <= limits.get(k, 0.0)]
        if off:
            raise ParityError(
                f"{sample.twin.path}: the ONNX twin does not agree with torch any more: {'; '.join(off)}; nothing was kept; "
                "remove it, and the export makes it anew"
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
