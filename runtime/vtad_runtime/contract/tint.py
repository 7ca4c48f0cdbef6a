"""The colours of a heatmap, blended over a picture.

The scale is fixed, from 0 to twice the pixel threshold, a z-score, so a colour means the same in every
picture. Below half the pixel threshold nothing is tinted, and a good part looks like itself.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]  # (H, W, 3)

RAMP_START, RAMP_END = 0.28, 0.97  # the part of inferno that is neither black nor white: violet, red, orange, yellow
BAND = 2**20  # pixels that are blended at once: what that takes in between is bounded
MAX_ALPHA = 0.75  # the surface stays visible under the strongest colour


def tint(rgb: RGB, values: NDArray[np.float32], pixel_threshold: float) -> RGB:
    """Blend the colours of `values` (H, W) over `rgb` (H, W, 3), growing with the value; a copy."""
    tinted = rgb.copy()
    rows = max(1, BAND // rgb.shape[1])
    for top in range(0, rgb.shape[0], rows):
        _blend(tinted[top : top + rows], values[top : top + rows], pixel_threshold)
    return tinted


def _blend(rgb: RGB, values: NDArray[np.float32], pixel_threshold: float) -> None:
    """Blend over `rgb` (h, W, 3), in place; only what is high costs more than a look."""
    high = np.flatnonzero(~(values <= np.float32(pixel_threshold / 2)))  # (N,); NaN is high
    if high.size:
        pixels, ramp = rgb.reshape(-1, 3), _ramp(values.reshape(-1)[high], pixel_threshold)  # (h * W, 3), (N,)
        # From 0.25 at once, so that the first tint is seen, and the scale's order reads from the colour alone.
        alpha = (0.25 + (MAX_ALPHA - 0.25) * np.minimum(ramp * 2, 1))[:, None]  # (N, 1)
        pixels[high] = np.rint(pixels[high] * (1 - alpha) + _inferno(ramp) * alpha).astype(np.uint8)


def colour_bar(width: int, height: int, pixel_threshold: float) -> RGB:
    """The scale over grey, (height, width, 3): from 0 at the left to twice the pixel threshold at the right."""
    ramp = np.repeat(np.linspace(0, 2 * pixel_threshold, width, dtype=np.float32)[None], height, axis=0)
    return tint(np.full((height, width, 3), 70, np.uint8), ramp, pixel_threshold)


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
