"""Synthetic defects for training: good pictures with something wrong in them, and where.

After CutPaste (arXiv 2104.04015: patches cut from elsewhere) and DRAEM (arXiv 2108.07610: thresholded noise filled with
a foreign texture), with thin lines, local colour changes, erased detail, dots, dents and displaced material added. Only the box
that a defect fills is touched, which keeps a 256 x 256 picture in the range of a millisecond on one core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]  # (H, W, 3)
Float = NDArray[np.float32]

# Levels of 255, of a dark and of a bright picture: a pixel belongs to the mask when one channel changed by more.
VISIBLE = (3, 6)
AREA = (0.0005, 0.10)  # smallest and largest share of the picture that the box of one defect takes
MOST_DEFECTS = 3  # in one picture
SMALLEST = 8  # pixels; a defect that changed fewer is drawn again
GREY = 4  # levels of 255 by which the channels of a grey picture may differ
TRIES = 4  # how often at most
FULL_RANGE = 160  # levels of 255 between the dark and the bright parts of a picture whose defects have full contrast
FAINTEST = 0.2  # share of it that the faintest defects have at least
BUSY = 0.5  # share of the defects that lie where contrast is above the median


class Images(Protocol):
    """Pictures (N, H, W, 3) uint8, in an array or a cache."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: NDArray[np.int64], /) -> RGB: ...


@dataclass(frozen=True)
class Patch:
    """One defect: what to lay over the box at (x, y), and how strongly."""

    x: int  # pixels from the left edge
    y: int  # pixels from the top edge
    content: Float  # (h, w, 3), 0..255
    opacity: Float  # (h, w), 0..1

    def without_colour(self) -> Patch:
        """The same in grey: what a grey camera would see of it."""
        content = np.broadcast_to(self.content.mean(axis=2, keepdims=True), self.content.shape)
        return dataclasses.replace(self, content=content)

    def on(self, rgb: RGB) -> RGB:
        """A copy of the picture (H, W, 3) with this defect."""
        result = rgb.copy()
        h, w = self.opacity.shape
        under = result[self.y : self.y + h, self.x : self.x + w]
        mixed = under + (self.content - under) * self.opacity[..., None]
        under[:] = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
        return result


