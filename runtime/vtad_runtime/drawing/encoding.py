"""Pictures as JPEG or PNG bytes, and the one error of a picture that cannot be drawn or encoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.errors import NOT_WRITTEN, VtadError, why

RGB = NDArray[np.uint8]  # (H, W, 3)
Suffix = Literal[".jpg", ".png"]

QUALITY = 92  # of a JPEG that is saved
JPEG_SIDE = 65_500  # pixels; the format holds no longer side


class PictureError(VtadError):
    """A picture that cannot be drawn or encoded. It costs that picture, never the row and never the run."""

    exit_code = NOT_WRITTEN


@contextmanager
def drawing() -> Iterator[None]:
    """Whatever goes wrong inside the block becomes a PictureError. Also serves as a decorator."""
    try:
        yield
    except PictureError:
        raise
    except Exception as e:  # cv2.error and MemoryError as a rule
        raise PictureError(f"the picture cannot be drawn: {why(e)}") from e


def encode(rgb: RGB, suffix: Suffix, quality: int = QUALITY) -> bytes:
    """RGB (H, W, 3) uint8 as the bytes of a file; `quality` of a JPEG, 1..100. Raises PictureError."""
    size = f"{rgb.shape[1]}x{rgb.shape[0]} pixels"
    if suffix == ".jpg" and max(rgb.shape[:2]) > JPEG_SIDE:
        raise PictureError(f"expected at most {JPEG_SIDE} pixels a side, which is all that JPEG holds, got {size}")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    except Exception as e:  # cv2.error and MemoryError as a rule
        raise PictureError(f"a picture of {size} cannot be saved as {suffix}: {why(e)}") from e
    if not done:
        raise PictureError(f"a picture of {size} cannot be saved as {suffix}: OpenCV refused it")
    return data.tobytes()
