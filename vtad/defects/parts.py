"""The parts of aligned good pictures: areas that go together in every picture, with a border that every picture has there.

The rule. Good pictures must register onto each other (`vtad.data.registration`); textures and loose parts do not, and have no
parts. Squares of 4 pixels are described by their colour and the backbone's features in each of some pictures, and clustered
by k-means: squares that go together in all of them, also where the pictures come in variants, are one cluster. Its connected
areas of 0.25 to 20 % of the picture are parts, if in other good pictures, too, just inside and just outside differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad.data.registration import Registration

RGB = NDArray[np.uint8]
Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

STEP = 4  # pixels a side of the squares that are clustered
FEWEST = 8  # pictures: fewer say nothing of what recurs
CLUSTERS = (4, 8, 16, 32)  # parts come in several sizes
DIRECTIONS = 8  # of the features that describe a square, in each picture
FEATURES = 0.5  # their variance, for 1 of the colour: cells are coarse, borders are to be exact
DESCRIBED = 32  # directions of all that describes a square
AREA = (0.0025, 0.20)  # smallest and largest share of the picture
RIM = 0.25  # of a part's outline at most lies on the border of the picture: the background does
CONTRAST = 0.4  # share of the variance along the border that lies between inside and outside, in four pictures of five
SAME = 0.7  # intersection over union from which two areas are one part
MOST, LEAST = 32, 2  # parts; those of most contrast are kept, and a single one has no relations
NEAREST = 3  # pictures with the most similar rest, that foretell a part's colour
VARIES = 16.0  # levels of 255, standard deviation of a colour that comes in variants, at least
FORETOLD = 0.6  # share of a part's variance of colour that these must explain, for it to go with the rest


@dataclass(frozen=True, eq=False)
class Part:
    """One part, at the same place in every picture."""

    mask: Mask  # (h, w), of the box
    x: int  # pixels from the left edge to the box
    y: int  # pixels from the top edge
    colours: Float  # (N, 3), its mean in good pictures, 0..255
    left_open: float  # levels by which the rest of the picture leaves its colour open; infinity: it goes its own way

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.mask.shape[1], self.mask.shape[0]


@dataclass(frozen=True, eq=False)
class Parts:
    """What good pictures of a category consist of; none where they have no aligned parts."""

    parts: tuple[Part, ...]
    note: str  # one line, why
    reach: float = 0.0  # pixels by which good parts lie apart

    def __len__(self) -> int:
        return len(self.parts)


NONE = Parts((), "")


def found_parts(images: RGB, features: Float, registration: Registration) -> Parts:
    """Of good pictures (N, H, W, 3) with their features (N, C, rows, columns)."""
    response = f"{registration.response:.2f} of the correlation in one peak"
    if len(images) < FEWEST:
        return Parts((), f"no aligned parts sought in {len(images)} pictures: no synthetic defects of relation")
    if not registration.aligned:
        return Parts(
            (), f"good pictures have no aligned parts ({response}), as textures and loose parts: no defects of relation"
        )
    described = _described(images, features)
    kept = _distinct(_areas(described[::2]), described[1::2])
    if len(kept) < LEAST:
        return Parts(
            (), f"good pictures lie alike ({response}) and have no parts with a border: no defects of relation"
        )
    height, width = images.shape[1:3]
    parts = _foretold([_part(area, images) for area in kept])
    shares = [part.mask.sum() / (height * width) for part in parts]
    together = sum(np.isfinite(part.left_open) for part in parts)
    note = (
        f"{len(parts)} aligned parts of {100 * min(shares):.2g} to {100 * max(shares):.2g} % of the picture, {together} of a "
        "colour that goes with the rest: defects of relation are drawn"
    )
    return Parts(tuple(parts), note, registration.shift * max(height, width))


def _described(images: RGB, features: Float) -> Float:
    """(N, rows, columns, D) of squares: colour and features, each with a fixed variance over all."""
    height, width = images.shape[1] // STEP, images.shape[2] // STEP
    f = features.transpose(0, 2, 3, 1)
    cells = f.reshape(-1, f.shape[-1])
    mean, std = cells.mean(0), cells.std(0) + 1e-6
    sample = (cells[:: max(1, len(cells) // 20_000)] - mean) / std
    directions = np.linalg.eigh(sample.T @ sample)[1][:, -DIRECTIONS:]
    known = _of_variance(((f - mean) / std) @ directions, FEATURES)
    large = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in known])
    lab = [cv2.cvtColor(image, cv2.COLOR_RGB2LAB) for image in images]
    colours = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in lab])
    return np.concatenate([_of_variance(colours.astype(np.float32), 1.0), large], axis=-1)


def _of_variance(x: Float, variance: float) -> Float:
    """(..., D) with mean 0 and the variance, summed over D."""
    centred = x - x.reshape(-1, x.shape[-1]).mean(0)
    scaled: Float = np.asarray(
        centred * np.sqrt(variance / max(float(np.square(centred).sum(-1).mean()), 1e-9)), np.float32
    )
    return scaled


def _areas(described: Float) -> Iterator[Mask]:
    """Connected areas (rows, columns) of clusters of squares, from (N, rows, columns, D)."""
    rows, columns = described.shape[1:3]
    squares = described.transpose(1, 2, 0, 3).reshape(rows * columns, -1)
    squares = squares - squares.mean(0)
    squares = np.ascontiguousarray(squares @ np.linalg.eigh(squares.T @ squares)[1][:, -DESCRIBED:], np.float32)
    end = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-4)
    for count in CLUSTERS:
        if count > len(squares):
            return
        cv2.setRNGSeed(0)
        _, labels, _ = cv2.kmeans(squares, count, None, end, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
        smooth = cv2.medianBlur(labels.reshape(rows, columns).astype(np.uint8), 3)
        for label in range(count):
            number, areas = cv2.connectedComponents((smooth == label).astype(np.uint8), connectivity=4)
            for i in range(1, number):
                for area in (areas == i, _without_holes(areas == i)):  # a bottle's contents, with the label and without
                    if AREA[0] <= area.mean() <= AREA[1] and _rim(area) <= RIM:
                        yield area


def _distinct(areas: Iterator[Mask], described: Float) -> list[Mask]:
    """Areas with a border in pictures (N, rows, columns, D), those of most contrast first, each once."""
    ranked = sorted(
        ((_contrast(area, described), i, area) for i, area in enumerate(areas)), key=lambda r: (-r[0], r[1])
    )
    kept: list[Mask] = []
    for contrast, _, area in ranked:
        if contrast >= CONTRAST and all((area & o).sum() <= SAME * (area | o).sum() for o in kept):
            kept.append(area)
    return kept[:MOST]


def _contrast(area: Mask, described: Float) -> float:
    """Share of the variance between two squares inside an area's border and two outside; so much in four pictures of five."""
    ink, square = area.astype(np.uint8), np.ones((3, 3), np.uint8)
    inside = area & (cv2.erode(ink, square, iterations=2) == 0)
    outside = (cv2.dilate(ink, square, iterations=3) > 0) & (cv2.dilate(ink, square) == 0)
    if not outside.any():
        return 0.0
    a, b = described[:, inside], described[:, outside]
    between = np.square(a.mean(1) - b.mean(1)).sum(1)
    within = (a.var(1).sum(1) + b.var(1).sum(1)) / 2
    return float(np.quantile(between / (between + within + 1e-9), 0.2))


