"""The pixel path's second half: RGB to the input of a model, maps back to the source. Training uses it too.

Resizing is OpenCV's: INTER_AREA when an axis shrinks, INTER_LINEAR when it grows. Other resizers differ by up to 12 of
255 levels on fine texture, so nothing else in this repository may resize a picture that a model sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import Input
from vtad_runtime.contract.image import ImageError, read_rgb

Level = TypeVar("Level", np.uint8, np.float32)


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels."""

    x: int  # pixels from the left edge
    y: int  # pixels from the top edge
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an (H, W, ...) array."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class Placement:
    """Where the pixels of a source picture went: the box `used` of the source fills the box `inside` of the input."""

    source_width: int
    source_height: int
    used: Box  # in source pixels: the region of interest, less what a centre crop cuts off
    inside: Box  # in input pixels: everything but the padding of a letterbox


def read_fitted(path: Path, spec: Input) -> tuple[NDArray[np.uint8], Placement]:
    """A picture file as the model takes it: decoded by the full scale of the input, then `fit_image`. Raises ImageError."""
    return fit_image(read_rgb(path, spec.full_scale), spec)


def resize(array: NDArray[Level], width: int, height: int) -> NDArray[Level]:
    """Resize (H, W) or (H, W, C), uint8 or float32, to (height, width, ...) of the same kind.

    INTER_AREA when shrinking, INTER_LINEAR when growing; if one axis shrinks and the other grows, the shrinking one
    goes first. Raises ValueError for another dtype, rank or an empty size.
    """
    if array.dtype not in (np.uint8, np.float32) or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"resize: expected (H, W) or (H, W, C) of uint8 or float32, got {array.shape} {array.dtype}")
    if width < 1 or height < 1:
        raise ValueError(f"resize: expected a size of at least 1x1 pixels, got {width}x{height}")
    shape = (height, width, *array.shape[2:])
    result: NDArray[Any] = array
    for (w, h), shrinks in _passes(array.shape[1], array.shape[0], width, height):
        result = cv2.resize(np.ascontiguousarray(result), (w, h), interpolation=_interpolation(shrinks))
    return (result.copy() if result is array else result).reshape(shape)  # OpenCV drops a last axis of 1


def fit_image(rgb: NDArray[np.uint8], spec: Input) -> tuple[NDArray[np.uint8], Placement]:
    """Cut the region of interest out of (H, W, 3) uint8 and fit it to (spec.height, spec.width, 3) uint8.

    stretch: both axes to size. letterbox: aspect kept, centred on black. centre_crop: the largest centred part of the
    right aspect. Raises ImageError when the region of interest is not inside the picture.
    """
    placement = place(rgb.shape[1], rgb.shape[0], spec)
    inside = placement.inside
    part = resize(rgb[placement.used.slices], inside.width, inside.height)
    if inside == Box(0, 0, spec.width, spec.height):
        return part, placement
    fitted = np.zeros((spec.height, spec.width, 3), np.uint8)
    fitted[inside.slices] = part
    return fitted, placement


def fit_mask(mask: NDArray[np.bool_], spec: Input) -> NDArray[np.bool_]:
    """Fit a defect mask (H, W) bool the way `fit_image` fits its picture: (spec.height, spec.width) bool.

    Shrinking keeps every input pixel that a defect touches, so small defects do not vanish; growing takes the nearest.
    """
    placement = place(mask.shape[1], mask.shape[0], spec)
    inside, cut = placement.inside, mask[placement.used.slices]
    for (w, h), shrinks in _passes(cut.shape[1], cut.shape[0], inside.width, inside.height):
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST_EXACT
        cut = cv2.resize(cut.astype(np.float32), (w, h), interpolation=interpolation) > 0
    fitted = np.zeros((spec.height, spec.width), np.bool_)
    fitted[inside.slices] = cut
    return fitted


def unfit_map(values: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Bring a map of the model, (height, width) float32, back to the source, (H, W) float32; 0 where it saw nothing."""
    used = placement.used
    source = np.zeros((placement.source_height, placement.source_width), np.float32)
    source[used.slices] = resize(values[placement.inside.slices], used.width, used.height)
    return source


def place(source_width: int, source_height: int, spec: Input) -> Placement:
    """Where a picture of this size lands in the input. Raises ImageError: region of interest not inside the picture."""
    roi = Box(*spec.roi) if spec.roi is not None else Box(0, 0, source_width, source_height)
    fits = roi.x >= 0 and roi.y >= 0 and roi.x + roi.width <= source_width and roi.y + roi.height <= source_height
    if not fits or roi.width < 1 or roi.height < 1:
        raise ImageError(
            f"region of interest {roi.width}x{roi.height} at ({roi.x}, {roi.y}): expected it inside the picture, "
            f"got a picture of {source_width}x{source_height}; use pictures of the size the model was trained for"
        )
    used, inside = roi, Box(0, 0, spec.width, spec.height)
    if spec.fit == "letterbox":
        scale = min(spec.width / roi.width, spec.height / roi.height)
        inside = _centred(inside, round(roi.width * scale), round(roi.height * scale))
    elif spec.fit == "centre_crop":
        scale = max(spec.width / roi.width, spec.height / roi.height)
        used = _centred(roi, round(spec.width / scale), round(spec.height / scale))
    return Placement(source_width, source_height, used, inside)


def _centred(outer: Box, width: int, height: int) -> Box:
    """The box of this size in the middle of `outer`, at least one pixel and never larger than `outer`."""
    width, height = min(max(width, 1), outer.width), min(max(height, 1), outer.height)
    return Box(outer.x + (outer.width - width) // 2, outer.y + (outer.height - height) // 2, width, height)


def _passes(source_width: int, source_height: int, width: int, height: int) -> Iterator[tuple[tuple[int, int], bool]]:
    """The resizes from one size to another: ((width, height), shrinks). None, one, or shrink first and then grow."""
    smaller = (min(source_width, width), min(source_height, height))
    if smaller != (source_width, source_height):
        yield smaller, True
    if smaller != (width, height):
        yield (width, height), False


def _interpolation(shrinks: bool) -> int:
    return cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
