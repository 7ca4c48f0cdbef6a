"""Shift-and-zoom augmentation: on a line no part lies quite where the one before it lay.

Training shows a share of its pictures so, and calibration weighs the scorers on such pictures, so that a shift is not taken
for damage. How far follows from the good pictures, see `vtad.data.registration`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def shifted_and_zoomed(images: NDArray[np.uint8], shift: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Images (N, H, W, 3) uint8, each seen nearer by up to the share `shift` of its sides, and off centre by as much; copies."""
    height, width = images.shape[1:3]
    shifted = np.empty(images.shape, np.uint8)  # row by row: OpenCV writes into no other layout
    for i, image in enumerate(images):
        share = 1 - shift * rng.random()
        left, top = rng.random(2) * (1 - share) * (width, height)
        from_source = np.array([[1 / share, 0, -left / share], [0, 1 / share, -top / share]], np.float32)
        cv2.warpAffine(image, from_source, (width, height), dst=shifted[i], borderMode=cv2.BORDER_REPLICATE)
    return shifted
