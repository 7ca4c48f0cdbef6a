"""The heatmap over the source picture, with a legend below. Arrays in, arrays out; all RGB uint8."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from vtad_runtime.contract.fit import resize
from vtad_runtime.contract.tint import colour_bar, tint
from vtad_runtime.drawing.encoding import RGB, drawing
from vtad_runtime.drawing.regions import draw_regions
from vtad_runtime.drawing.shrinking import shrink_judged
from vtad_runtime.drawing.text import FAINT, INK, PAPER, VERDICT_COLOURS, WHITE, draw_text, font_scale, text_width
from vtad_runtime.verdict.detector import Result

MIN_WIDTH = 360  # pixels; a narrower picture is enlarged by a whole factor, so that the legend is legible
MAX_SIDE = 4096  # pixels of a drawn picture, legend included


@drawing()
def overlay(rgb: RGB, result: Result) -> RGB:
    """The source picture (H, W, 3) tinted where the heatmap is high, regions boxed, with a legend strip below.

    At source resolution, or enlarged by a whole factor when narrower than 360 pixels, as far as 4,096 pixels a side allow:
    a larger picture is shrunk, and a long narrow one gets a dark margin beside it. Raises PictureError.
    """
    enlarged = rgb.shape[1] * math.ceil(MIN_WIDTH / rgb.shape[1])  # columns; enough for the legend
    room = MAX_SIDE - legend_height(enlarged)  # rows left for the picture itself
    rgb, result = shrink_judged(rgb, result, _longest(rgb, room))
    height, width = rgb.shape[:2]
    factor = max(1, min(math.ceil(MIN_WIDTH / width), room // height))
    heat = result.heatmap
    if factor > 1:
        rgb = rgb.repeat(factor, axis=0).repeat(factor, axis=1)  # every pixel as a square
        heat = resize(heat, width * factor, height * factor)
    picture = tint(rgb, heat, result.pixel_threshold)
    draw_regions(picture, result.regions, factor)
    picture = widened(picture, MIN_WIDTH)
    return np.vstack([picture, legend(result, picture.shape[1])])


def widened(rgb: RGB, width: int) -> RGB:
    """The picture, with a dark margin to its right where it is narrower than `width` pixels."""
    missing = width - rgb.shape[1]
    if missing <= 0:
        return rgb
    margin: RGB = np.full((rgb.shape[0], missing, 3), PAPER, np.uint8)
    return np.hstack([rgb, margin])


def legend_height(width: int) -> int:
    """Rows of the legend below a picture `width` pixels wide."""
    return round(round(34 * font_scale(width)) * 3.6)


def legend(result: Result, width: int) -> RGB:
    """The strip below a picture `width` pixels wide: verdict, score, threshold, p-value, and the colour scale."""
    scale = font_scale(width)
    line = round(34 * scale)
    margin = line // 2
    verdict = text_width(result.verdict, scale * 1.1)
    words = [f"score {_number(result.score)}", f"threshold {_number(result.threshold)}", f"p {_number(result.p_value)}"]
    if result.error:
        words = [result.error]
    text_x = margin + verdict + line
    room = max(width - text_x - margin, 1)
    text_scale = min(scale, scale * room / max(text_width("   ".join(words), scale), 1))
    strip = _scale(width, result.pixel_threshold).copy()

    corner = margin + verdict + line // 2, line // 4 + line
    cv2.rectangle(strip, (margin, line // 4), corner, VERDICT_COLOURS[result.verdict], -1)
    draw_text(strip, result.verdict, margin + line // 4, line, scale=scale * 1.1, colour=WHITE)
    draw_text(strip, "   ".join(words), text_x, line, scale=text_scale)
    return strip


@lru_cache(maxsize=2)
def _scale(width: int, pixel_threshold: float) -> RGB:
    """The colour scale of a legend, alike below all pictures of this width; not to be written to."""
    scale = font_scale(width)
    line = round(34 * scale)
    margin = line // 2
    strip: RGB = np.full((legend_height(width), width, 3), PAPER, np.uint8)
    bar = slice(round(line * 1.6), round(line * 2.1)), slice(margin, max(width - margin, margin + 2))
    bar_width, bar_height = bar[1].stop - bar[1].start, bar[0].stop - bar[0].start
    strip[bar] = colour_bar(bar_width, bar_height, pixel_threshold)
    top = 2 * pixel_threshold
    tick_scale = scale * 0.8
    unit = " standard deviations" if width >= 1.4 * MIN_WIDTH else ""
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
        tick_width = text_width(text, tick_scale)
        left = min(max(x - tick_width // 2, margin), width - margin - tick_width)
        draw_text(strip, text, left, round(line * 3.1), scale=tick_scale, colour=INK if marked else FAINT)
    strip.setflags(write=False)
    return strip


def _longest(rgb: RGB, room: int) -> int:
    """How long the longer side may be, so that the picture fits 4,096 columns and `room` rows."""
    height, width = rgb.shape[:2]
    return min(MAX_SIDE, room if height >= width else math.floor(room * width / height))


def _number(value: float) -> str:
    """At most three significant digits."""
    return f"{value:.3g}" if math.isfinite(value) else "-"
