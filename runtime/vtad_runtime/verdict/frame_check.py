"""Whether a frame can be trusted to show the part: frozen, black, saturated or wildly out of focus makes it UNSURE.

The card holds no reference picture, so the limits are absolute and wide, and focus is also compared with the source's own
earlier frames. What they are and what they were measured on: docs/live-runtime.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.fit import resize
from vtad_runtime.verdict.verdict import CHECKS

FROZEN_S = 3.0  # the same pixels for so long, and in so many frames: a sensor's noise alone never lets that happen
FROZEN_FRAMES = 3
SHARE = 0.98  # of the pixels that must be dark or bright; a lamp's reflection may stay
DARK, BRIGHT = 12, 250  # levels of the brightest and the darkest channel, of 255
SAMPLES = 256  # pixels looked at along each side, at most

FINE, COARSE = 64, 16  # pixels a side of the two sizes whose detail is compared
STRUCTURE = 4.0  # variance of the coarse Laplacian, grey levels squared; below it there is nothing to be sharp
FOCUS_FLOOR = 0.02  # fine over coarse detail; sharp pictures of five products had 0.11 to 1.9
FOCUS_DROP = 0.25  # of the median of this source's trusted frames
FOCUS_FRAMES = 20  # trusted frames before they are compared with


@dataclass
class _Same:
    """How long the picture has been the same."""

    rgb: NDArray[np.uint8]
    sample: NDArray[np.uint8]
    since: float  # time.monotonic()
    frames: int = 1


class FrameChecks:
    """The checks of one source, in the order of its frames."""

    def __init__(self, checks: frozenset[str] = frozenset(CHECKS)) -> None:
        """`checks`: those to make, of `CHECKS`."""
        self._checks = checks
        self._same: _Same | None = None
        self._focus: deque[float] = deque(maxlen=200)

    def look(self, rgb: NDArray[np.uint8], fitted: NDArray[np.uint8], captured: float) -> str | None:
        """Why the frame is not to be trusted, in one line; None when it is.

        `rgb` is the frame (H, W, 3), `fitted` the same as the model sees it (h, w, 3) without padding, `captured` its
        time.monotonic().
        """
        height, width = (min(side, SAMPLES) for side in rgb.shape[:2])
        sample = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)  # (h, w, 3)
        frozen = self._frozen(rgb, sample, captured) if "frozen" in self._checks else None
        return frozen or self._exposure(sample) or (self._defocus(fitted) if "focus" in self._checks else None)

    def _frozen(self, rgb: NDArray[np.uint8], sample: NDArray[np.uint8], captured: float) -> str | None:
        same = self._same
        if same is None or not np.array_equal(sample, same.sample) or not np.array_equal(rgb, same.rgb):
            self._same = _Same(rgb, sample, captured)
            return None
        same.frames += 1
        seconds = captured - same.since
        if same.frames < FROZEN_FRAMES or seconds < FROZEN_S:
            return None
        return f"frozen picture: the same pixels for {seconds:.1f} s, {same.frames} frames"

    def _exposure(self, sample: NDArray[np.uint8]) -> str | None:
        red, green, blue = cv2.split(sample)  # each (h, w): much faster than an axis
        if "black" in self._checks:
            dark = np.count_nonzero(np.maximum(np.maximum(red, green), blue) < DARK) / red.size
            if dark >= SHARE:
                return f"black picture: {dark:.1%} of the pixels below {DARK} of 255"
        if "saturated" in self._checks:
            bright = np.count_nonzero(np.minimum(np.minimum(red, green), blue) >= BRIGHT) / red.size
            if bright >= SHARE:
                return f"saturated picture: {bright:.1%} of the pixels at {BRIGHT} of 255 or above"
        return None

    def _defocus(self, fitted: NDArray[np.uint8]) -> str | None:
        sharp = sharpness(fitted)
        if sharp is None:
            return None
        if sharp < FOCUS_FLOOR:
            return f"out of focus: fine detail {sharp:.3f} of coarse, expected at least {FOCUS_FLOOR}"
        if len(self._focus) >= FOCUS_FRAMES:
            from statistics import median  # it takes 3 ms, for which no first verdict waits

            usual = median(self._focus)
            if sharp < FOCUS_DROP * usual:
                return f"out of focus: fine detail {sharp:.3f} of coarse, usually {usual:.3f} here"
        self._focus.append(sharp)  # distrusted frames must not become what is usual
        return None


def sharpness(rgb: NDArray[np.uint8]) -> float | None:
    """Detail at 64x64 pixels over detail at 16x16, each the variance of the Laplacian; None where it cannot be said.

    Defocus takes the fine detail first. The ratio depends little on what is shown, and at 64 pixels the sensor's noise is
    averaged away. A picture that is smaller, or plain even at 16x16, says nothing of its focus.
    """
    if min(rgb.shape[:2]) < FINE:
        return None
    grey = np.asarray(cv2.cvtColor(resize(rgb, FINE, FINE), cv2.COLOR_RGB2GRAY), np.uint8)
    coarse = _detail(resize(grey, COARSE, COARSE))
    return _detail(grey) / coarse if coarse >= STRUCTURE else None


def _detail(grey: NDArray[np.uint8]) -> float:
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())
