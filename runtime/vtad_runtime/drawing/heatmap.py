"""Pictures of a result: the heatmap over the source, and a side-by-side panel. Arrays in, arrays out; all RGB uint8.

The colour scale is fixed in units of normal variation, from 0 to twice the pixel threshold, so colours mean the same in
every picture: below half the pixel threshold nothing is tinted, and a good part looks like itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.image import resize
from vtad_runtime.verdict.detector import Region, Result
from vtad_runtime.verdict.verdict import Verdict

RGB = NDArray[np.uint8]
Colour = tuple[int, int, int]

MIN_WIDTH = 360  # pixels; a narrower picture is enlarged by a whole factor, so that the legend is legible
TILE = 640  # pixels, the longer side of a panel's tiles
MAX_BOXES = 20  # of the strongest regions; all of them are in the results file
RAMP_START, RAMP_END = 0.28, 0.97  # the part of inferno that is neither black nor white: violet, red, orange, yellow
MAX_ALPHA = 0.75  # the surface stays visible under the strongest colour

INK: Colour = (235, 235, 235)
FAINT: Colour = (150, 150, 150)
PAPER: Colour = (24, 24, 24)
VERDICT_COLOURS: dict[Verdict, Colour] = {
    Verdict.OK: (40, 140, 70),
    Verdict.NG: (200, 40, 40),
    Verdict.UNSURE: (180, 130, 20),
    Verdict.STALE: (110, 110, 110),
    Verdict.ERROR: (150, 50, 150),
}


def overlay(rgb: RGB, result: Result) -> RGB:
    """The source picture (H, W, 3) tinted where the heatmap is high, regions boxed, with a legend strip below.

    At source resolution, or enlarged by a whole factor when narrower than 360 pixels.
    """
    factor = max(1, math.ceil(MIN_WIDTH / rgb.shape[1]))
    picture = _tint(_enlarge(rgb, factor), _scaled(result.heatmap, factor), result.pixel_threshold)
    _draw_regions(picture, result.regions, factor)
    return np.vstack([picture, legend(result, picture.shape[1])])


def panel(rgb: RGB, result: Result) -> RGB:
    """Input, overlay, SSIM map, density map and reconstruction side by side with captions, the legend strip below."""
    height, width = rgb.shape[:2]
    scale = TILE / max(height, width)
    tile_width, tile_height = max(1, round(width * scale)), max(1, round(height * scale))
    small = resize(rgb, tile_width, tile_height)
    maps = [resize(m, tile_width, tile_height) for m in (result.heatmap, result.ssim_map, result.nll_map)]
    tinted = _tint(small, maps[0], result.pixel_threshold)
    _draw_regions(tinted, result.regions, scale)
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
    part = legend(result, min(picture.shape[1], 2 * TILE))
    strip: RGB = np.full((part.shape[0], picture.shape[1], 3), PAPER, np.uint8)
    strip[:, : part.shape[1]] = part
    return np.vstack([picture, strip])


def legend(result: Result, width: int) -> RGB:
    """The strip below a picture `width` pixels wide: verdict, score, threshold, p-value, and the colour scale."""
    scale = min(max(width / 900, 0.42), 4.0)  # of the font; 1.0 is about 22 pixels high
    line = round(34 * scale)
    margin = line // 2
    verdict = _text_size(result.verdict, scale * 1.1)[0]
    words = [f"score {_number(result.score)}", f"threshold {_number(result.threshold)}", f"p {_number(result.p_value)}"]
    if result.error:
        words = [result.error]
    text_x = margin + verdict + line
    room = max(width - text_x - margin, 1)
    text_scale = min(scale, scale * room / max(_text_size("   ".join(words), scale)[0], 1))
    strip: RGB = np.full((round(line * 3.6), width, 3), PAPER, np.uint8)

    cv2.rectangle(
        strip,
        (margin, line // 4),
        (margin + verdict + line // 2, line // 4 + line),
        VERDICT_COLOURS[result.verdict],
        -1,
    )
    _text(strip, result.verdict, margin + line // 4, line, scale=scale * 1.1, colour=(255, 255, 255))
    _text(strip, "   ".join(words), text_x, line, scale=text_scale, colour=INK)

    bar = slice(round(line * 1.6), round(line * 2.1)), slice(margin, max(width - margin, margin + 2))
    bar_width, bar_height = bar[1].stop - bar[1].start, bar[0].stop - bar[0].start
    top = 2 * result.pixel_threshold
    ramp = np.repeat(np.linspace(0, top, bar_width, dtype=np.float32)[None], bar_height, axis=0)
    strip[bar] = _tint(np.full((bar_height, bar_width, 3), 70, np.uint8), ramp, result.pixel_threshold)
    tick_scale = scale * 0.8
    unit = " x normal variation" if width >= 1.4 * MIN_WIDTH else ""
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = bar[1].start + round(share * (bar_width - 1))
        marked = share == 0.5
        cv2.line(
            strip,
            (x, bar[0].start - (line // 5 if marked else 0)),
            (x, bar[0].stop + line // 5),
            INK if marked else FAINT,
            max(1, round(2 * scale)) if marked else max(1, round(scale)),
        )
        text = f"pixel threshold {_number(share * top)}" if marked else _number(share * top)
        if unit and share == 0.75:
            continue  # the unit takes the room of this number
        text += unit if share == 1 else ""
        text_width = _text_size(text, tick_scale)[0]
        left = min(max(x - text_width // 2, margin), width - margin - text_width)
        _text(strip, text, left, round(line * 3.1), scale=tick_scale, colour=INK if marked else FAINT)
    return strip


def _tint(rgb: RGB, values: NDArray[np.float32], pixel_threshold: float) -> RGB:
    """Blend the colours of `values` (H, W) over `rgb`, growing with the value; a copy."""
    ramp = _ramp(values, pixel_threshold)
    tinted = rgb.copy()
    high = ramp > 0
    if high.any():
        # From 0.25 at once, so that the first tint is seen, and the scale's order reads from the colour alone.
        alpha = (0.25 + (MAX_ALPHA - 0.25) * np.minimum(ramp[high] * 2, 1))[:, None]  # (N, 1)
        tinted[high] = np.rint(rgb[high] * (1 - alpha) + _inferno(ramp[high]) * alpha).astype(np.uint8)
    return tinted


def _colours(values: NDArray[np.float32], pixel_threshold: float) -> RGB:
    """A map (H, W) on its own: black below half the pixel threshold, then the same colours as the overlay."""
    return _tint(np.zeros((*values.shape, 3), np.uint8), values, pixel_threshold)


def _ramp(values: NDArray[np.float32], pixel_threshold: float) -> NDArray[np.float32]:
    """0 up to half the pixel threshold, then linear to 1 at twice the pixel threshold; NaN counts as 1."""
    half = pixel_threshold / 2
    ramp = (np.nan_to_num(values, nan=np.inf, posinf=np.inf) - half) / (2 * pixel_threshold - half)
    return np.asarray(np.clip(ramp, 0, 1), np.float32)


def _inferno(ramp: NDArray[np.float32]) -> RGB:
    """Colours (N, 3) of a ramp (N,) in 0..1."""
    index = np.rint((RAMP_START + (RAMP_END - RAMP_START) * ramp) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(index[:, None], cv2.COLORMAP_INFERNO)  # (N, 1, 3)
    return np.asarray(bgr[:, 0, ::-1], np.uint8)


def _draw_regions(picture: RGB, regions: Sequence[Region], scale: float) -> None:
    """Box the strongest regions in place, white on black so that they show on any surface."""
    thickness = max(1, round(min(picture.shape[:2]) / 400))
    for region in regions[:MAX_BOXES]:
        gap = 2 * thickness  # the box stays clear of what it shows
        left, top = round(region.x * scale) - gap, round(region.y * scale) - gap
        right = round((region.x + region.width) * scale) + gap
        bottom = round((region.y + region.height) * scale) + gap
        cv2.rectangle(picture, (left, top), (right, bottom), (0, 0, 0), thickness * 3)
        cv2.rectangle(picture, (left, top), (right, bottom), (255, 255, 255), thickness)


def _reconstruction(result: Result) -> RGB:
    """The reconstruction (height, width, 3) where it lies in the source picture, black where the model saw nothing."""
    placement = result.placement
    source: RGB = np.zeros((placement.source_height, placement.source_width, 3), np.uint8)
    part = result.reconstruction[placement.inside.slices]
    source[placement.used.slices] = resize(part, placement.used.width, placement.used.height)
    return source


def _enlarge(rgb: RGB, factor: int) -> RGB:
    """Every pixel as a square of `factor` pixels."""
    return rgb if factor == 1 else rgb.repeat(factor, axis=0).repeat(factor, axis=1)


def _scaled(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    return values if factor == 1 else resize(values, values.shape[1] * factor, values.shape[0] * factor)


def _captioned(tile: RGB, caption: str) -> RGB:
    head: RGB = np.full((28, tile.shape[1], 3), PAPER, np.uint8)
    scale = min(0.6, 0.6 * (tile.shape[1] - 8) / _text_size(caption, 0.6)[0])
    _text(head, caption, 4, 20, scale=max(scale, 0.1), colour=INK)
    return np.vstack([head, tile])


def _number(value: float) -> str:
    """At most three significant digits."""
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _text_size(text: str, scale: float) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, max(1, round(1.6 * scale)))
    return int(width), int(height)


def _text(picture: RGB, text: str, x: int, baseline: int, *, scale: float, colour: Colour) -> None:
    thickness = max(1, round(1.6 * scale))
    cv2.putText(picture, text, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
