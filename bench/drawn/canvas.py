"""What the drawn sets share: a canvas at twice the size, in RGB from 0 to 1, and smooth random fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
SIZE = 320  # pixels a side of a picture
SCALE = 2  # it is drawn at so many times the size, then shrunk: soft edges
Point = tuple[float, float]  # x, y in 0..1 of the picture


@dataclass(frozen=True)
class Drawn:
    """A set: its defects, and how a scene is drawn with one of them or none."""

    defects: tuple[str, ...]
    draw: Callable[[np.random.Generator, str | None, np.random.Generator], Float]  # scene, defect, the defect's own


class Canvas:
    """(S, S, 3), drawn on by shapes of one colour each."""

    def __init__(self, background: Float) -> None:
        """`background` (S, S, 3), at the size of a picture."""
        side = SIZE * SCALE
        self.rgb = cv2.resize(background, (side, side), interpolation=cv2.INTER_LINEAR)

    def polygon(self, points: Sequence[Point], colour: Sequence[float], alpha: float = 1.0) -> None:
        """A filled polygon."""
        at = _pixels(points)
        self._blend(lambda mask, origin: cv2.fillPoly(mask, [at - origin], 1.0, cv2.LINE_AA), at, 2, colour, alpha)

    def line(self, points: Sequence[Point], colour: Sequence[float], width: float, alpha: float = 1.0) -> None:
        """An open line; `width` in 0..1 of the picture."""
        at, thick = _pixels(points), max(1, round(width * SIZE * SCALE))
        self._blend(
            lambda mask, origin: cv2.polylines(mask, [at - origin], False, 1.0, thick, cv2.LINE_AA),
            at, thick, colour, alpha,
        )  # fmt: skip

    def disc(self, centre: Point, radius: float, colour: Sequence[float], alpha: float = 1.0) -> None:
        """A filled circle."""
        at, size = _pixels([centre]), round(radius * SIZE * SCALE)
        self._blend(
            lambda mask, origin: cv2.circle(mask, tuple(map(int, (at - origin)[0])), size, 1.0, -1, cv2.LINE_AA),
            at, size + 2, colour, alpha,
        )  # fmt: skip

    def done(self, soft: float = 0.7) -> Float:
        """The picture, (SIZE, SIZE, 3), as through a lens that blurs by `soft` pixels."""
        small = cv2.resize(self.rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return np.clip(cv2.GaussianBlur(small, (0, 0), soft), 0, 1).astype(np.float32)

    def _blend(
        self,
        shape: Callable[[Float, NDArray[np.int32]], object],
        points: NDArray[np.int32],
        reach: int,
        colour: Sequence[float],
        alpha: float,
    ) -> None:
        """Lay a shape around the points over what is there; only the part that it reaches is touched."""
        side = self.rgb.shape[0]
        low = np.clip(points.min(axis=0) - reach, 0, side - 1)
        high = np.clip(points.max(axis=0) + reach + 1, low + 1, side)
        part = self.rgb[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(part.shape[:2], np.float32)
        shape(mask, low.astype(np.int32))
        share = alpha * np.minimum(mask, 1)[..., None]
        part += share * (np.asarray(colour, np.float32) - part)


def field(rng: np.random.Generator, sigma: float, side: int = SIZE) -> Float:
    """A smooth random field (side, side), mean 0, standard deviation 1; `sigma` in pixels."""
    coarse = max(1, int(sigma / 2))  # a smooth field needs few values
    small = rng.normal(size=(side // coarse + 2, side // coarse + 2)).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), sigma / coarse)
    values = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    return ((values - values.mean()) / max(float(values.std()), 1e-6)).astype(np.float32)


def plain(colour: Sequence[float], rng: np.random.Generator, shade: float = 0.03) -> Float:
    """A background (SIZE, SIZE, 3) of one colour under a lamp that is not quite even."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
    light = 1 + shade * (rng.normal() * x + rng.normal() * y) + 0.004 * field(rng, 1.2)
    return (np.asarray(colour, np.float32) * light[..., None]).astype(np.float32)


def wander(rng: np.random.Generator, start: Point, length: float, steps: int = 10, bend: float = 0.4) -> list[Point]:
    """A line that bends at random."""
    angle, (x, y), points = rng.uniform(0, 2 * np.pi), start, [start]
    for _ in range(steps):
        angle += bend * rng.normal()
        x, y = x + length / steps * np.cos(angle), y + length / steps * np.sin(angle)
        points.append((x, y))
    return points


def _pixels(points: Sequence[Point]) -> NDArray[np.int32]:
    return np.rint(np.asarray(points, np.float64) * SIZE * SCALE).astype(np.int32)
