"""How far good parts lie from one another: pairs of good pictures, registered by phase correlation.

After Kuglin and Hines (1975). The correlation of two pictures of parts that lie alike is one peak, at their shift. Its response
is the share of the correlation that lies there: near 1 for the same picture twice, near 0 for textures and for parts that
are turned against one another, which no shift brings together.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad.config import Config
from vtad.data.images import ImageCache, evenly

RGB = NDArray[np.uint8]

SIDE = 192  # pixels of the longer side, at which pictures are compared
MOST = 48  # pictures at most
ALIGNED = 0.4  # median response from which pictures are of parts that lie alike
FOUND = 0.7  # correlation from which a pair shows the same once it is brought together; else its shift is chance
QUANTILE = 0.95  # of the shifts: further away lies one picture of twenty
ADDED = 0.5  # of it: two pictures lie so far apart, one lies half as far from the middle, and its own shift is in it already
SHIFT = (0.005, 0.12)  # least and most that pictures are shown shifted by; a share of the side
LOOSE = 0.06  # for pictures that no shift brings together: it is not known from them


class Registration(NamedTuple):
    """What pairs of good pictures say."""

    response: float  # the median, 0..1
    # Of the pairs that were `FOUND`, `QUANTILE` of the larger of both directions, a share of the picture's side.
    shift: float

    @property
    def aligned(self) -> bool:
        """Whether the pictures show parts that lie alike."""
        return self.response >= ALIGNED


def with_shift(config: Config, images: ImageCache) -> tuple[Config, str]:
    """The configuration with the range of shifts filled in, from training images; itself where it is given. And one line."""
    if config.shift is not None:
        return config, f"shift: pictures are shown shifted by up to {config.shift:.1%} of their sides, as given"
    found = registered(some(images))
    if not found.aligned:
        why = f"good parts are turned or loose ({found.response:.2f} of their correlation in one peak)"
        return dataclasses.replace(
            config, shift=LOOSE
        ), f"shift: {why}: shown shifted by up to {LOOSE:.1%} of their sides"
    shift = round(min(max(ADDED * found.shift, SHIFT[0]), SHIFT[1]), 4)
    text = f"shift: good parts lie up to {found.shift:.1%} of the picture's sides apart: shown shifted by up to {shift:.1%} more"
    return dataclasses.replace(config, shift=shift), text


def shift_of(config: Config) -> float:
    """By how much of their sides pictures are shown shifted; `LOOSE` where nothing was looked for."""
    return LOOSE if config.shift is None else config.shift


def some(images: ImageCache) -> RGB:
    """At most `MOST` of the images, evenly spread: (N, H, W, 3)."""
    return images[evenly(len(images), MOST)]


def registered(images: RGB) -> Registration:
    """Of good pictures (N, H, W, 3): each against another one. Fewer than two are of no use, and not aligned."""
    if len(images) < 2:
        return Registration(0.0, 0.0)
    seen = [_seen(image) for image in images]
    rows, columns = seen[0].shape
    window = cv2.createHanningWindow((columns, rows), cv2.CV_32F)
    apart = max(1, len(seen) // 3)  # neighbours in time may lie more alike than others
    shifts, responses = list[float](), list[float]()
    for i, one in enumerate(seen):
        other = seen[(i + apart) % len(seen)]
        (x, y), response = cv2.phaseCorrelate(one, other, window)
        responses.append(response)
        if _alike(one, other, x, y):
            shifts.append(max(abs(x) / columns, abs(y) / rows))
    return Registration(float(np.median(responses)), float(np.quantile(shifts, QUANTILE)) if shifts else 0.0)


def _alike(one: NDArray[np.float32], other: NDArray[np.float32], x: float, y: float) -> bool:
    """Whether two pictures (h, w) show the same where they overlap, once the other is moved back by its shift in pixels."""
    rows, columns = one.shape
    moved = cv2.warpAffine(other, np.array([[1, 0, -x], [0, 1, -y]]), (columns, rows))
    left, top = math.ceil(abs(x)), math.ceil(abs(y))
    both = [image[top : rows - top, left : columns - left] for image in (one, moved)]
    return bool(both[0].size) and float(cv2.matchTemplate(both[0], both[1], cv2.TM_CCOEFF_NORMED)[0, 0]) >= FOUND


def _seen(image: RGB) -> NDArray[np.float32]:
    """A picture (H, W, 3) as it is compared: small, grey, with mean 0."""
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    grey: NDArray[np.float32] = np.asarray(small, np.float32)
    grey -= grey.mean()
    return grey
