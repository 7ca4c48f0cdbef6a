"""The model's input size, chosen from the good images by one rule, so that nobody tunes it for a category.

The shape is that of the median picture, so that little is squeezed; the number of pixels is the configuration's, but never more
than the median picture has: enlarging adds cost and no detail. Sides are multiples of 16.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from vtad.config import Config
from vtad.data.layout import DataError
from vtad_runtime.contract.image import ImageError, image_size

STEP = 16  # pixels
SMALLEST = 64  # pixels a side
LONGEST = 4.0  # the longer side is at most so many times the shorter


def with_size(config: Config, files: Sequence[Path]) -> Config:
    """The configuration with its input size filled in; itself when it is given. Raises DataError naming an unreadable file."""
    if config.size == "given":
        return config
    height, width = chosen_size(sizes_of(files), config.image_height * config.image_width)
    return dataclasses.replace(config, size="given", image_height=height, image_width=width).check()


def sizes_of(files: Sequence[Path]) -> list[tuple[int, int]]:
    """(width, height) of each picture, from its headers. Raises DataError naming an unreadable file."""
    try:
        return [image_size(file) for file in files]
    except ImageError as e:
        raise DataError(f"{e}; vtad-data check finds every such file") from e


def chosen_size(sizes: Sequence[tuple[int, int]], pixels: int) -> tuple[int, int]:
    """(height, width) of the input for pictures of (width, height) each, with about `pixels` pixels or fewer."""
    shape = min(max(median(width / height for width, height in sizes), 1 / LONGEST), LONGEST)
    area = min(pixels, median(width * height for width, height in sizes))
    return _side(math.sqrt(area / shape)), _side(math.sqrt(area * shape))


def _side(length: float) -> int:
    return max(SMALLEST, round(length / STEP) * STEP)
