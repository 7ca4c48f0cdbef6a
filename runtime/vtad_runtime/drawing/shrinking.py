"""A smaller picture, and the result as if it were of that picture."""

from __future__ import annotations

import dataclasses

from vtad_runtime.contract.fit import Box, Placement, resize
from vtad_runtime.drawing.encoding import RGB, drawing
from vtad_runtime.verdict.detector import Region, Result


@drawing()
def shrink(rgb: RGB, longest: int) -> RGB:
    """The picture (H, W, 3) itself, or shrunk to `longest` pixels on its longer side. Raises PictureError."""
    height, width = rgb.shape[:2]
    scale = longest / max(height, width)
    return rgb if scale >= 1 else resize(rgb, max(1, round(width * scale)), max(1, round(height * scale)))


def shrink_judged(rgb: RGB, result: Result, longest: int) -> tuple[RGB, Result]:
    """The same with its result: heatmap and regions are those of the smaller picture. Raises PictureError."""
    small = shrink(rgb, longest)
    if small is rgb:
        return rgb, result
    return small, judged_at(result, small.shape[1], small.shape[0])


def judged_at(result: Result, width: int, height: int) -> Result:
    """A result as if its picture had been of this size: heatmap and regions are those of the smaller picture."""
    across, down = width / result.placement.source_width, height / result.placement.source_height
    used = result.placement.used
    left, top = min(round(used.x * across), width - 1), min(round(used.y * down), height - 1)
    right, bottom = round((used.x + used.width) * across), round((used.y + used.height) * down)
    box = Box(left, top, max(1, right - left), max(1, bottom - top))
    placement = Placement(width, height, box, result.placement.inside)
    regions = tuple(_scaled(region, across, down) for region in result.regions)
    return dataclasses.replace(result, placement=placement, regions=regions)


def _scaled(region: Region, across: float, down: float) -> Region:
    return dataclasses.replace(
        region,
        x=round(region.x * across),
        y=round(region.y * down),
        width=max(1, round(region.width * across)),
        height=max(1, round(region.height * down)),
    )