def _without_holes(area: Mask) -> Mask:
    around = np.pad(area, 1).astype(np.uint8)
    cv2.floodFill(around, None, (0, 0), 2)
    return np.asarray(around[1:-1, 1:-1] != 2)


def _rim(area: Mask) -> float:
    """Share of an area's outline that lies on the border of the picture."""
    ink = area.astype(np.uint8)
    inner = cv2.erode(ink, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    at_rim = sum(int(line.sum()) for line in (area[0], area[-1], area[:, 0], area[:, -1]))
    return at_rim / max(1, int(area.sum() - inner.sum()))


def _part(area: Mask, images: RGB) -> Part:
    """An area of squares as a part of pictures (N, H, W, 3)."""
    height, width = images.shape[1:3]
    whole = cv2.resize(area.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    x, y, w, h = cv2.boundingRect(whole.astype(np.uint8))
    mask = np.asarray(whole[y : y + h, x : x + w])
    colours = np.stack([image[y : y + h, x : x + w][mask].mean(0) for image in images])
    return Part(mask, x, y, colours.astype(np.float32), np.inf)


def _foretold(parts: list[Part]) -> list[Part]:
    """The parts, with what the others, in the pictures where they look most alike, leave open of each one's colour."""
    out = []
    for part in parts:
        others = [other.colours for other in parts if not _meet(part, other)]
        if not others:
            out.append(part)
            continue
        rest = np.concatenate(others, axis=1)
        away = np.square(rest[:, None] - rest[None]).sum(-1)
        np.fill_diagonal(away, np.inf)
        nearest = np.argsort(away, axis=1)[:, :NEAREST]
        errors = np.square(part.colours - part.colours[nearest].mean(1)).sum(1).mean()
        variance = part.colours.var(0).sum()
        goes_along = variance >= VARIES**2 and errors <= (1 - FORETOLD) * variance
        out.append(dataclasses.replace(part, left_open=float(np.sqrt(errors)) if goes_along else np.inf))
    return out


def _meet(a: Part, b: Part) -> bool:
    """Whether two parts overlap."""
    x, y = max(a.x, b.x), max(a.y, b.y)
    w = min(a.x + a.size[0], b.x + b.size[0]) - x
    h = min(a.y + a.size[1], b.y + b.size[1]) - y
    if min(w, h) <= 0:
        return False
    mine, theirs = (part.mask[y - part.y : y - part.y + h, x - part.x : x - part.x + w] for part in (a, b))
    return bool((mine & theirs).any())
