"""The pixel path's first half: files to RGB; contract/fit.py is the second. Training uses it too.

Decoding is Pillow's, which reports truncated files (OpenCV returns grey pixels for the missing part without a word), and for
JPEG libjpeg-turbo's own; what neither of them says of a damaged file is looked for in contract/whole.py. Nothing else in this
repository may decode a picture that a model sees.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from vtad_runtime.contract.card import FULL_SCALE
from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.contract.libraries import reading
from vtad_runtime.contract.whole import decode_jpeg, png_pieces, require_jpeg, require_png, require_strips, require_webp

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow's names; the rest of its decoders stays shut
JPEG_NOISE = 16  # levels of 255 that compression leaves on black
MAX_PIXELS = "VTAD_MAX_PIXELS"  # environment variable; the default is Pillow's, 178,956,970
ORIENTATION = 0x0112  # EXIF; 5..8 swap width and height
COLOUR_OR_GREY = ("RGB", "L")  # Pillow's modes of a JPEG whose pixels libjpeg-turbo gives as they are
BAND = 2**20  # pixels that are converted at once
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})  # Pillow's modes of one 16-bit channel
_LITTLE = sys.byteorder == "little"
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if _LITTLE else "16L"}  # by Pillow's ends of raw modes


class ImageError(VtadError):
    """A picture that cannot be used. One line: expected, got, where, what to do."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture as RGB, and whether that is what its file says."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    doubt: str | None = None  # one line where values above white were cut off


def is_image(path: Path) -> bool:
    """Whether the file name ends like a picture (any case). Does not open the file; dot files are not pictures."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_rgb(path: Path, full_scale: int = FULL_SCALE) -> NDArray[np.uint8]:
    """The pixels of `read_picture`, (H, W, 3) uint8. Raises ImageError."""
    return read_picture(path, full_scale).rgb


def read_picture(path: Path, full_scale: int = FULL_SCALE) -> Decoded:
    """Decode a picture file to RGB, EXIF orientation applied.

    Grey, 1-bit and palette pictures become RGB; transparency is composited over black; CMYK is converted without a
    colour profile. In a picture of 16 bits `full_scale` is white: a value becomes value / full_scale * 255 rounded, and
    one above it is white too, which the picture's doubt says. With a full scale of 65535, 16-bit colour becomes the high
    byte (at most one level off that). Of several pages or frames the first counts. Raises ImageError: missing, empty,
    damaged or truncated file, another format, 32-bit or floating-point pixels, or more pixels than Pillow's limit for
    decompression bombs.
    """
    with _open(path) as image:
        return _to_rgb(image, path, full_scale)


def decode_picture(data: bytes, full_scale: int = FULL_SCALE, name: str = "picture") -> Decoded:
    """`read_picture` of the bytes of a file; `name` begins its errors."""
    with _opened(io.BytesIO(data), name, FORMATS, remedy="") as image:
        return _to_rgb(image, name, full_scale)


def decode_rgb(data: bytes, name: str = "picture", formats: tuple[str, ...] = FORMATS) -> NDArray[np.uint8]:
    """The pixels, (H, W, 3) uint8, of bytes such as came over the network; `name` begins errors. Raises ImageError."""
    with _opened(io.BytesIO(data), name, formats, remedy="") as image:
        return _to_rgb(image, name).rgb


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) after EXIF orientation; pixels are decoded only where a PNG says more after them. Raises ImageError."""
    with _open(path) as image:
        width, height = _stored_size(image)
        swapped = _exif(image).get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if swapped else (width, height)


def pixels_in(path: Path) -> int:
    """How many pixels a file holds, from its headers alone. Raises ImageError."""
    with _open(path) as image:
        width, height = _stored_size(image)
    return width * height


def _stored_size(image: ImageFile) -> tuple[int, int]:
    """(width, height) before EXIF orientation."""
    if image.format == "TIFF":  # some Pillow versions swap `size` before loading, some after: the tags do not move
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        return int(tags[256]), int(tags[257])
    return image.size


def pages(path: Path) -> int:
    """How many pages or frames a file has, of which the first counts; from its headers alone. Raises ImageError."""
    with _open(path) as image:
        return int(getattr(image, "n_frames", 1))


