"""JPEG pixels by libjpeg-turbo, which is asked whether the whole scan was there.

A file that was cut off and closed with an end marker decodes to a grey or smeared rest; libjpeg warns, and neither Pillow
nor OpenCV pass that on. Pixels are those of Pillow to the last bit (both use libjpeg-turbo's accurate transform), and they
come sooner.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

# What libjpeg warns of when pixels are lost. Other warnings are of sloppy headers; such pictures are whole.
DAMAGE = ("Corrupt JPEG data", "Premature end", "Unsupported marker", "Invalid")


class DamagedJpegError(ValueError):
    """Part of the picture is missing or was changed. The message is libjpeg's."""


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a colour or grey JPEG as (H, W, 3) uint8 RGB, not yet turned upright. Raises DamagedJpegError."""
    return _decoded(data, "RGB")


def require_whole(data: bytes) -> None:
    """Decode a CMYK JPEG, whose pixels somebody else converts, to see that it is whole. Raises DamagedJpegError."""
    _decoded(data, "CMYK")


def _decoded(data: bytes, colours: str) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as e:
        if str(e).startswith(DAMAGE):
            raise DamagedJpegError(str(e)) from e
        pixels = simplejpeg.decode_jpeg(data, colours, strict=False)
    return pixels
