"""A small picture with its heatmap and regions, as the bytes of a JPEG: for tables of many pictures."""

from __future__ import annotations

from vtad_runtime.contract.tint import tint
from vtad_runtime.drawing.encoding import RGB, drawing, encode
from vtad_runtime.drawing.regions import draw_regions
from vtad_runtime.drawing.shrinking import judged_at
from vtad_runtime.verdict.detector import Result

LONGEST = 256  # pixels
QUALITY = 85


@drawing()
def thumbnail(rgb: RGB, result: Result) -> bytes:
    """Of a picture that was shrunk already, (h, w, 3), and the result of the whole one. Raises PictureError."""
    small = judged_at(result, rgb.shape[1], rgb.shape[0])
    picture = tint(rgb, small.heatmap, result.pixel_threshold)
    draw_regions(picture, small.regions)
    return encode(picture, ".jpg", QUALITY)