def sixteen_bit_peak(path: Path) -> int | None:
    """The highest value of a picture of 16 bits, grey or colour; None for any other. Raises ImageError."""
    with _open(path) as image:
        values = _sixteen_bits(image)
        return None if values is None else int(values[..., :3].max() if values.ndim == 3 else values.max())


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Decode a defect mask to (H, W) bool: any non-zero pixel is defect, whatever its colour. Raises ImageError.

    In a JPEG, whose edges have a grey fringe that nobody drew, a pixel is defect above half of the brightest.
    """
    with _open(path) as image:
        if _is_jpeg(image):
            grey = _to_rgb(image, path).rgb.max(axis=2)
            return np.asarray(2 * grey.astype(np.uint16) > max(int(grey.max()), 2 * JPEG_NOISE))
        if image.mode in _SIXTEEN_BIT or image.mode in ("I", "F"):  # a label of 1 must not round to 0
            return np.asarray(np.asarray(_upright(image)) != 0)
        return np.asarray(_to_rgb(image, path).rgb.any(axis=2))


@contextmanager
def _open(path: Path) -> Iterator[ImageFile]:
    """The opened picture file; whatever goes wrong with it inside the block becomes an ImageError."""
    path = Path(path)
    try:
        if not path.is_file():  # a share that is gone raises here
            raise ImageError(f"{path}: expected a picture file, got {_kind(path)}")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: expected a picture file, got an empty file; copy it again")
        file = path.open("rb")
    except OSError as e:
        raise _unreadable(path, e) from e
    # Given a path, Pillow maps uncompressed TIFF files into memory and then scrambles those with orientation 5..8.
    with file, _opened(file, path, FORMATS) as image:
        yield image


def _unreadable(path: Path | str, error: OSError) -> ImageError:
    where = "permissions" if isinstance(error, PermissionError) else "disk or its share"
    return ImageError(f"{path}: expected a readable file, got {one_line(error)}; check its {where}")


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "no plain file" if path.exists() else "nothing there"


@contextmanager
def _opened(
    file: IO[bytes], path: Path | str, formats: tuple[str, ...], remedy: str = "; copy it again"
) -> Iterator[ImageFile]:
    """The opened picture; `path` begins what is said of it, `remedy` ends it where it is damaged."""
    _raise_limit()
    try:
        with reading(str(path)), Image.open(file, formats=formats) as image:
            yield image
    except ImageError:
        raise
    except MemoryError as e:
        raise ImageError(f"{path}: expected a picture that fits into memory, got a larger one; shrink it") from e
    except UnidentifiedImageError as e:
        raise ImageError(f"{path}: expected PNG, JPEG, BMP, TIFF or WebP, got another or a damaged file") from e
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{path}: expected at most {limit} pixels, got more; cut the picture into tiles or shrink it, or raise the limit "
            f"by the environment variable {MAX_PIXELS}"
        ) from e
    except Exception as e:  # Pillow's decoders raise almost anything on damaged bytes: SyntaxError, struct.error, ...
        if isinstance(e, OSError) and e.errno is not None:
            raise _unreadable(path, e) from e
        raise ImageError(f"{path}: expected a whole picture, got a damaged file ({one_line(e)}){remedy}") from e


def _raise_limit() -> None:
    """Take the limit of pixels from the environment: it guards against bombs, and line-scan cameras go beyond it."""
    if (text := os.environ.get(MAX_PIXELS)) is None:
        return
    if not text.isdecimal() or int(text) < 1:
        raise ImageError(f"{MAX_PIXELS}: expected a number of pixels, such as 400000000, got {text!r:.40}")
    Image.MAX_IMAGE_PIXELS = -(-int(text) // 2)  # Pillow refuses from twice as many


def _is_jpeg(image: ImageFile) -> bool:
    """Pillow calls one that holds a second picture, as phones and stereo cameras write it, MPO; the first picture counts."""
    return image.format in ("JPEG", "MPO")


def _upright(image: ImageFile) -> Image.Image:
    """All pixels decoded, EXIF orientation applied. Raises DamagedFileError where some are missing."""
    if _is_jpeg(image):
        return _turned(_jpeg(image))
    if image.format == "PNG":
        require_png(_bytes(image))
    elif image.format == "WEBP":
        require_webp(_bytes(image))
    elif image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        pairs = [
            (tags[where], tags[size]) for where, size in ((273, 279), (324, 325)) if where in tags and size in tags
        ]
        strips = [strip for pair in pairs for strip in zip(*map(_many, pair), strict=False)]
        require_strips(cast(IO[bytes], image.fp).seek(0, os.SEEK_END), strips)
    image.load()
    return _turned(image)


def _exif(image: ImageFile) -> Image.Exif:
    """Pillow decodes the pixels of any PNG for what may come after them; here only where something does."""
    if image.format == "PNG" and not _ends_with_pixels(cast(IO[bytes], image.fp)):
        return image.getexif()
    return Image.Image.getexif(image)


def _ends_with_pixels(file: IO[bytes]) -> bool:
    """Whether nothing but its end comes after the pixels of a whole PNG."""
    before = file.tell()
    kinds = [kind for kind, *_ in png_pieces(file)]
    file.seek(before)
    return (b"IDAT", b"IEND") in pairwise(kinds)


def _turned(image: Image.Image) -> Image.Image:
    """A decoded picture as its EXIF orientation says; the same one, and no copy, where it lies upright."""
    return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def _jpeg(image: ImageFile) -> Image.Image:
    """An opened JPEG with all its pixels, its EXIF kept. Raises DamagedFileError."""
    data = _bytes(image)
    if image.mode not in COLOUR_OR_GREY:
        require_jpeg(data)
        image.load()
        return image
    decoded = Image.fromarray(decode_jpeg(data))
    decoded.info["exif"] = image.info.get("exif", b"")
    return decoded


def _bytes(image: ImageFile) -> bytes:
    """The file of an opened picture, of which nothing is decoded yet."""
    file = cast(IO[bytes], image.fp)
    file.seek(0)
    return file.read()


def _is_sixteen_bit_grey(image: Image.Image) -> bool:
    # Pillow before 11 reads 16-bit grey PNG as "I"; from any other format "I" is 32 bits without a known range.
    return image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PNG")


def _sixteen_bits(image: ImageFile) -> NDArray[np.uint16] | None:
    """All values of an opened picture of 16 bits, upright: (H, W) of grey, (H, W, 3 or 4) of colour.

    None for any other, and for the rare kinds of which Pillow gives no low byte: grey with transparency, planes apart.
    """
    if _is_sixteen_bit_grey(image):
        return np.asarray(_upright(image)).astype(np.uint16)
    modes = {f"{image.mode};{end}" for end in _OTHER_BYTE if image.mode in ("RGB", "RGBA")}
    if not image.tile or not modes.issuperset(map(_raw_mode, image.tile)):
        return None
    # Pillow keeps the high byte of each value. The low one is what it would keep were the bytes in the other order.
    file = cast(IO[bytes], image.fp)
    file.seek(0)
    with Image.open(file, formats=FORMATS) as other:
        other.tile = [tile._replace(args=_swapped(tile.args)) for tile in other.tile]
        high, low = (np.asarray(_upright(half)).astype(np.uint16) for half in (image, other))
        return (high << np.uint16(8)) | low


def _raw_mode(tile: Any) -> str:
    """How the pixels of one of Pillow's tiles are stored, such as RGB;16B."""
    args = tile.args
    return str(args[0] if isinstance(args, tuple) and args else args)


