"""Words in a picture, and the colours that all pictures share."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtad_runtime.drawing.encoding import RGB, PictureError
from vtad_runtime.verdict.verdict import Verdict

Colour = tuple[int, int, int]

FACE = cv2.FONT_HERSHEY_SIMPLEX
SIZE = 28.0  # of the font at scale 1, pixels
SMALLEST = 3.0  # below, FreeType takes no size

INK: Colour = (235, 235, 235)
FAINT: Colour = (150, 150, 150)
PAPER: Colour = (24, 24, 24)
WHITE: Colour = (255, 255, 255)
VERDICT_COLOURS: dict[Verdict, Colour] = {
    Verdict.OK: (40, 140, 70),
    Verdict.NG: (200, 40, 40),
    Verdict.UNSURE: (180, 130, 20),
    Verdict.STALE: (110, 110, 110),
    Verdict.ERROR: (150, 50, 150),
}


def text_width(text: str, scale: float) -> int:
    """How many pixels wide `draw_text` draws it."""
    if not text.isascii():
        return int(cv2.getTextSize(text, FACE, scale, _thickness(scale))[0][0])
    return math.ceil(_font(scale).getlength(text))


def draw_text(picture: RGB, text: str, x: int, baseline: int, *, scale: float, colour: Colour = INK) -> None:
    """Write into the picture, from `x` on, standing on `baseline`. At scale 1 a capital is 20 pixels high."""
    if not text.isascii():
        cv2.putText(picture, text, (x, baseline), FACE, scale, colour, _thickness(scale), cv2.LINE_AA)
        return
    font = _font(scale)
    left, top, right, bottom = font.getbbox(text, anchor="ls")  # from where it begins to stand
    rows = slice(max(baseline + math.floor(top), 0), max(baseline + math.ceil(bottom), 0))
    columns = slice(max(x + math.floor(left), 0), max(x + math.ceil(right), 0))
    if picture[rows, columns].size == 0:
        return  # it stands outside
    written = Image.fromarray(picture[rows, columns])
    ImageDraw.Draw(written).text((x - columns.start, baseline - rows.start), text, colour, font, anchor="ls")
    picture[rows, columns] = np.asarray(written)


def font_scale(width: int) -> float:
    """The scale of the words below a picture `width` pixels wide."""
    return min(max(width / 900, 0.42), 4.0)


@lru_cache(maxsize=16)
def _font(scale: float) -> ImageFont.FreeTypeFont:
    """Pillow's own, of plain English letters. OpenCV has all others, and loads them in each thread that writes, for 20 ms."""
    found = ImageFont.load_default(max(SIZE * scale, SMALLEST))
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise PictureError("expected a Pillow with FreeType to write words, got one without")
    return found


def _thickness(scale: float) -> int:
    return max(1, round(1.6 * scale))
