"""Test images into the model, and its maps back to the size of the pictures, where they meet the masks.

Pictures with a side over 1024 px are compared at 1024: there a pixel of the mask is defective if any of the pixels in it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vtad.data.layout import GOOD, DataError, TestImage
from vtad_runtime.contract.card import Input
from vtad_runtime.contract.fit import Placement, fit_image, resize, unfit_map
from vtad_runtime.contract.image import ImageError, read_mask, read_picture

LONGEST_SIDE = 1024  # pixels

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


def fitted(image: TestImage, spec: Input) -> tuple[NDArray[np.uint8], Placement, str | None]:
    """The picture (H, W, 3) as the model takes it, and why it is not to be trusted, if so. Raises DataError."""
    try:
        picture = read_picture(image.path, spec.full_scale)
        return *fit_image(picture.rgb, spec), picture.doubt
    except ImageError as e:
        raise DataError(f"{e}; vtad-data check finds every such file") from e


def at_source(image: TestImage, placement: Placement, maps: Sequence[Map]) -> tuple[list[Map], Mask | None]:
    """The maps, and the mask of the same size; None for a defective picture that nobody marked. Raises DataError."""
    height, width = placement.source_height, placement.source_width
    mask = np.zeros((height, width), np.bool_) if image.kind == GOOD else _mask(image, width, height)
    found = [unfit_map(m, placement) for m in maps]
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
    if shrink == 1:
        return found, mask
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return [resize(m, *size) for m in found], None if mask is None else resize(mask.astype(np.float32), *size) > 0


def _mask(image: TestImage, width: int, height: int) -> Mask | None:
    if image.mask is None:
        return None
    try:
        mask = read_mask(image.mask)
    except ImageError as e:
        raise DataError(str(e)) from e
    if mask.shape != (height, width):
        raise DataError(
            f"{image.mask}: expected a mask of {width}x{height} pixels like {image.path.name}, "
            f"got {mask.shape[1]}x{mask.shape[0]}"
        )
    return mask