def _swapped(args: Any) -> Any:
    """The arguments of a tile with the bytes of each value in the other order."""
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    mode, _, end = args.partition(";")
    return f"{mode};{_OTHER_BYTE[end]}"


def _many(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (int(value),)


def _to_rgb(image: ImageFile, path: Path | str, full_scale: int = FULL_SCALE) -> Decoded:
    """An opened picture of any 8-bit or 16-bit kind, upright."""
    if _is_sixteen_bit_grey(image) or full_scale != FULL_SCALE:
        values = _sixteen_bits(image)
        if values is not None:
            return _eight_bits(values, full_scale)
        if any(";16" in _raw_mode(tile) for tile in image.tile):
            raise ImageError(
                f"{path}: expected grey, RGB or RGBA in 16 bits, got grey with transparency or planes apart; save it as RGB"
            )
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise ImageError(
            f"{path}: expected pixels of 8 or 16 bits, got Pillow mode {image.mode!r} (floating point, 32-bit or Lab); "
            "save it as 8-bit or 16-bit PNG"
        )
    if _is_jpeg(image) and image.mode in COLOUR_OR_GREY and image.getexif().get(ORIENTATION, 1) == 1:
        return Decoded(decode_jpeg(_bytes(image)))
    return Decoded(_by_bands(_upright(image)))


def _by_bands(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels as RGB, some rows after the others: what a conversion takes in between does not grow with the picture."""
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        if image.has_transparency_data:
            rgb[top : top + rows] = _over_black(np.asarray(band.convert("RGBA")))
        else:
            rgb[top : top + rows] = np.asarray(band.convert("RGB"))
    return rgb


def _eight_bits(values: NDArray[np.uint16], full_scale: int) -> Decoded:
    """Values of 16 bits, (H, W) or (H, W, 3 or 4), as RGB."""
    values = values[:, :, None] if values.ndim == 2 else values
    colours = values[:, :, :3]
    rgb = _levels(full_scale)[colours]
    if values.shape[2] == 4:  # whatever the camera's bits, a program writes opacity up to 65535
        rgb = _over_black(np.dstack([rgb, _levels(FULL_SCALE)[values[:, :, 3]]]))
    doubt, peak = None, int(colours.max())
    if peak > full_scale:
        above, bits = int((colours > full_scale).any(axis=2).sum()), full_scale.bit_length()
        doubt = (
            f"brighter than {bits} bits: {above} pixels above {full_scale}, up to {peak}; the model expects {bits} bits"
        )
    return Decoded(np.repeat(rgb, 3, axis=2) if rgb.shape[2] == 1 else rgb, doubt)


@cache
def _levels(full_scale: int) -> NDArray[np.uint8]:
    """The level of 255 of each value of 16 bits, (65536,)."""
    return np.rint(np.minimum(np.arange(FULL_SCALE + 1), full_scale) / (full_scale / 255)).astype(np.uint8)


def _over_black(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 4) composited over black, (H, W, 3)."""
    wide = rgba.astype(np.uint16)
    return ((wide[:, :, :3] * wide[:, :, 3:] + 127) // 255).astype(np.uint8)
