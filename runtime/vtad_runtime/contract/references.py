"""Reference pictures: a few pictures with torch's outputs, inside the model, so that any engine on any machine can be checked.

One JSON text, in ONNX `metadata_props["vtad.references"]` and in a Core ML package's user-defined metadata, at most 1.5 MB.
Pictures are the model's input, as WebP without loss. Scores are whole; maps and reconstruction are kept at every 16th pixel,
which is enough to see that an engine computes them.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtad_runtime.contract.card import Calibration, Card
from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.contract.image import ImageError, decode_rgb
from vtad_runtime.contract.threshold.conformal import spread
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed

SCHEMA = 1
STEP = 16  # pixels
REDUCED = 0.15  # spreads of the calibration scores, that rounding to 16 bits may move a score; see vtad_export.proof.tolerance
LARGEST = sys.float_info.max  # an error without a limit is a number all the same


class ReferencesError(VtadError):
    """Reference pictures that are damaged or not of this model. One line."""


@dataclass(frozen=True)
class _Picture:
    """One picture in the text."""

    name: str
    defective: bool
    webp: str  # base64
    score: float
    sampled: dict[str, str]  # by output: base64 of float32, little endian, row by row


@dataclass(frozen=True)
class _Text:
    """What the JSON text holds."""

    schema: int
    weights_sha256: str
    step: int  # pixels between samples; the first lies half of it from the edge
    pictures: tuple[_Picture, ...]


@dataclass(frozen=True, eq=False)
class References:
    """N pictures, and what torch says of them."""

    names: tuple[str, ...]
    defective: tuple[bool, ...]
    pixels: NDArray[np.uint8]  # (N, 3, H, W) RGB, as the graph takes them
    expected: dict[str, NDArray[np.float32]]  # score (N,); (N, h, w) and (N, 3, h, w) at every 16th pixel
    weights_sha256: str  # of the checkpoint that torch ran

    def to_text(self) -> str:
        """As JSON; `from_text` gives the same back."""
        maps = {name: values for name, values in self.expected.items() if name != "score"}
        pictures = tuple(
            _Picture(
                name,
                self.defective[i],
                _base64(as_webp(self.pixels[i])),
                float(self.expected["score"][i]),
                {key: _base64(values[i].astype("<f4").tobytes()) for key, values in maps.items()},
            )
            for i, name in enumerate(self.names)
        )
        text = _Text(SCHEMA, self.weights_sha256, STEP, pictures)
        return json.dumps(dataclasses.asdict(text), separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_text(text: str, card: Card, where: str) -> References:
        """The pictures in a model with this card; `where` names it in errors. Raises ReferencesError."""
        try:
            stored = typed(_Text, parsed(text), "references")
            return _decoded(stored, card)
        except (WrongJson, ImageError, ValueError) as e:
            raise ReferencesError(
                f"{where}: expected whole reference pictures inside, got {one_line(e)}; copy the file again"
            ) from e


def sampled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every 16th pixel of maps (N, H, W) or pictures (N, 3, H, W); scores (N,) as they are."""
    return values if values.ndim == 1 else values[..., STEP // 2 :: STEP, STEP // 2 :: STEP]


def largest_error(
    name: str, expected: NDArray[np.float32], got: NDArray[np.float32], calibration: Calibration
) -> float:
    """Of an output: spreads of the calibration scores, z-scores or intensity; infinite for another shape or what is no number.

    Up to the level at which an output decides, an error counts in full: |a - b|. Beyond, it is relative: |a - b| level / |a|.
    """
    if expected.shape != got.shape or not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return math.inf
    difference = np.abs(expected.astype(np.float64) - got)
    if name == "reconstruction":
        return float(difference.max())
    unit, decides = (
        (spread(calibration.scores), calibration.threshold) if name == "score" else (1.0, calibration.pixel_threshold)
    )
    level = max(decides, unit)
    return float((difference / np.maximum(1.0, np.abs(expected) / level)).max()) / unit


def as_webp(pixels: NDArray[np.uint8]) -> bytes:
    """(3, H, W) as a WebP file without loss."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "WEBP", lossless=True, quality=80)
    return file.getvalue()


def _decoded(stored: _Text, card: Card) -> References:
    """Raises ValueError, ImageError."""
    width, height = card.input.width, card.input.height
    if (stored.schema, stored.step) != (SCHEMA, STEP):
        raise ValueError(f"schema {stored.schema} with every {stored.step}th pixel; vtad of that version reads it")
    if stored.weights_sha256 != card.weights_sha256:
        raise ValueError("those of other weights")
    if not stored.pictures:
        raise ValueError("none")
    pictures = []
    for picture in stored.pictures:
        rgb = decode_rgb(_bytes(picture.webp), picture.name, ("WEBP",))
        if rgb.shape != (height, width, 3):
            raise ValueError(f"{picture.name} of {rgb.shape[1]}x{rgb.shape[0]} for an input of {width}x{height}")
        pictures.append(rgb.transpose(2, 0, 1))
    grid = (len(range(STEP // 2, height, STEP)), len(range(STEP // 2, width, STEP)))
    expected = {"score": np.array([picture.score for picture in stored.pictures], np.float32)}
    for name in stored.pictures[0].sampled:
        shape = (3, *grid) if name == "reconstruction" else grid
        values = [np.frombuffer(_bytes(picture.sampled.get(name, "")), "<f4") for picture in stored.pictures]
        expected[name] = np.stack([v.reshape(shape) for v in values]).astype(np.float32)
    return References(
        tuple(picture.name for picture in stored.pictures),
        tuple(picture.defective for picture in stored.pictures),
        np.stack(pictures),
        expected,
        stored.weights_sha256,
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    """Raises ValueError: not base64."""
    return base64.b64decode(text, validate=True)
