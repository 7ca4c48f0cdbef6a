"""Words in a picture, and the colours that all pictures share."""

from __future__ import annotations

import cv2

from vtad_runtime.drawing.encoding import RGB
from vtad_runtime.verdict.verdict import Verdict

Colour = tuple[int, int, int]

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
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, _thickness(scale))[0][0])


def draw_text(picture: RGB, text: str, x: int, baseline: int, *, scale: float, colour: Colour = INK) -> None:
    """Write into the picture, from `x` on, standing on `baseline`. At scale 1 a capital is about 22 pixels high."""
    at, font = (x, baseline), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, at, font, scale, colour, _thickness(scale), cv2.LINE_AA)


def font_scale(width: int) -> float:
    """The scale of the words below a picture `width` pixels wide."""
    return min(max(width / 900, 0.42), 4.0)


def _thickness(scale: float) -> int:
    return max(1, round(1.6 * scale))
