"""What can be measured of a picture without judging it: brightness, colour, contrast, focus, and a shift against another.

All at the model's resolution, of the part the model sees; shifts are in pixels of the source picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import Input
from vtad_runtime.contract.fit import fit_image

FLAT = 1.0  # grey levels: a picture with less contrast has nothing to focus on or to find a position by
NOISE = 1.0  # pixels, standard deviation: finer detail than this is the sensor's noise or JPEG's, not the focus
# How far a picture of the same part under the same camera may stray, as shares:
MOST_BRIGHTNESS = 0.10
MOST_COLOUR = 0.08  # of a channel against the brightness: a white balance that moved
MOST_CONTRAST = 0.20  # beyond what the brightness explains
MOST_FOCUS = 0.25  # lost; the same factor gained
MOST_SHIFT = 0.02  # of the longer side of what the model sees
ALIKE = 0.5  # correlation, after the shift is undone, from which on two pictures show the same part


@dataclass(frozen=True)
class View:
    """Statistics of one picture, in grey levels of 0..255.

    Focus is the variance of the Laplacian (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000),
    taken relative to the contrast: more light does not look sharper.
    """

    brightness: float  # mean
    colour: tuple[float, float, float]  # means of red, green and blue, each as a share of the brightness
    contrast: float  # standard deviation
    focus: float  # variance of the Laplacian of the smoothed picture, a share of the picture's own variance


@dataclass(frozen=True)
class Shift:
    """How far a picture has moved against a reference."""

    x: float  # source pixels to the right
    y: float  # source pixels down
    likeness: float  # correlation of the two once the shift is undone, -1..1


@dataclass(frozen=True, eq=False)
class Fitted:
    """A picture as the model sees it."""

    rgb: NDArray[np.uint8]  # (h, w, 3), without the padding of a letterbox
    grey: NDArray[np.float32]  # (h, w)
    scale: tuple[float, float]  # source pixels a pixel, along x and y

    @staticmethod
    def of(rgb: NDArray[np.uint8], spec: Input) -> Fitted:
        """Fit (H, W, 3) uint8 RGB. Raises ImageError: see `fit_image`."""
        fitted, placement = fit_image(rgb, spec)
        used, inside = placement.used, placement.inside
        seen = np.ascontiguousarray(fitted[inside.slices])
        scale = used.width / inside.width, used.height / inside.height
        return Fitted(seen, cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY).astype(np.float32), scale)

    def view(self) -> View:
        """Its statistics."""
        brightness = float(self.grey.mean())
        means = self.rgb.reshape(-1, 3).mean(axis=0) / max(brightness, 1e-6)
        contrast = float(self.grey.std())
        smooth = cv2.GaussianBlur(self.grey, (0, 0), NOISE)
        sharpness = float(cv2.Laplacian(smooth, cv2.CV_32F).var())
        focus = sharpness / contrast**2 if contrast >= FLAT else 0.0
        return View(brightness, (float(means[0]), float(means[1]), float(means[2])), contrast, focus)


def shift(reference: Fitted, picture: Fitted) -> Shift | None:
    """How far `picture` has moved, by phase correlation (Kuglin and Hines, 1975). None: other size, or nothing to see.

    Moves of less than half the picture are found; turned parts are not, their likeness is low.
    """
    if reference.grey.shape != picture.grey.shape or min(reference.grey.std(), picture.grey.std()) < FLAT:
        return None
    height, width = reference.grey.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    # Copies: OpenCV multiplies the window into its arguments when their size suits its Fourier transform.
    (dx, dy), _ = cv2.phaseCorrelate(reference.grey.copy(), picture.grey.copy(), window)
    # A part that only changed its light has no peak to speak of elsewhere, but a noisy one may: stay where it is alike.
    candidates = [(dx, dy), (0.0, 0.0)]
    likeness, (x, y) = max((_likeness(reference.grey, picture.grey, *c), c) for c in candidates)
    return Shift(x * reference.scale[0], y * reference.scale[1], likeness)


def changes(before: View, after: View) -> list[str]:
    """What of light, colour, contrast and focus changed by more than it may, in words with numbers."""
    found = []
    brightness = _ratio(before.brightness, after.brightness)
    if abs(brightness - 1) > MOST_BRIGHTNESS:
        found.append(f"brightness {_percent(brightness)}")
    found += [
        f"{name} {_percent(_ratio(b, a))}"
        for name, b, a in zip(("red", "green", "blue"), before.colour, after.colour, strict=True)
        if abs(_ratio(b, a) - 1) > MOST_COLOUR
    ]
    relative = _ratio(before.contrast, after.contrast) / brightness  # twice the light is twice the contrast
    if before.contrast >= FLAT and abs(relative - 1) > MOST_CONTRAST:
        found.append(f"contrast {_percent(relative)}")
    focus = _ratio(before.focus, after.focus)
    if before.focus > 0 and abs(math.log(max(focus, 1e-3))) > -math.log(1 - MOST_FOCUS):
        found.append(f"focus {_percent(focus)}")
    return found


def _likeness(reference: NDArray[np.float32], picture: NDArray[np.float32], dx: float, dy: float) -> float:
    """Correlation of the parts that overlap once `picture` is moved back by (dx, dy)."""
    x, y = round(dx), round(dy)
    height, width = reference.shape
    if abs(x) > width // 2 or abs(y) > height // 2:
        return -1.0
    a = reference[max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)]
    b = picture[max(y, 0) : height - max(-y, 0), max(x, 0) : width - max(-x, 0)]
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _ratio(before: float, after: float) -> float:
    return after / max(before, 1e-6)


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.0f} %"
