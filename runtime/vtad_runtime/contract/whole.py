"""Whether a picture file is whole: what decoders notice and do not say, or do not look for.

- JPEG: a file that was cut off and closed with an end marker decodes to a grey or smeared rest; libjpeg warns, and neither
  Pillow nor OpenCV pass that on. A progressive one that ends between two of its scans is a blurred picture, without a warning.
- PNG: nobody compares the checksums of its pixels, and zeros, as a power cut leaves them at the end of a file, decompress to
  even rows.
- TIFF: fax decoders fill what is missing with white.
- WebP: there is no checksum, and zeros decode to a smooth rest.

Pixels of a JPEG are those of Pillow to the last bit (both use libjpeg-turbo's accurate transform), and they come sooner.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import IO

import numpy as np
import simplejpeg
from numpy.typing import NDArray

# What libjpeg warns of while the pixels are whole. At anything else it may have left off, and the rest is what memory held.
SLOPPY = ("Unknown Adobe color transform", "Inconsistent progression", "Warning: unknown JFIF")
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # of JPEG, except those within a scan
PROGRESSIVE, SCAN, END = (0xC2, 0xCA), 0xDA, 0xD9  # markers of JPEG; the first two begin a frame
ZEROS = bytes(64)  # no compressed picture ends with so many


class DamagedFileError(ValueError):
    """Part of the picture is missing or was changed. The message says what."""


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a colour or grey JPEG as (H, W, 3) uint8 RGB, not yet turned upright. Raises DamagedFileError."""
    return _decoded(data, "RGB")


def require_jpeg(data: bytes) -> None:
    """Decode a CMYK JPEG, whose pixels somebody else converts, to see that it is whole. Raises DamagedFileError."""
    _decoded(data, "CMYK")


def _decoded(data: bytes, colours: str) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as e:
        if not str(e).startswith(SLOPPY):
            raise DamagedFileError(str(e)) from e
        pixels = simplejpeg.decode_jpeg(data, colours, strict=False)
    if missing := _coefficients_missing(data):
        raise DamagedFileError(f"{missing} coefficients are missing: its last scans are cut off")
    return pixels


def _coefficients_missing(data: bytes) -> int:
    """How many DCT coefficients, of 64 a channel, no scan of a progressive JPEG brings to their last bit; 0 of another JPEG."""
    left: dict[int, set[int]] = {}
    at = 2
    while (marker := MARKER.search(data, at)) is not None and (kind := marker[1][0]) != END:
        start, at = marker.end() + 2, marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
        segment = data[start:at]
        if kind in PROGRESSIVE:
            left = {channel: set(range(64)) for channel in segment[6::3]}
        elif kind == SCAN:
            if not left:
                return 0
            first, last, bits = segment[-3:]
            for channel in segment[1:-3:2] if bits & 15 == 0 else b"":
                left[channel] -= set(range(first, last + 1))
    return sum(map(len, left.values()))


def png_pieces(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each piece of a PNG, and where its content begins and ends, without reading that."""
    at = file.seek(8)
    while len(head := file.read(8)) == 8:
        begin, end = at + 8, at + 8 + int.from_bytes(head[:4])
        yield head[4:], begin, end
        at = file.seek(end + 4)


def require_png(data: bytes) -> None:
    """Compare the checksum of each piece of a PNG's pixels. Raises DamagedFileError."""
    view = memoryview(data)
    for kind, begin, end in png_pieces(BytesIO(data)):
        if kind == b"IDAT" and zlib.crc32(view[begin - 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise DamagedFileError("a checksum of its pixels is wrong")


def require_webp(data: bytes) -> None:
    """Raises DamagedFileError where a WebP file ends in zeros."""
    if data[: 8 + int.from_bytes(data[4:8], "little")].endswith(ZEROS):
        raise DamagedFileError("it ends in zeros")


def require_strips(size: int, strips: Sequence[tuple[int, int]]) -> None:
    """Raises DamagedFileError where a TIFF file of `size` bytes ends before its last strip or tile, (offset, bytes) each."""
    missing = max((offset + count for offset, count in strips), default=0) - size
    if missing > 0:
        raise DamagedFileError(f"it ends {missing} bytes before its pixels do")
