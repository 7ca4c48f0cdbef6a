"""Small pictures for the page: what the model took and what it says of it, as WebP in data URIs.

How large and how sharp they are follows from how many there are: all of them together keep to a number of bytes, whatever
they show.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad.evaluation.at_source import Map, Mask
from vtad.evaluation.judging import Judged
from vtad_runtime.contract.fit import resize
from vtad_runtime.contract.tint import RGB, tint

ALL_BYTES = 6_500_000  # of all pictures of a page; base64 makes four bytes of three
LARGEST = 360  # pixels, the longer side
SMALLEST = 96
BITS_A_PIXEL = 0.7  # that a layer takes, about
QUALITIES = (82, 70, 55, 40, 25, 10)  # of WebP, until a picture is small enough; then its sides are halved
OUTLINE_LENGTH = 1200  # characters of a mask's outline, at most

LAYERS = {
    "picture": "Picture",
    "heatmap": "Heatmap",
    "ssim_map": "SSIM map",
    "density_map": "Density map",
    "reconstruction": "Reconstruction",
}


@dataclass(frozen=True)
class View:
    """The layers of one picture, all of one size."""

    width: int  # pixels
    height: int
    layers: dict[str, str]  # data URIs, by the names in LAYERS
    outline: str  # of the mask, as the path of an SVG in pixels of the layers; empty without one


class Studio:
    """Makes the views of a page, so that all of them fit."""

    def __init__(self, pictures: int, pixel_threshold: float) -> None:
        """For so many pictures at most."""
        self._pixel_threshold = pixel_threshold
        self._budget = ALL_BYTES // max(pictures, 1)
        side = math.sqrt(8 * self._budget / (BITS_A_PIXEL * len(LAYERS)))
        self._side = int(min(max(side, SMALLEST), LARGEST))
        self._sharpest = 0  # of QUALITIES: where the search begins

    def view(self, judged: Judged, mask: Mask | None) -> View:
        """The layers of a judged picture; `mask` is of the picture's shape, of any size."""
        side, start = self._side, self._sharpest
        while True:
            layers = self._layers(judged, side)
            for number in range(start, len(QUALITIES)):
                encoded = {name: _webp(rgb, QUALITIES[number]) for name, rgb in layers.items()}
                if sum(map(len, encoded.values())) <= self._budget or (
                    side <= SMALLEST // 2 and number + 1 == len(QUALITIES)
                ):
                    self._sharpest = max(0, number - 1)
                    height, width = layers["picture"].shape[:2]
                    uris = {name: _uri(data) for name, data in encoded.items()}
                    return View(width, height, uris, _outline(judged, mask, width, height))
            side, start = side // 2, 0

    def _layers(self, judged: Judged, side: int) -> dict[str, RGB]:
        """Each as RGB (height, width, 3): what was the picture's, in the shape that it had there."""
        inside, used = judged.placement.inside.slices, judged.placement.used
        width, height = _fitting(used.width, used.height, min(side, max(judged.pixels.shape[:2])))

        def small(array: NDArray[np.uint8]) -> RGB:
            return resize(array[inside], width, height)

        def colours(values: Map, below: RGB) -> RGB:
            return tint(below, resize(values[inside], width, height), self._pixel_threshold)

        picture = small(judged.pixels)
        dim = np.repeat((0.3 * picture.mean(axis=2, keepdims=True)).astype(np.uint8), 3, axis=2)
        drawn = np.rint(255 * np.clip(np.nan_to_num(judged.reconstruction), 0, 1)).astype(np.uint8)
        return {
            "picture": picture,
            "heatmap": colours(judged.heatmap, picture),
            "ssim_map": colours(judged.ssim_map, dim),
            "density_map": colours(judged.density_map, dim),
            "reconstruction": small(drawn),
        }


def _fitting(width: int, height: int, longest: int) -> tuple[int, int]:
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _webp(rgb: RGB, quality: int) -> bytes:
    done, data = cv2.imencode(".webp", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done
    return data.tobytes()


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _outline(judged: Judged, mask: Mask | None, width: int, height: int) -> str:
    """Around each part of the mask, coarser where that is long."""
    if mask is None or not mask.any():
        return ""
    placement = judged.placement
    used, across = placement.used, mask.shape[1] / placement.source_width  # the mask may be shrunk
    rows, columns = (slice(math.floor(s.start * across), math.ceil(s.stop * across)) for s in used.slices)
    fine = cv2.resize(mask[rows, columns].astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
    contours, _ = cv2.findContours(fine.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest_first = sorted(contours, key=cv2.contourArea, reverse=True)
    for coarse in (0.5, 1.0, 2.0, 4.0):
        parts = [cv2.approxPolyDP(contour, coarse, closed=True)[:, 0] for contour in largest_first]
        path = "".join(f"M{'L'.join(f'{x} {y}' for x, y in part)}Z" for part in parts)
        if len(path) <= OUTLINE_LENGTH:
            return path
    kept = path[:OUTLINE_LENGTH].rpartition("Z")[0]
    return f"{kept}Z" if kept else ""
