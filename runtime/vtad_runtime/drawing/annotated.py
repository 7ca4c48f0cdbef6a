"""The picture of a judgement as a video or a window shows it: the heatmap over the frame, or the frame above the words."""

from __future__ import annotations

import dataclasses
import time

import cv2
import numpy as np

from vtad_runtime.contract.fit import resize
from vtad_runtime.drawing.encoding import RGB, drawing
from vtad_runtime.drawing.heatmap import MAX_SIDE, MIN_WIDTH, overlay, widened
from vtad_runtime.drawing.shrinking import shrink, shrink_judged
from vtad_runtime.drawing.text import PAPER, VERDICT_COLOURS, draw_text, font_scale, text_width
from vtad_runtime.verdict.judgement import Judgement

LONGEST = 1280  # pixels; larger pictures are shrunk first, or drawing would slow the judging down


@drawing()
def annotated(judgement: Judgement) -> RGB:
    """RGB: the overlay where there is a result, else the frame above the words; without a frame the words alone.

    At least 360 pixels wide, at most 4,096 high. Raises PictureError.
    """
    frame, result = judgement.frame, judgement.result
    if frame is not None and result is not None:
        # What counts is the verdict over time, which may differ from that of the picture alone.
        shown = dataclasses.replace(
            result,
            verdict=judgement.verdict,
            threshold=judgement.threshold,
            error=_line(judgement) if judgement.reason else result.error,
        )
        return overlay(*shrink_judged(frame.rgb, shown, LONGEST))
    if frame is None:
        rgb: RGB = np.full((MIN_WIDTH * 3 // 4, MIN_WIDTH, 3), PAPER, np.uint8)
    else:
        rgb = _wide(shrink(frame.rgb, LONGEST))
    return np.vstack([rgb, _words(judgement, rgb.shape[1])])


def _wide(rgb: RGB) -> RGB:
    """At least 360 pixels wide: enlarged, or, where that would get too high, with a dark margin."""
    height = max(1, round(rgb.shape[0] * MIN_WIDTH / rgb.shape[1]))
    if rgb.shape[1] < MIN_WIDTH and height <= MAX_SIDE - _words_height(MIN_WIDTH):
        return resize(rgb, MIN_WIDTH, height)
    return widened(rgb, MIN_WIDTH)


def _line(judgement: Judgement) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(judgement.captured_at))
    return f"{clock} {judgement.reason or 'not judged'}"


def _words_height(width: int) -> int:
    return 2 * round(34 * font_scale(width))


def _words(judgement: Judgement, width: int) -> RGB:
    """A strip `width` pixels wide: the verdict in its colour, the time and the reason, shrunk to fit."""
    scale = font_scale(width)
    line = round(34 * scale)
    strip: RGB = np.full((_words_height(width), width, 3), PAPER, np.uint8)
    box = text_width(judgement.verdict, scale * 1.1) + line // 2
    left, base = line // 2, round(line * 1.35)
    cv2.rectangle(strip, (left, line // 2), (left + box, round(line * 1.6)), VERDICT_COLOURS[judgement.verdict], -1)
    draw_text(strip, judgement.verdict, left + line // 4, base, scale=scale * 1.1)
    text, start = _line(judgement), left + box + line // 2
    fits = scale * (width - start - left) / max(text_width(text, scale), 1)
    draw_text(strip, text, start, base, scale=max(min(scale, fits), 0.1))
    return strip
