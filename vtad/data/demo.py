"""Demo images: tablets drawn procedurally, in the MVTec AD folder layout, with exact defect masks.

A tablet is a height map and an albedo (cup, score line, debossed letters, pressed-powder grain, coloured speckles) that
is posed, lit by one lamp, laid on matte card and seen through a slightly soft, noisy camera. A defect changes height or
albedo of one tablet before it is lit. The mask is the set of pixels that the defect changed: the same scene is
drawn with and without it, and every pixel outside the mask is taken from the picture without it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.disk.files import replacing_folder, sweep
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full
from vtad_runtime.contract.progress import watched

Float = NDArray[np.float32]

LAMP = np.array([-0.50, -0.62, 0.60], np.float32)  # towards the lamp: left, up, out of the picture
SHELL = np.array([0.74, 0.68, 0.56], np.float32)  # linear RGB albedo of the tablet
PIGMENT = np.array([[0.50, 0.17, 0.09], [0.56, 0.33, 0.14], [0.36, 0.30, 0.26]], np.float32)  # speckles
CARD = np.array([0.085, 0.105, 0.125], np.float32)  # of the matte card below
HALF_WIDTH, HALF_HEIGHT = 0.70, 0.47  # of the tablet, in half picture widths
CHANGED = 2.0 / 255  # a pixel belongs to the mask when the defect moves a channel by more than this


class DemoError(VtadError):
    """Demo images that cannot be written. The message is one line."""


@dataclass(frozen=True)
class DemoCounts:
    """How many images of each sort were written."""

    train_good: int
    test_good: int
    defects: dict[str, int]  # by defect type

    @property
    def total(self) -> int:
        """All images, without the masks."""
        return self.train_good + self.test_good + sum(self.defects.values())


@dataclass(frozen=True)
class Surface:
    """A tablet before it is posed, over the square -1..1."""

    height: Float  # (S, S), half picture widths
    albedo: Float  # (S, S, 3), linear RGB
    cover: Float  # (S, S), 0..1, how much of the pixel is tablet
    gloss: Float  # (S, S), strength of the highlight


@dataclass(frozen=True)
class Picture:
    """One demo image and what is wrong with it."""

    rgb: NDArray[np.uint8]  # (S, S, 3)
    mask: NDArray[np.bool_]  # (S, S), pixels that the defect changed


def write_demo(
    folder: Path,
    seed: int = 0,
    *,
    size: int = 512,
    train: int = 220,
    good: int = 40,
    per_defect: int = 20,
    workers: int | None = None,
) -> DemoCounts:
    """Write a category of `size` px PNG files into `folder`, which must be absent or empty.

    The same seed and counts give the same bytes. The files are written beside the folder and moved there when all are
    complete. `workers` is the number of threads (default: one per core, at most 8).
    Raises DemoError when the folder holds something or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DemoError(
            f"{folder}: expected an absent or empty folder for demo images, got one that is in use; name another"
        )
    jobs = [("train", "good", i, 0.0) for i in range(train)] + [("test", "good", i, 0.0) for i in range(good)]
    # From faint to obvious, more of these than of those.
    jobs += [("test", kind, i, math.sqrt((i + 0.5) / per_defect)) for kind in DEFECTS for i in range(per_defect)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        with replacing_folder(folder) as root:

            def write(job: tuple[str, str, int, float]) -> None:
                split, kind, index, strength = job
                key = (seed, zlib.crc32(f"{split}/{kind}/{index}".encode()))
                picture = draw(key, size, None if kind == "good" else kind, strength)
                _write_png(root / split / kind / f"{index:03d}.png", picture.rgb[..., ::-1])
                if kind != "good":
                    mask = picture.mask.astype(np.uint8) * 255
                    _write_png(root / "ground_truth" / kind / f"{index:03d}_mask.png", mask)

            for split, kind, _, _ in jobs:
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                if kind != "good":
                    (root / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
                list(watched(pool.map(write, jobs), "drawing", len(jobs)))
    except OSError as e:
        raise DemoError(
            f"{folder}: expected to write demo images here, got {e.strerror or e}",
            NOT_WRITTEN if disk_full(e) else USAGE,
        ) from e
    return DemoCounts(train, good, dict.fromkeys(DEFECTS, per_defect))


def draw(key: tuple[int, ...], size: int = 512, defect: str | None = None, strength: float = 0.5) -> Picture:
    """The tablet that `key` stands for, with or without a defect of strength 0 (faint, small) to 1 (obvious).

    The tablet, its pose, light and sensor noise depend on `key` and `size` only. Raises KeyError for an unknown defect.
    """
    rng = np.random.default_rng([*key, 0])
    tablet = _tablet(rng, size)
    scene = _Scene.at_random(rng, size)
    clean = scene.render(tablet)
    if defect is None:
        return Picture(scene.expose(clean), np.zeros((size, size), bool))
    damaged = scene.render(DEFECTS[defect](tablet, np.random.default_rng([*key, 1]), strength))
    changed = np.abs(_tone(damaged) - _tone(clean)).max(axis=2) > CHANGED
    mask = _without_dust(changed, max(3, size // 64))
    return Picture(scene.expose(np.where(mask[..., None], damaged, clean)), mask)


def _without_dust(changed: NDArray[np.bool_], smallest: int) -> NDArray[np.bool_]:
    """`changed` (H, W) with one-pixel gaps closed, without specks below `smallest` pixels unless they are all."""
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min(smallest, stats[1:, cv2.CC_STAT_AREA].max(initial=0))
    keep[0] = False
    mask: NDArray[np.bool_] = keep[labels] if count > 1 else closed.astype(bool)
    return mask


@dataclass(frozen=True)
class _Scene:
    """Everything about one picture but the tablet."""

    pose: Float  # (2, 3), tablet pixels to picture pixels
    lamp: Float  # (3,), unit vector
    light: Float  # (S, S), irradiance
    tint: Float  # (3,), colour of the lamp
    card: Float  # (S, S), shade of the card, 1 on average
    noise: Float  # (S, S, 3), standard normal
    softness: float  # sigma of the lens, pixels

    @staticmethod
    def at_random(rng: np.random.Generator, size: int) -> _Scene:
        centre = (size - 1) / 2
        pose = cv2.getRotationMatrix2D((centre, centre), rng.uniform(-5, 5), rng.uniform(0.965, 1.03))
        pose = pose + np.pad(rng.uniform(-0.025, 0.025, (2, 1)) * size, ((0, 0), (2, 0)))
        lamp = LAMP + rng.normal(0, 0.035, 3).astype(np.float32)
        x, y = _grid(size)
        vignette = 1.06 - 0.10 * (x * x + y * y)
        level = (1 + rng.normal(-0.13, 0.05) * x + rng.normal(-0.16, 0.05) * y) * vignette * rng.uniform(0.93, 1.07)
        shade = 1 + 0.10 * _noise(rng, size, 0.9) + 0.05 * _noise(rng, size, size / 9)
        shade += 0.035 * _noise(rng, size, size / 40, 1.0) + 0.028 * _noise(rng, size, 1.0, size / 40)
        noise = rng.standard_normal((size, size), np.float32)  # one draw, shifted far, is as good as three and cheaper
        return _Scene(
            pose=_f32(pose),
            lamp=_f32(lamp / np.linalg.norm(lamp)),
            light=_f32(level),
            tint=_f32(1 + rng.normal(0, 0.007, 3)),
            card=shade,
            noise=_f32(cv2.merge([np.roll(noise, shift, (0, 1)) for shift in ((0, 0), (37, 11), (-23, 59))])),
            softness=float(rng.uniform(0.65, 0.85)) * max(size / 512, 0.5),
        )

    def render(self, tablet: Surface) -> Float:
        """Linear RGB (S, S, 3) of the tablet in this scene, before the sensor."""
        size = tablet.height.shape[0]
        height, cover, gloss = (self._posed(a) for a in (tablet.height, tablet.cover, tablet.gloss))
        slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=size / 16)
        slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=size / 16)
        length = np.sqrt(1 + slope_x**2 + slope_y**2)
        facing = (self.lamp[2] - self.lamp[0] * slope_x - self.lamp[1] * slope_y) / length
        half = self.lamp + np.array([0, 0, 1], np.float32)
        half /= np.linalg.norm(half)
        shine = np.maximum((half[2] - half[0] * slope_x - half[1] * slope_y) / length, 0)
        for _ in range(5):
            shine *= shine  # to the 32nd power
        sunk = np.minimum(height - cv2.GaussianBlur(height, (0, 0), size / 55), 0)
        shut = np.exp(9 * sunk)  # how much of the surroundings a hollow still sees
        lit = shut * (0.36 * shut * (0.55 + 0.45 / length) + 0.86 * np.maximum(facing, 0))
        body = self._posed(tablet.albedo) * lit[..., None] + (gloss * shine)[..., None]
        ground = self.card * ((0.36 + 0.86 * self.lamp[2]) * (1 - self._shadow(size)))
        linear = (ground * (1 - cover) * self.light)[..., None] * (CARD * self.tint)
        linear += (cover * self.light)[..., None] * (body * self.tint)
        return np.asarray(cv2.GaussianBlur(linear, (0, 0), self.softness), np.float32)

    def _shadow(self, size: int) -> Float:
        """Shadow (S, S), 0..1, of a whole tablet on the card: wide and away from the lamp, tight around the rim."""
        whole = self._posed((_radius(size) < 1).astype(np.float32))
        away = np.array([[1, 0, -self.lamp[0] * 0.055 * size], [0, 1, -self.lamp[1] * 0.055 * size]], np.float32)
        cast = cv2.GaussianBlur(cv2.warpAffine(whole, away, (size, size)), (0, 0), size / 62)
        touch = cv2.GaussianBlur(whole, (0, 0), size / 130)
        return np.asarray(1 - (1 - 0.58 * cast) * (1 - 0.45 * touch), np.float32)

    def _posed(self, plane: Float) -> Float:
        size = plane.shape[0]
        return np.asarray(cv2.warpAffine(plane, self.pose, (size, size), flags=cv2.INTER_LINEAR), np.float32)

    def expose(self, linear: Float) -> NDArray[np.uint8]:
        """The sensor: shot and read noise, tone curve, eight bits."""
        noisy = linear + self.noise * np.sqrt(4.5e-5 * np.maximum(linear, 0) + 2e-6)
        return np.rint(_tone(noisy) * 255).astype(np.uint8)


def _tone(linear: Float) -> Float:
    """Linear light to display values 0..1, with a soft shoulder. A square root, as cheap as it looks like 1/2.2."""
    light = np.maximum(linear, 0)
    return np.minimum(np.sqrt(1.12 * light / (1 + 0.12 * light)), 1)


def _tablet(rng: np.random.Generator, size: int) -> Surface:
    """A whole tablet: oblong, cupped, bevelled, scored, with the letters V T | A D and pigment speckles of its own."""
    body, imprint, cover = _mould(size)
    height = body + rng.uniform(0.9, 1.08) * imprint
    grain = _noise(rng, size, size / 340)
    height += 0.0009 * grain + 0.0013 * _noise(rng, size, size / 130)
    height += 0.006 * np.minimum(_noise(rng, size, size / 230) + 2.3, 0)  # pits

    mottle = 1 + 0.016 * _noise(rng, size, size / 60) + 0.012 * grain
    albedo = mottle[..., None] * (SHELL * _f32(1 + rng.normal(0, 0.007, 3)))
    for colour, share, width in zip(PIGMENT, (0.011, 0.010, 0.005), (130, 185, 200), strict=True):
        field = _noise(rng, size, size / width)
        edge = float(np.quantile(field[::4, ::4], 1 - share * rng.uniform(0.75, 1.25)))
        ink = np.clip((field - edge) / 0.35, 0, rng.uniform(0.55, 0.8))
        rows, columns = np.nonzero(ink)
        albedo[rows, columns] += ink[rows, columns, None] * (colour - albedo[rows, columns])
    return Surface(height, albedo, cover, np.full((size, size), 0.055, np.float32))


@lru_cache(maxsize=2)
def _mould(size: int) -> tuple[Float, Float, Float]:
    """What all tablets share, each (S, S): height of the body, depth of the imprint (negative), and cover."""
    radius = _radius(size)
    cup = 0.17 * (1 - np.minimum(radius, 1) ** 2)
    rim = 0.045 * np.sqrt(1 - np.clip(1 - np.clip(1 - radius, 0, 1) / 0.10, 0, 1) ** 2)
    imprint = -np.maximum(
        0.027 * _groove(_letters(size), 0.019 * size), 0.026 * _groove(_score_line(size), 0.019 * size)
    )
    cover = np.clip((1 - radius) * HALF_HEIGHT * size / 2 + 0.5, 0, 1)
    planes = _f32(cup + rim), _f32(imprint), _f32(cover)
    for plane in planes:
        plane.flags.writeable = False  # shared between tablets
    return planes


def _crack(tablet: Surface, rng: np.random.Generator, strength: float) -> Surface:
    """A jagged, branching fissure: a dark groove with raised lips."""
    size = tablet.height.shape[0]
    start, along = _place(rng, 0.75), rng.uniform(0, 2 * np.pi)
    reach = 0.12 + 0.75 * strength * rng.uniform(0.7, 1.1)
    lines = [_walk(rng, start, along, reach, wander=0.38)]
    for _ in range(rng.integers(0, 1 + round(3 * strength))):
        stem = lines[0]
        joint = _f32(stem[rng.integers(len(stem) // 4, len(stem))])
        lines.append(_walk(rng, joint, along + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1), reach * 0.35, wander=0.4))
    width = (0.0028 + 0.0055 * strength) * size
    depth = _strokes(lines, size, width) * (0.35 + 0.65 * strength)
    lips = cv2.GaussianBlur(depth, (0, 0), 1.6 * width + 0.5)
    height = tablet.height - 0.020 * depth + 0.006 * lips
    albedo = tablet.albedo * (1 - (0.30 + 0.45 * strength) * depth[..., None])
    return dataclasses.replace(tablet, height=height, albedo=albedo)


def _scratch(tablet: Surface, rng: np.random.Generator, strength: float) -> Surface:
    """One to four nearly parallel and straight, shallow marks, lighter or darker than the shell and dull."""
    size = tablet.height.shape[0]
    start, along = _place(rng, 0.6), rng.uniform(0, 2 * np.pi)
    reach = 0.18 + 0.6 * strength * rng.uniform(0.6, 1.1)
    lines = []
    for _ in range(rng.integers(1, 2 + round(3 * strength))):
        lines.append(
            _walk(rng, _f32(start + rng.normal(0, 0.022, 2)), along + rng.normal(0, 0.03), reach, wander=0.015)
        )
        reach *= rng.uniform(0.6, 1.0)
    mark = _strokes(lines, size, (0.0022 + 0.0030 * strength) * size)
    mark = mark * np.clip(0.75 + 0.35 * _noise(rng, size, size / 130), 0, 1) * (0.4 + 0.6 * strength)
    height = tablet.height - 0.011 * mark
    shade = tablet.albedo * 0.3 + 0.72 if rng.random() < 0.4 else tablet.albedo * 0.45
    albedo = tablet.albedo + (shade - tablet.albedo) * mark[..., None]
    return dataclasses.replace(tablet, height=_f32(height), albedo=_f32(albedo), gloss=_f32(tablet.gloss * (1 - mark)))


def _chip(tablet: Surface, rng: np.random.Generator, strength: float) -> Surface:
    """A piece broken out of the rim: a rough, hollow break, paler or darker, with card where it goes through."""
    size = tablet.height.shape[0]
    x, y = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    on_rim = _rim_point(angle)
    reach = 0.045 + 0.20 * strength
    ragged = 1 + 0.13 * _noise(rng, size, size / 26) + 0.035 * _noise(rng, size, size / 90)
    stretch = rng.uniform(0.75, 1.3)
    turn = np.arctan2(on_rim[1], on_rim[0])
    dx, dy = x - on_rim[0], y - on_rim[1]
    inwards, sideways = dx * np.cos(turn) + dy * np.sin(turn), -dx * np.sin(turn) + dy * np.cos(turn)
    away = np.hypot(inwards / stretch, sideways * stretch) * ragged / reach
    bite = np.clip((1 - away) * reach * size / 10, 0, 1)
    hollow = min(0.30 * reach, 0.045) * np.clip(1 - away, 0, 1) + 0.010 * bite
    rough = 0.0020 * _noise(rng, size, size / 190) + 0.0045 * _noise(rng, size, size / 60)
    height = tablet.height - (hollow + bite * (rough + 0.002))
    core = SHELL * rng.uniform(0.88, 1.12) * (1 + 0.04 * _noise(rng, size, size / 150))[..., None]
    jagged = 1 + np.clip(0.22 * _noise(rng, size, size / 45) + 0.06 * _noise(rng, size, size / 160), -0.35, 0.6)
    hole = np.hypot(1.9 * inwards, 0.75 * sideways) * jagged / reach
    through = np.clip((0.42 * strength - 0.04 - hole) * reach * size / 4, 0, 1)
    return Surface(
        height=_f32(height),
        albedo=_f32(tablet.albedo + (core - tablet.albedo) * (0.9 * bite)[..., None]),
        cover=_f32(tablet.cover * (1 - through)),
        gloss=_f32(tablet.gloss * (1 - bite)),
    )


def _contamination(tablet: Surface, rng: np.random.Generator, strength: float) -> Surface:
    """A fibre, a few dark specks of grit, or a smear of something oily."""
    size = tablet.height.shape[0]
    sort = rng.integers(3)
    centre = _place(rng, 0.7)
    if sort == 0:
        line = _walk(
            rng, centre, rng.uniform(0, 2 * np.pi), 0.12 + 0.5 * strength, wander=0.12, curl=rng.normal(0, 0.10)
        )
        on = _strokes([line], size, (0.0022 + 0.0022 * strength) * size, taper=False)
        dirt = np.array([[0.05, 0.05, 0.06], [0.07, 0.10, 0.22], [0.30, 0.06, 0.05]], np.float32)[rng.integers(3)]
        opacity, thick = 0.45 + 0.5 * strength, 0.006
    elif sort == 1:
        on = np.zeros((size, size), np.float32)
        for _ in range(1 + rng.poisson(4 * strength)):
            where = _f32(centre + rng.normal(0, 0.07 * strength + 0.01, 2))
            on = np.maximum(on, _blob(rng, size, where, rng.uniform(0.006, 0.010 + 0.030 * strength)))
        dirt = np.array([[0.05, 0.045, 0.04], [0.16, 0.10, 0.05]], np.float32)[rng.integers(2)]
        opacity, thick = 0.5 + 0.45 * strength, 0.012
    else:
        on = _blob(rng, size, centre, 0.05 + 0.17 * strength, soft=0.5)
        dirt = np.array([[0.30, 0.24, 0.10], [0.22, 0.25, 0.20]], np.float32)[rng.integers(2)]
        opacity, thick = 0.12 + 0.4 * strength, 0.0
    layer = (on * opacity * tablet.cover)[..., None]
    albedo = tablet.albedo + (dirt - tablet.albedo) * layer
    return dataclasses.replace(tablet, height=_f32(tablet.height + thick * on), albedo=_f32(albedo))


def _wrong_colour(tablet: Surface, rng: np.random.Generator, strength: float) -> Surface:
    """A region, or at times the whole tablet, whose shell has another hue or is darker."""
    size = tablet.height.shape[0]
    hues = np.array(
        [[1.0, 0.80, 0.55], [0.88, 1.0, 0.82], [1.0, 0.80, 0.82], [0.72, 0.72, 0.74], [0.84, 0.92, 1.05]], np.float32
    )
    tint = 1 + (hues[rng.integers(len(hues))] - 1) * (0.25 + 0.75 * strength)
    if rng.random() < 0.2:
        where = np.ones((size, size), np.float32)
    else:
        where = _blob(rng, size, _place(rng, 0.7), 0.07 + 0.26 * strength, soft=rng.uniform(0.15, 0.6))
    return dataclasses.replace(tablet, albedo=_f32(tablet.albedo * (1 + (tint - 1) * where[..., None])))


DEFECTS: dict[str, Callable[[Surface, np.random.Generator, float], Surface]] = {
    "crack": _crack,
    "contamination": _contamination,
    "chip": _chip,
    "wrong_colour": _wrong_colour,
    "scratch": _scratch,
}


def _f32(array: Any) -> Float:
    return np.asarray(array, np.float32)


@lru_cache(maxsize=2)
def _grid(size: int) -> tuple[Float, Float]:
    """x to the right and y down, each (S, S), -1..1."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


@lru_cache(maxsize=2)
def _radius(size: int) -> Float:
    """(S, S), 0 at the middle of a tablet, 1 on its outline: a superellipse."""
    x, y = _grid(size)
    return _f32(((np.abs(x) / HALF_WIDTH) ** 2.35 + (np.abs(y) / HALF_HEIGHT) ** 2.35) ** (1 / 2.35))


def _rim_point(angle: float) -> Float:
    direction = np.array([np.cos(angle), np.sin(angle)])
    radius = ((abs(direction[0]) / HALF_WIDTH) ** 2.35 + (abs(direction[1]) / HALF_HEIGHT) ** 2.35) ** (1 / 2.35)
    return _f32(direction / radius)


def _place(rng: np.random.Generator, within: float) -> Float:
    """A point (2,) on the tablet, up to `within` of the way to its rim."""
    return _f32(_rim_point(rng.uniform(0, 2 * np.pi)) * within * np.sqrt(rng.uniform(0, 1)))


def _noise(rng: np.random.Generator, size: int, sigma: float, sigma_y: float | None = None) -> Float:
    """Smooth noise (S, S) of mean 0 and standard deviation 1; `sigma` is that of its blur, in pixels.

    Wide blurs are drawn on a smaller grid, which is what makes them cheap.
    """
    sigma_y = sigma if sigma_y is None else sigma_y
    shrink_x, shrink_y = max(1, int(sigma / 1.3)), max(1, int(sigma_y / 1.3))
    field = rng.standard_normal((-(-size // shrink_y), -(-size // shrink_x)), np.float32)
    across, down = _unit_gaussian(sigma / shrink_x), _unit_gaussian(sigma_y / shrink_y)
    field = _f32(cv2.sepFilter2D(field, cv2.CV_32F, across, down))
    return field if shrink_x == shrink_y == 1 else _f32(cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC))


def _unit_gaussian(sigma: float) -> Float:
    """A Gaussian kernel whose squares sum to 1, so that white noise keeps its standard deviation."""
    reach = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 0.3)) ** 2)
    return _f32(kernel / np.linalg.norm(kernel))


def _pixels(points: Float, size: int) -> NDArray[np.int32]:
    """Points (N, 2) over -1..1 as cv2 coordinates with four fractional bits."""
    return np.asarray(np.rint((points + 1) / 2 * (size - 1) * 16), np.int32)


def _groove(lines: NDArray[np.uint8], half_width: float) -> Float:
    """Depth (S, S), 0..1, of a round-bottomed groove along `lines` (0 on a line, 255 elsewhere)."""
    distance = cv2.distanceTransform(lines, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    profile = np.sqrt(np.clip(1 - (distance / half_width) ** 2, 0, 1))
    return _f32(cv2.GaussianBlur(profile, (0, 0), half_width / 4))


def _letters(size: int) -> NDArray[np.uint8]:
    """0 on the strokes of V T (left of the score line) and A D (right of it), 255 elsewhere."""
    top, bottom = -0.13, 0.13
    bow = np.linspace(-np.pi / 2, np.pi / 2, 17)
    strokes = [
        [(-0.46, top), (-0.375, bottom), (-0.29, top)],
        [(-0.24, top), (-0.08, top)],
        [(-0.16, top), (-0.16, bottom)],
        [(0.08, bottom), (0.165, top), (0.25, bottom)],
        [(0.115, 0.045), (0.215, 0.045)],
        [(0.31, top), (0.31, bottom)],
        [(0.31 + 0.145 * float(np.cos(t)), 0.13 * float(np.sin(t))) for t in bow],
    ]
    return _inked([np.array(s, np.float32) for s in strokes], size)


def _score_line(size: int) -> NDArray[np.uint8]:
    return _inked([np.array([(0, -HALF_HEIGHT), (0, HALF_HEIGHT)], np.float32)], size)


def _inked(lines: list[Float], size: int) -> NDArray[np.uint8]:
    canvas = np.full((size, size), 255, np.uint8)
    cv2.polylines(canvas, [_pixels(line, size) for line in lines], False, 0, 1, cv2.LINE_8, 4)
    return canvas


def _walk(
    rng: np.random.Generator, start: Float, along: float, reach: float, *, wander: float, curl: float = 0.0
) -> Float:
    """A wandering line (N, 2) of length `reach` from `start`; `wander` is the spread of each turn, radians."""
    steps = max(6, int(reach / 0.022))
    turns = rng.normal(0, wander, steps) + curl
    heading = along + (np.cumsum(turns) * 0.35 + turns if wander > 0.1 else np.cumsum(turns))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * (reach / steps), axis=0)
    return _f32(np.concatenate([np.zeros((1, 2)), path]) + start)


def _strokes(lines: list[Float], size: int, width: float, *, taper: bool = True) -> Float:
    """Ink (S, S), 0..1, of `lines` about `width` pixels wide, thinner towards their far ends when `taper`."""
    ink = np.zeros((size * 2, size * 2), np.uint8)
    for line in lines:
        for i in range(len(line) - 1):
            thin = 1 - 0.7 * i / len(line) if taper else 1.0
            cv2.polylines(
                ink, [_pixels(line[i : i + 2], size * 2)], False, 255, max(1, round(2 * width * thin)), cv2.LINE_AA, 4
            )
    return _f32(cv2.resize(ink, (size, size), interpolation=cv2.INTER_AREA) / 255)


def _blob(rng: np.random.Generator, size: int, centre: Float, reach: float, *, soft: float = 0.25) -> Float:
    """An uneven patch (S, S), 0..1, about `reach` in radius; `soft` is the share of the radius over which it fades."""
    x, y = _grid(size)
    lobes = rng.normal(0, 0.16, (4, 2)) / np.arange(1, 5)[:, None]
    dx, dy = x - centre[0], y - centre[1]
    angle = np.arctan2(dy, dx)
    uneven = np.ones_like(angle)
    for k, (a, b) in enumerate(lobes.tolist(), start=2):
        uneven += a * np.cos(k * angle) + b * np.sin(k * angle)
    return _f32(np.clip((1 - np.hypot(dx, dy) / (reach * np.maximum(uneven, 0.3))) / soft, 0, 1))


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    _, data = cv2.imencode(".png", pixels)
    path.write_bytes(data.tobytes())
