"""What the model saw, side by side: input, heatmap, SSIM map, density map, reconstruction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.fit import resize
from vtad_runtime.contract.tint import tint
from vtad_runtime.drawing.encoding import RGB, drawing
from vtad_runtime.drawing.heatmap import legend, widened
from vtad_runtime.drawing.regions import draw_regions
from vtad_runtime.drawing.shrinking import shrink_judged
from vtad_runtime.drawing.text import PAPER, draw_text, text_width
from vtad_runtime.verdict.detector import Result

TILE = 640  # pixels, the longer side of the tiles


@drawing()
def panel(rgb: RGB, result: Result) -> RGB:
    """Input, overlay, SSIM map, density map and reconstruction with captions, the legend strip below. RGB uint8.

    At most 3,224 pixels wide, whatever the size of the source. Raises PictureError.
    """
    rgb, result = shrink_judged(rgb, result, TILE)  # nothing below is of the size of the source
    height, width = rgb.shape[:2]
    scale = TILE / max(height, width)
    tile_width, tile_height = max(1, round(width * scale)), max(1, round(height * scale))
    small = resize(rgb, tile_width, tile_height)
    maps = [resize(m, tile_width, tile_height) for m in (result.heatmap, result.ssim_map, result.density_map)]
    tinted = tint(small, maps[0], result.pixel_threshold)
    draw_regions(tinted, result.regions, scale)
    tiles = {
        "input": small,
        "heatmap": tinted,
        "SSIM map": _colours(maps[1], result.pixel_threshold),
        "density map": _colours(maps[2], result.pixel_threshold),
        "reconstruction": resize(_reconstruction(result), tile_width, tile_height),
    }
    gap = np.full((tile_height + 28, 6, 3), PAPER, np.uint8)
    row = [part for caption, tile in tiles.items() for part in (_captioned(tile, caption), gap)]
    picture = np.hstack(row[:-1])
    width = picture.shape[1]
    return np.vstack([picture, widened(legend(result, min(width, 2 * TILE)), width)])


def _colours(values: NDArray[np.float32], pixel_threshold: float) -> RGB:
    """A map (H, W) on its own: black below half the pixel threshold, then the same colours as the overlay."""
    return tint(np.zeros((*values.shape, 3), np.uint8), values, pixel_threshold)


def _reconstruction(result: Result) -> RGB:
    """The reconstruction (height, width, 3) where it lies in the source picture, black where the model saw nothing."""
    placement = result.placement
    source: RGB = np.zeros((placement.source_height, placement.source_width, 3), np.uint8)
    part = result.reconstruction[placement.inside.slices]
    source[placement.used.slices] = resize(part, placement.used.width, placement.used.height)
    return source


def _captioned(tile: RGB, caption: str) -> RGB:
    head: RGB = np.full((28, tile.shape[1], 3), PAPER, np.uint8)
    scale = min(0.6, 0.6 * (tile.shape[1] - 8) / text_width(caption, 0.6))
    draw_text(head, caption, 4, 20, scale=max(scale, 0.1))
    return np.vstack([head, tile])