class Scene:
    """What defects of a picture (H, W, 3) go by: where there is most to be seen, and how far its brightness ranges."""

    def __init__(self, rgb: RGB) -> None:
        self.height, self.width = rgb.shape[:2]
        small = cv2.resize(rgb[..., 1], (-(-self.width // 4), -(-self.height // 4)), interpolation=cv2.INTER_AREA)
        seen = small.astype(np.float32)
        mean, square = (cv2.boxFilter(x, -1, (5, 5)) for x in (seen, seen * seen))
        contrast = np.sqrt(np.maximum(square - mean * mean, 0))
        self.rows, self.columns = contrast.shape
        self.share = np.cumsum(np.maximum(contrast - np.median(contrast), 0), dtype=np.float64)
        darkest, brightest = np.percentile(small, (2, 98))
        self.faintest = float(np.clip((brightest - darkest) / FULL_RANGE, FAINTEST, 1))
        self.visible = max(VISIBLE[0], round(self.faintest * VISIBLE[1]))

    def spot(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Where a defect is centred, (x, y) in pixels: half of them anywhere, half where contrast is above the median.

        A part on a plain ground fills little of the picture, and its defects are what must be learnt.
        """
        x, y = rng.random(2)
        if rng.random() < BUSY and self.share[-1] > 0:
            cell = int(np.searchsorted(self.share, rng.random() * self.share[-1], side="right"))
            row, column = divmod(min(cell, self.share.size - 1), self.columns)
            x, y = (column + x) / self.columns, (row + y) / self.rows
        return np.array([x * self.width, y * self.height])

    def strength(self, rng: np.random.Generator) -> float:
        """Share of the contrast that a defect has in a picture from black to white: on dark parts many are faint."""
        return float(np.exp(rng.uniform(np.log(self.faintest), 0)))


def corrupt(rgb: RGB, donor: RGB, rng: np.random.Generator) -> tuple[RGB, NDArray[np.bool_]]:
    """One to three random defects on a picture (H, W, 3) uint8: (corrupted (H, W, 3) uint8, mask (H, W) bool).

    `donor` (any size of at least 8 x 8) lends texture, usually another good picture; the picture itself may serve.
    Neither input is changed. The mask holds at least SMALLEST pixels. Raises ValueError for another shape or kind, or
    pictures below 8 x 8.
    """
    for name, picture in (("picture", rgb), ("donor", donor)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape[:2]) < 8:
            raise ValueError(
                f"{name}: expected (H, W, 3) uint8 of at least 8x8 pixels, got {picture.shape} {picture.dtype}"
            )
    result = rgb
    grey, scene = _is_grey(rgb), Scene(rgb)
    for _ in range(int(rng.integers(1, MOST_DEFECTS + 1))):
        for _ in range(TRIES):
            draw = KINDS[int(rng.integers(len(KINDS)))]
            patch = draw(result, donor, scene, rng)
            damaged = (patch.without_colour() if grey else patch).on(result)
            if difference(result, damaged, scene.visible).sum() >= SMALLEST:
                result = damaged
                break
    mask = difference(rgb, result, scene.visible)
    if mask.sum() < SMALLEST:  # nothing was visible, or a later defect undid an earlier one
        result = _inverted_dot(rgb, rng).on(rgb)
        mask = difference(rgb, result, scene.visible)
    return result, mask


def corrupt_batch(images: RGB, donors: Images, rng: np.random.Generator) -> tuple[RGB, NDArray[np.bool_]]:
    """`corrupt` for (B, H, W, 3) uint8, each with a random one of `donors`: same shape, masks (B, H, W) bool."""
    chosen = donors[rng.integers(len(donors), size=len(images))]
    pairs = [corrupt(image, donor, rng) for image, donor in zip(images, chosen, strict=True)]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def synthetic(good: RGB, count: int, seed: int) -> tuple[RGB, NDArray[np.bool_]]:
    """`count` pictures (N, H, W, 3) with synthetic defects and their masks (N, H, W), from good ones; by seed."""
    return corrupt_batch(good[np.arange(count) % len(good)], good, np.random.default_rng((seed, 4)))


def _is_grey(rgb: RGB) -> bool:
    """Whether the channels of a picture (H, W, 3) are the same up to the rounding of a compression."""
    r, g, b = cv2.split(rgb)
    return max(int(cv2.absdiff(r, g).max()), int(cv2.absdiff(g, b).max())) <= GREY


def difference(before: RGB, after: RGB, levels: int = VISIBLE[1]) -> NDArray[np.bool_]:
    """Pixels (H, W) of which a channel differs by more than `levels`."""
    b, g, r = cv2.split(cv2.absdiff(before, after))
    return np.asarray(cv2.max(cv2.max(b, g), r) > levels)


def _cut_paste(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """A piece from elsewhere, often turned and a little off in colour."""
    x, y, w, h = _box(scene, rng)
    source = rgb if rng.random() < 0.5 else donor
    content = _piece(source, w, h, rng)
    content = content * _f32(rng.uniform(0.8, 1.2)) + _f32(rng.normal(0, 8, 3))
    return Patch(x, y, content, _shape(w, h, rng) * _f32(rng.uniform(0.5, 1.0)))


def _stain(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """Ragged blobs of a flat colour, of noise, or of a strongly recoloured texture, from a film to opaque."""
    x, y, w, h = _box(scene, rng)
    filling = rng.integers(3)
    if filling == 0:
        near = (
            rgb[y : y + h, x : x + w].reshape(-1, 3).mean(axis=0) + _away_from_zero(rng, 15, 90) + rng.normal(0, 15, 3)
        )
        content = np.broadcast_to(near if rng.random() < 0.6 else rng.uniform(0, 255, 3), (h, w, 3))
    elif filling == 1:
        content = _f32(rng.uniform(0, 255, 3)) + 40 * rng.standard_normal((h, w, 3), np.float32)
    else:
        content = _piece(donor, w, h, rng) * _f32(rng.uniform(0.3, 1.6, 3)) + _f32(rng.normal(0, 30, 3))
    return Patch(x, y, _f32(content), _blobs(w, h, rng) * _f32(rng.uniform(0.2, 1.0) * scene.strength(rng)))


def _line(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """A scratch or a crack: a random walk, straight or jagged, 1 to 4 pixels wide, darker or lighter than its ground."""
    del donor
    height, width = rgb.shape[:2]
    reach = min(height, width) * np.exp(rng.uniform(np.log(0.06), np.log(0.8)))
    steps = max(3, int(reach / 4))
    jagged = float(rng.choice([0.03, 0.15, 0.45]))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, jagged, steps))
    walk = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), axis=0) * (reach / steps)
    walk += scene.spot(rng) - walk[steps // 2]
    points = np.clip(walk, 0, [width - 1, height - 1])
    lowest = np.maximum(np.floor(points.min(axis=0)).astype(int) - 3, 0)
    highest = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 4, [width, height])
    (x, y), (w, h) = lowest.tolist(), (highest - lowest).tolist()
    ink = np.zeros((h, w), np.uint8)
    track = np.asarray(np.rint((points - lowest) * 16), np.int32)
    cv2.polylines(ink, [track], False, 255, int(rng.integers(1, 5)), cv2.LINE_AA, 4)
    if rng.random() < 0.4:
        ink = _u8(cv2.GaussianBlur(ink, (0, 0), rng.uniform(0.5, 1.0)))
    content = rgb[y : y + h, x : x + w] + _f32(_away_from_zero(rng, 25, 120) + rng.normal(0, 8, 3))
    return Patch(x, y, content, _f32(ink) * _f32(rng.uniform(0.35, 1.0) * scene.strength(rng) / 255))


def _tint(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """A patch of another brightness or hue, its texture kept."""
    del donor
    x, y, w, h = _box(scene, rng)
    hue = rng.normal(0, 14, 3) if rng.random() < 0.6 else np.zeros(3)
    content = rgb[y : y + h, x : x + w] * _f32(1 + _away_from_zero(rng, 0.05, 0.4)) + _f32(hue)
    return Patch(x, y, content, _shape(w, h, rng))


def _erase(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """A patch without its fine detail: blurred, or flat in the colour around it."""
    del donor
    x, y, w, h = _box(scene, rng)
    under = _f32(rgb[y : y + h, x : x + w])
    if rng.random() < 0.5:
        content = _f32(cv2.GaussianBlur(under, (0, 0), rng.uniform(1.5, max(2.0, min(w, h) / 4))))
    else:
        edge = np.concatenate([under[0], under[-1], under[:, 0], under[:, -1]])
        content = _f32(np.broadcast_to(np.median(edge, axis=0), (h, w, 3)))
    return Patch(x, y, content, _shape(w, h, rng))


def _dots(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """A few small specks of one colour."""
    del donor
    x, y, w, h = _box(scene, rng, largest=0.02)
    ink = np.zeros((h, w), np.uint8)
    for _ in range(int(rng.integers(1, 7))):
        centre = np.asarray(np.rint(rng.uniform(0.15, 0.85, 2) * [w, h] * 16), int).tolist()
        cv2.circle(ink, centre, round(rng.uniform(0.7, 3.2) * 16), 255, -1, cv2.LINE_AA, 4)
    colour = rng.uniform(0, 255) + rng.normal(0, 25, 3)
    content = _f32(np.broadcast_to(colour, (h, w, 3)))
    return Patch(x, y, content, _f32(ink) * _f32(rng.uniform(0.4, 1.0) * scene.strength(rng) / 255))


def _relief(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """A dent, a bump or a groove: light from one side makes one flank of it brighter and the other darker."""
    del donor
    x, y, w, h = _box(scene, rng)
    if rng.random() < 0.5:
        height, soft = _shape(w, h, rng), rng.uniform(0.05, 0.2) * min(w, h)
    else:
        height, soft = np.zeros((h, w), np.float32), rng.uniform(0.7, 2.0)
        bends = rng.uniform(0.1, 0.9, (4, 2)) * [w, h]
        track = np.asarray(np.rint(bends[np.argsort(bends[:, int(h > w)])] * 16), np.int32)
        cv2.polylines(height, [track], False, 1.0, int(rng.integers(1, 5)), cv2.LINE_AA, 4)
    height = _f32(cv2.GaussianBlur(height, (0, 0), max(0.7, soft)))
    down, across = np.gradient(height)
    towards = rng.uniform(0, 2 * np.pi)
    slope = across * np.cos(towards) + down * np.sin(towards)
    light = slope * (rng.uniform(15, 90) * scene.strength(rng) / max(float(np.abs(slope).max()), 1e-6))
    return Patch(x, y, _f32(rgb[y : y + h, x : x + w] + light[..., None]), np.ones((h, w), np.float32))


def _warp(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
    """Material that was pushed aside, turned, pinched or swollen."""
    del donor
    x, y, w, h = _box(scene, rng)
    across, down = np.meshgrid(np.linspace(-1, 1, w, dtype=np.float32), np.linspace(-1, 1, h, dtype=np.float32))
    inside = np.maximum(1 - across**2 - down**2, 0) ** 2  # 1 in the middle, 0 on the border
    sort = rng.integers(3)
    if sort == 0:
        heading, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.6)
        from_x, from_y = across - inside * far * np.cos(heading), down - inside * far * np.sin(heading)
    elif sort == 1:
        angle = inside * _away_from_zero(rng, 0.4, 2.0)
        from_x = across * np.cos(angle) - down * np.sin(angle)
        from_y = across * np.sin(angle) + down * np.cos(angle)
    else:
        scale = 1 + inside * _away_from_zero(rng, 0.3, 0.7)
        from_x, from_y = across * scale, down * scale
    under = rgb[y : y + h, x : x + w]
    columns, rows = _f32(from_x + 1) * _f32((w - 1) / 2), _f32(from_y + 1) * _f32((h - 1) / 2)
    content = cv2.remap(under, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return Patch(x, y, _f32(content), np.ones((h, w), np.float32))


Kind = Callable[[RGB, RGB, Scene, np.random.Generator], Patch]
KINDS: tuple[Kind, ...] = (_cut_paste, _stain, _line, _tint, _erase, _dots, _relief, _warp)


def _inverted_dot(rgb: RGB, rng: np.random.Generator) -> Patch:
    """A dot that no picture can hide: black on light, white on dark."""
    x, y = int(rng.integers(rgb.shape[1] - 3)), int(rng.integers(rgb.shape[0] - 3))
    under = rgb[y : y + 4, x : x + 4]
    return Patch(x, y, _f32(np.where(under < 128, 255, 0)), np.ones(under.shape[:2], np.float32))


def _f32(value: Any) -> Any:
    """As float32, so that scalars do not widen arrays."""
    return np.asarray(value, np.float32)


def _u8(value: Any) -> NDArray[np.uint8]:
    return np.asarray(value, np.uint8)


def _away_from_zero(rng: np.random.Generator, least: float, most: float) -> float:
    """A number of either sign with `least` <= magnitude <= `most`."""
    return float(rng.uniform(least, most) * rng.choice([-1, 1]))


def _box(scene: Scene, rng: np.random.Generator, largest: float = AREA[1]) -> tuple[int, int, int, int]:
    """x, y, width, height of a random box inside a picture: area log-uniform in AREA, aspect up to 3 : 1, at `Scene.spot`."""
    area = np.exp(rng.uniform(np.log(AREA[0]), np.log(largest))) * scene.height * scene.width
    aspect = np.exp(rng.uniform(-np.log(3), np.log(3)))
    w = int(np.clip(np.rint(np.sqrt(area * aspect)), 4, scene.width))
    h = int(np.clip(np.rint(np.sqrt(area / aspect)), 4, scene.height))
    furthest = [scene.width - w, scene.height - h]
    x, y = np.clip(np.rint(scene.spot(rng) - [w / 2, h / 2]), 0, furthest).astype(int).tolist()
    return x, y, w, h


def _piece(source: RGB, w: int, h: int, rng: np.random.Generator) -> Float:
    """A random piece (h, w, 3) of `source`, flipped at random; a smaller source is repeated by reflection."""
    y, x = int(rng.integers(max(1, source.shape[0] - h + 1))), int(rng.integers(max(1, source.shape[1] - w + 1)))
    piece = source[y : y + h, x : x + w]
    below, right = h - piece.shape[0], w - piece.shape[1]
    if below or right:
        piece = _u8(cv2.copyMakeBorder(piece, 0, below, 0, right, cv2.BORDER_REFLECT))
    steps = rng.choice([-1, 1], 2).tolist()
    flipped: Float = _f32(piece[:: steps[0], :: steps[1]])
    return flipped


def _shape(w: int, h: int, rng: np.random.Generator) -> Float:
    """A filled shape (h, w), 0..1: a turned rectangle, an ellipse or blobs, with hard or soft edges."""
    sort = rng.integers(3)
    if sort == 0:
        return _blobs(w, h, rng)
    ink = np.zeros((h, w), np.uint8)
    if sort == 1:
        angle = float(rng.uniform(0, 180))
        turned = cv2.boxPoints(((w / 2, h / 2), (0.68 * w, 0.68 * h), angle))
        cv2.fillConvexPoly(ink, np.asarray(np.rint(turned * 16), np.int32), 255, cv2.LINE_AA, 4)
    else:
        cv2.ellipse(ink, (w // 2, h // 2), (max(1, w // 2 - 1), max(1, h // 2 - 1)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    soft: Float = _f32(ink) / _f32(255)
    if rng.random() < 0.5:
        soft = _f32(cv2.GaussianBlur(soft, (0, 0), max(0.5, rng.uniform(0.03, 0.15) * min(w, h))))
    return soft


def _blobs(w: int, h: int, rng: np.random.Generator) -> Float:
    """Ragged islands (h, w), 0..1: low-frequency noise, higher in the middle, cut at a level, edges hard or soft."""
    cells = int(rng.integers(2, 7))
    coarse = rng.standard_normal((cells + 2, cells + 2), np.float32)
    noise = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    across = np.linspace(-1, 1, w, dtype=np.float32) ** 2
    down = np.linspace(-1, 1, h, dtype=np.float32) ** 2
    hill = 1.0 - across - down[:, None]  # 1 in the middle, 0 or less outside the ellipse of the box
    field = np.minimum(hill * 2, 0.8 * noise + hill * 1.2)
    steep = _f32(rng.choice([1.5, 4.0, 20.0]))
    islands: Float = np.clip(field * steep, 0, 1)
    return islands
