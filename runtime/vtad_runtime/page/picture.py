"""Pictures for the browser. RGB arrays in, JPEG or PNG bytes out.

The picture and its heatmap travel as one JPEG, the plain picture above the tinted one, so the two can never belong to
different frames; the browser blends the halves. Colours and boxes are those of `vtad_runtime.contract.tint` and
`vtad_runtime.drawing.regions`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtad_runtime.contract.tint import colour_bar, tint
from vtad_runtime.drawing.encoding import RGB, drawing, encode
from vtad_runtime.drawing.heatmap import overlay
from vtad_runtime.drawing.regions import MAX_BOXES, draw_regions
from vtad_runtime.drawing.shrinking import shrink, shrink_judged
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
    about: str  # JSON: frame, captured_at, file; width, height, tinted_top in pixels; regions as shares of the picture


@drawing()
def layers(judgement: Judgement) -> Layers:
    """The frame of a judgement, plain and tinted. Raises PictureError; ValueError when it has no frame."""
    if judgement.frame is None:
        raise ValueError("layers: expected a judgement with a frame, got one without")
    result, regions = judgement.result, list[Region]()
    if result is None:
        rgb = tinted = shrink(judgement.frame.rgb, LONGEST)
    else:
        rgb, result = shrink_judged(judgement.frame.rgb, result, LONGEST)
        tinted, regions = tint(rgb, result.heatmap, result.pixel_threshold), list(result.regions[:MAX_BOXES])
    height, width = rgb.shape[:2]
    plain = np.pad(rgb, ((0, -height % BLOCK), (0, 0), (0, 0)), mode="edge")
    about = {
        "frame": judgement.number,
        "captured_at": judgement.frame.captured_at,
        "file": Path(judgement.frame.path).name if judgement.frame.path else None,
        "width": width,
        "height": height,
        "tinted_top": plain.shape[0],
        "regions": [_share(region, width, height) for region in regions],
    }
    return Layers(encode(np.vstack([plain, tinted]), ".jpg", QUALITY), json.dumps(about))


def still(rgb: RGB, result: Result) -> bytes:
    """A picture as it is saved to disk, legend and all, as JPEG. Raises PictureError."""
    return encode(overlay(rgb, result), ".jpg", QUALITY)


@drawing()
def thumbnail(rgb: RGB, result: Result) -> bytes:
    """A small tinted and boxed picture as JPEG. Raises PictureError."""
    small, result = shrink_judged(rgb, result, THUMB)
    picture = tint(small, result.heatmap, result.pixel_threshold)
    draw_regions(picture, result.regions)
    return encode(picture, ".jpg", QUALITY)


def scale_bar() -> bytes:
    """The fixed colour scale over grey, from 0 to twice the pixel threshold, as PNG."""
    return encode(colour_bar(512, 16, 1.0), ".png")


def _share(region: Region, width: int, height: int) -> list[float]:
    """x, y, width, height as shares of the picture."""
    box = (region.x / width, region.y / height, region.width / width, region.height / height)
    return [round(v, 5) for v in box]
