"""Pictures for the browser. RGB arrays in, JPEG or PNG bytes out.

The picture and its heatmap travel as one JPEG, the plain picture above the tinted one, so the two can never belong to
different frames; the browser blends the halves. Colours and boxes are those of `vtad_runtime.drawing.heatmap`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vtad_runtime.contract.image import Box, Placement, resize
from vtad_runtime.drawing import heatmap
from vtad_runtime.drawing.heatmap import RGB
from vtad_runtime.verdict.detector import Region, Result
from vtad_runtime.verdict.judgement import Judgement

LONGEST = 800  # pixels, the longer side of what is sent and kept
THUMB = 320  # pixels, the same of a thumbnail
QUALITY = 82  # of JPEG
BLOCK = 16  # pixels of a JPEG block with shared colour: the halves must not meet inside one


@dataclass(frozen=True)
class Layers:
    """One frame for the browser."""

    jpeg: bytes  # the plain picture, rows up to a multiple of 16, then the tinted one
    about: (
        str  # JSON: frame, captured_at, file, width, height, tinted_top (all pixels), regions as shares of the picture
    )


def layers(judgement: Judgement) -> Layers:
    """The frame of a judgement, plain and tinted. Raises ValueError when it has none."""
    if judgement.frame is None:
        raise ValueError("layers: expected a judgement with a frame, got one without")
    rgb, result = shrink(judgement.frame.rgb, judgement.result, LONGEST)
    height, width = rgb.shape[:2]
    tinted = heatmap._tint(rgb, result.heatmap, result.pixel_threshold) if result else rgb
    plain = np.pad(rgb, ((0, -height % BLOCK), (0, 0), (0, 0)), mode="edge")
    about = {
        "frame": judgement.number,
        "captured_at": judgement.frame.captured_at,
        "file": Path(judgement.frame.path).name if judgement.frame.path else None,
        "width": width,
        "height": height,
        "tinted_top": plain.shape[0],
        "regions": [_share(r, width, height) for r in result.regions[: heatmap.MAX_BOXES]] if result else [],
    }
    return Layers(jpeg(np.vstack([plain, tinted])), json.dumps(about))


def shrink(rgb: RGB, result: Result | None, longest: int) -> tuple[RGB, Result | None]:
    """A picture (H, W, 3) of at most `longest` pixels a side, and the result as of that picture: heatmap and regions."""
    height, width = rgb.shape[:2]
    factor = min(1.0, longest / max(height, width))
    new_width, new_height = max(1, round(width * factor)), max(1, round(height * factor))
    small = rgb if factor == 1 else resize(rgb, new_width, new_height)
    if result is None or factor == 1:
        return small, result
    across, down = new_width / width, new_height / height
    placement = Placement(new_width, new_height, _scaled(result.placement.used, across, down), result.placement.inside)
    regions = tuple(
        dataclasses.replace(
            r,
            x=round(r.x * across),
            y=round(r.y * down),
            width=max(1, round(r.width * across)),
            height=max(1, round(r.height * down)),
        )
        for r in result.regions
    )
    return small, dataclasses.replace(result, placement=placement, regions=regions)


def still(rgb: RGB, result: Result) -> bytes:
    """A picture as it is saved to disk, legend and all, as JPEG."""
    return jpeg(heatmap.overlay(rgb, result))


def thumbnail(rgb: RGB, result: Result) -> bytes:
    """A small tinted and boxed picture as JPEG."""
    small, scaled = shrink(rgb, result, THUMB)
    if scaled is None:
        return jpeg(small)
    picture = heatmap._tint(small, scaled.heatmap, scaled.pixel_threshold)
    heatmap._draw_regions(picture, scaled.regions, 1.0)
    return jpeg(picture)


def scale_bar(width: int = 512, height: int = 16) -> bytes:
    """The fixed colour scale over grey, from 0 to twice the pixel threshold, as PNG."""
    ramp = np.repeat(np.linspace(0, 2, width, dtype=np.float32)[None], height, axis=0)
    grey: RGB = np.full((height, width, 3), 70, np.uint8)
    return _encoded(".png", heatmap._tint(grey, ramp, 1.0), [])


def jpeg(rgb: RGB) -> bytes:
    """RGB as JPEG."""
    return _encoded(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def _encoded(suffix: str, rgb: RGB, options: list[int]) -> bytes:
    _, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def _share(region: Region, width: int, height: int) -> list[float]:
    """x, y, width, height as shares of the picture."""
    box = (region.x / width, region.y / height, region.width / width, region.height / height)
    return [round(v, 5) for v in box]


def _scaled(box: Box, across: float, down: float) -> Box:
    left, top = round(box.x * across), round(box.y * down)
    right, bottom = round((box.x + box.width) * across), round((box.y + box.height) * down)
    return Box(left, top, max(1, right - left), max(1, bottom - top))
