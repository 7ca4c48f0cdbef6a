"""Words in a picture, and the colours that all pictures share."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import ImageFont

from vtad_runtime.drawing.encoding import RGB, PictureError
from vtad_runtime.verdict.verdict import Verdict

Colour = tuple[int, int, int]

SIZE = 28.0  # of the font at scale 1, pixels

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
    return math.ceil(_font(scale).getlength(text))


def draw_text(picture: RGB, text: str, x: int, baseline: int, *, scale: float, colour: Colour = INK) -> None:
    """Write into the picture, from `x` on, standing on `baseline`. At scale 1 a capital is 20 pixels high."""
    core, (right, down) = _font(scale).getmask2(text, "L", anchor="ls")
    width, height = core.size
    left, top = x + right, baseline + down
    inside = picture[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]  # (h, w, 3)
    covered = np.array(core, np.uint8).reshape(height, width)[max(-top, 0) :, max(-left, 0) :]
    cover = covered[: inside.shape[0], : inside.shape[1], None] / np.float32(255)  # (h, w, 1)
    inside[:] = np.rint(inside + (np.array(colour, np.float32) - inside) * cover).astype(np.uint8)


def font_scale(width: int) -> float:
    """The scale of the words below a picture `width` pixels wide."""
    return min(max(width / 900, 0.42), 4.0)


@lru_cache(maxsize=16)
def _font(scale: float) -> ImageFont.FreeTypeFont:
    """Pillow's own. OpenCV loads its fonts anew in each thread that writes, for 20 ms."""
    found = ImageFont.load_default(SIZE * scale)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise PictureError("expected a Pillow with FreeType to write words, got one without")
    return found
