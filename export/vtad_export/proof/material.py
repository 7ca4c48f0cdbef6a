"""What a proof runs on: a run, loaded once, its held-out good images, synthetic defects on them, and the category's test images.

Every image is a file and comes through the runtime's own decoding; its pixels must be those of the training, bit for bit.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtad.data.images import ImageCache, split_good
from vtad.data.layout import TestImage
from vtad.data.run_data import run_data
from vtad.defects.damage import synthetic
from vtad.inspection import input_spec, without_places
from vtad.models.detector import Detector
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad_export.proof.errors import ParityError
from vtad_export.proof.grading import Graded, graded, shortage
from vtad_export.proof.references import references_text
from vtad_runtime.contract.card import Card, Input, Parity
from vtad_runtime.contract.fit import read_fitted
from vtad_runtime.contract.image import ImageError

GOOD_IMAGES = 24
DEFECTIVE_IMAGES = 16

Pixels = NDArray[np.uint8]
Values = dict[str, NDArray[np.float32]]
Execute = Callable[[Pixels], Values]  # (B, 3, H, W) -> outputs by name


@dataclass(frozen=True, eq=False)
class Fallback:
    """The ONNX artefact of the same weights and threshold, held to the tolerances of its own proof."""

    path: Path
    execute: Execute
    parity: Parity


@dataclass(frozen=True, eq=False)
class Samples:
    """What the proof runs on, (N, H, W, 3) uint8 each; `files` are where the good ones come from."""

    good: Pixels
    defective: Pixels
    files: tuple[Path, ...] = ()
    tests: tuple[TestImage, ...] = ()  # the category's, none where there are none
    note: str | None = None  # set when the images are not those of the training, or few lie near the threshold
    graded: tuple[Graded, ...] = ()  # near the threshold
    fallback: Fallback | None = None  # compared as well, where there is one

    @property
    def images(self) -> Pixels:
        """All of them, (N, H, W, 3): the good ones, the defective ones, the graded ones."""
        return np.concatenate([self.good, self.defective, *(g.pixels[None] for g in self.graded)])

    @property
    def ungraded(self) -> int:
        """How many are good or defective as they are."""
        return len(self.good) + len(self.defective)

    def name(self, number: int) -> str:
        """What to call an image, by its place in `images`."""
        if number >= self.ungraded:
            return self.graded[number - self.ungraded].name
        if number < len(self.files):
            return self.files[number].name
        good = number < len(self.good)
        kind, index = ("good image", number) if good else ("synthetic defect", number - len(self.good))
        base = self.files[index % len(self.files)].name if self.files and not good else ""
        return f"{kind} {index + 1}" + (f" on {base}" if base else "")

    def first(self, count: int) -> Samples:
        """At most `count` of each kind."""
        return dataclasses.replace(
            self,
            good=self.good[:count],
            defective=self.defective[:count],
            files=self.files[:count],
            graded=self.graded[:count],
        )


@dataclass(frozen=True, eq=False)
class Material:
    """A run, loaded once for all artefacts that are made of it."""

    run: Run
    card: Card
    detector: Detector
    sample: Samples
    references: str | None  # the text of the reference pictures that artefacts carry


def load_material(run: Run, data: Path | str | None = None, *, references: bool = True) -> Material:
    """Without `references` artefacts carry no reference pictures. Raises RunError, CardError, DataError."""
    card = run.card()
    config = without_places(card.identity.config)  # the cards of older runs have paths
    card = dataclasses.replace(card, identity=dataclasses.replace(card.identity, config=config))
    detector, sample, text = load_detector(run), samples(run, Path(data) if data else None), None
    if references:
        text = references_text(detector, sample.good, sample.defective, sample.name, card.weights_sha256)
    names = [sample.name(i) for i in range(sample.ungraded)]
    near = graded(detector, card.calibration, sample.good, sample.defective, names)
    note = "; ".join(filter(None, (sample.note, shortage(near)))) or None
    return Material(run, card, detector, dataclasses.replace(sample, graded=near, note=note), text)


def samples(run: Run, data: Path | None = None) -> Samples:
    """Held-out good images of the run and synthetic defects on them. Raises DataError when the images are not there."""
    config, found = run.config(), run_data(run, data)
    _, held_out = split_good(found.files.train_good, config.val_split, config.seed)
    chosen = held_out[:GOOD_IMAGES]
    with ImageCache(chosen, input_spec(config)) as images:
        good = images[:]
    defective, _ = synthetic(good, DEFECTIVE_IMAGES, config.seed + 1)
    return Samples(good, defective, tuple(chosen), found.files.test, found.note)


@contextmanager
def image_files(sample: Samples) -> Iterator[list[Path]]:
    """A file for every image, the good ones first: theirs, or one written without loss for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="vtad-proof-") as folder:
        written = []
        for number, pixels in enumerate(sample.images[len(sample.files) :]):
            path = Path(folder) / f"{number:04d}.png"
            try:
                Image.fromarray(pixels).save(path, compress_level=1)
            except OSError as e:  # a full disk says not where
                raise OSError(e.errno, e.strerror or str(e), str(path)) from e
            written.append(path)
        yield [*sample.files, *written]


def decoded(file: Path, spec: Input, trained_on: Pixels) -> Pixels:
    """A file through the runtime's decoding, (H, W, 3). Raises ParityError where that is not the training's, bit for bit."""
    try:
        pixels, _ = read_fitted(file, spec)
    except ImageError as e:
        raise ParityError(f"{e}; nothing was kept") from e
    if not np.array_equal(pixels, trained_on):
        raise ParityError(f"{file}: the runtime's pixels are not those of the training; nothing was kept")
    return pixels


def check_pixels(sample: Samples, spec: Input) -> None:
    """Decode a file for every image. Raises ParityError where its pixels are not the training's."""
    with image_files(sample) as files:
        for file, pixels in zip(files, sample.images, strict=True):
            decoded(file, spec, pixels)
