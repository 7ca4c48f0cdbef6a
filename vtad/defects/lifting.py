"""Parts lifted out of a picture, their place filled, and laid elsewhere."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad.defects.damage import RGB, VISIBLE, Float, difference
from vtad.defects.parts import Part

Mask = NDArray[np.bool_]

CHANGED = 2 * VISIBLE[1]  # levels of 255 by which a part must stand out from what fills its position
INPAINTED = 40  # pixels a side, to which what is inpainted is shrunk: what fills a hole is smooth
SOURCES = 16  # positions whose surroundings are compared with those of a hole
ALIKE = 14.0  # levels of 255 by which the surroundings of such a position may differ
MARGIN = 12  # pixels around a part that are seen when it is filled


class Box(NamedTuple):
    """A part of a picture."""

    rows: slice
    columns: slice


class Lifted(NamedTuple):
    """A part that was taken out of a picture."""

    without: RGB  # (H, W, 3), the picture with a filled hole in its stead
    content: Float  # (h, w, 3), of its box
    opacity: Float  # (h, w), 0..1
    x: int
    y: int


def lift(rgb: RGB, part: Part, reach: float, rng: np.random.Generator) -> Lifted | None:
    """Take a part out. None where it looks like what is around it, or fills most of what could fill its place."""
    height, width = rgb.shape[:2]
    grown = round(min(reach, 8)) + 3  # it does not lie quite where the others do
    margin = MARGIN + grown
    x, y = max(0, part.x - margin), max(0, part.y - margin)
    right, below = min(width, part.x + part.size[0] + margin), min(height, part.y + part.size[1] + margin)
    hole = np.zeros((below - y, right - x), np.uint8)
    hole[part.y - y : part.y - y + part.size[1], part.x - x : part.x - x + part.size[0]] = part.mask
    round_ink = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grown + 1, 2 * grown + 1))
    hole = np.asarray(cv2.dilate(hole, round_ink), np.uint8)
    under = rgb[y:below, x:right]
    filled = _filled(rgb, under, hole, x, y, rng)
    stands_out = (difference(under, filled, CHANGED) & (hole > 0)).astype(np.uint8)
    matte = cv2.morphologyEx(stands_out, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    matte = cv2.morphologyEx(matte, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    if matte.sum() < 0.5 * part.mask.sum():
        return None
    without = rgb.copy()
    without[y:below, x:right] = filled
    return Lifted(without, np.asarray(under, np.float32), soft(matte > 0), x, y)


def _filled(rgb: RGB, under: RGB, hole: NDArray[np.uint8], x: int, y: int, rng: np.random.Generator) -> RGB:
    """A box of a picture at (x, y), its hole filled by what lies elsewhere in surroundings alike, else inpainted (Telea 2004)."""
    h, w = hole.shape
    ring = (cv2.dilate(hole, np.ones((9, 9), np.uint8)) > 0) & (hole == 0)
    opacity = soft(hole > 0)
    if rng.random() < 0.6 and ring.any():
        best, content = ALIKE, None
        for _ in range(SOURCES):
            left, top = int(rng.integers(rgb.shape[1] - w + 1)), int(rng.integers(rgb.shape[0] - h + 1))
            if abs(left - x) < 0.7 * w and abs(top - y) < 0.7 * h:
                continue  # it would bring the part itself
            there = rgb[top : top + h, left : left + w]
            apart = under[ring].astype(np.float32) - there[ring]
            cost = float(np.abs(apart).mean())
            if cost < best:
                best, content = cost, there + apart.mean(0)
        if content is not None:
            return mixed(under, content, opacity)
    scale = min(1.0, INPAINTED / max(h, w))
    size = (max(4, round(w * scale)), max(4, round(h * scale)))
    small_hole = np.asarray((cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0), np.uint8)
    small = cv2.inpaint(cv2.resize(under, size, interpolation=cv2.INTER_AREA), small_hole, 3, cv2.INPAINT_TELEA)
    smooth = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    grain = under.astype(np.float32) - cv2.GaussianBlur(under, (0, 0), 2.0)
    grain = rng.permutation(grain[ring]) if ring.any() else np.zeros((1, 3), np.float32)
    at = rng.integers(len(grain), size=(h, w))
    return mixed(under, smooth + np.clip(grain, -CHANGED, CHANGED)[at], opacity)


def laid(rgb: RGB, part: Lifted, x: int, y: int) -> RGB | None:
    """The picture with a lifted part laid at (x, y) of its box; None where less than half of it would be seen."""
    h, w = part.opacity.shape
    left, top = max(0, x), max(0, y)
    right, below = min(rgb.shape[1], x + w), min(rgb.shape[0], y + h)
    if right <= left or below <= top:
        return None
    seen = (slice(top - y, below - y), slice(left - x, right - x))
    if part.opacity[seen].sum() < 0.5 * part.opacity.sum():
        return None
    out = rgb.copy()
    out[top:below, left:right] = mixed(rgb[top:below, left:right], part.content[seen], part.opacity[seen])
    return out


def centred(part: Lifted, on: Lifted) -> tuple[int, int]:
    """Where a lifted part lies when its middle is that of another one."""
    (h, w), (oh, ow) = part.opacity.shape, on.opacity.shape
    return round(on.x + (ow - w) / 2), round(on.y + (oh - h) / 2)


def box_of(part: Part) -> Box:
    """Where a part lies."""
    return Box(slice(part.y, part.y + part.size[1]), slice(part.x, part.x + part.size[0]))


def mean_colour(under: RGB, mask: Mask) -> Float:
    """Colour (3,) of the pixels (h, w, 3) of a mask."""
    found: Float = np.asarray(cv2.mean(under, mask.astype(np.uint8))[:3], np.float32)
    return found


def soft(mask: Mask) -> Float:
    """A mask with an edge of a pixel or two, 0..1."""
    edged: Float = np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8), np.float32)
    return edged


def mixed(under: RGB, over: RGB | Float, opacity: Float) -> RGB:
    """`over` laid upon `under`, (h, w, 3) each, as far as it is opaque."""
    both = under + (over.astype(np.float32) - under) * opacity[..., None]
    result: RGB = np.rint(np.clip(both, 0, 255)).astype(np.uint8)
    return result
