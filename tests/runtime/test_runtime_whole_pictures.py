"""A picture of which part is missing is an ERROR, never a quiet OK, wherever it comes from."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from PIL import Image, ImageOps
from tiny_model import good, write_model

from vtad_runtime.commands.run import run
from vtad_runtime.contract.image import ImageError, decode_rgb, read_rgb

Mode = str


def picture(mode: Mode = "RGB") -> Image.Image:
    """A smooth picture of 90 x 70 pixels."""
    coarse = np.random.default_rng(5).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return data.getvalue()


def cut(data: bytes, share: float) -> bytes:
    """What is left of a JPEG whose copying broke off, with the end marker that some programs add."""
    return data[: int(share * len(data))] + b"\xff\xd9"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_of_a_jpeg_are_those_of_pillow(mode: Mode, subsampling: int, progressive: bool) -> None:
    data = jpeg(picture(mode), quality=80, subsampling=subsampling if mode == "RGB" else -1, progressive=progressive)
    assert_array_equal(decode_rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_stands_upright_whether_it_is_a_file_or_bytes(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(picture(), quality=90, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert_array_equal(decode_rgb(data), np.asarray(upright))
    (tmp_path / "a.jfif").write_bytes(data)
    assert_array_equal(read_rgb(tmp_path / "a.jfif"), np.asarray(upright))


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95, 0.99])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_was_cut_off_and_closed_is_refused(mode: Mode, share: float) -> None:
    whole = jpeg(picture(mode), quality=90)
    decode_rgb(whole)
    with pytest.raises(ImageError, match="expected a whole picture, got a damaged file"):
        decode_rgb(cut(whole, share))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_with_a_second_picture_in_it_is_looked_at_as_any_other(mode: Mode) -> None:
    both = io.BytesIO()
    picture(mode).save(both, "MPO", save_all=True, append_images=[picture(mode)], quality=90)
    data = both.getvalue()
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert_array_equal(decode_rgb(data), decode_rgb(jpeg(picture(mode), quality=90)))
    pixels, end = data.index(b"\xff\xda"), data.index(b"\xff\xd9")
    middle = (pixels + end) // 2
    for damaged in (data[:middle] + data[end:], data[:middle] + bytes(end - middle) + data[end:]):
        with pytest.raises(ImageError, match="expected a whole picture, got a damaged file"):
            decode_rgb(damaged)


def test_sloppy_but_whole_jpegs_are_read() -> None:
    whole = jpeg(picture(), quality=90)
    end = whole.rindex(b"\xff\xd9")
    for sloppy in (whole + bytes(300), whole[:end] + b"\x00\x01" + whole[end:]):
        assert_array_equal(decode_rgb(sloppy), decode_rgb(whole))


def test_a_progressive_jpeg_that_ends_between_two_scans_is_refused() -> None:
    whole = jpeg(picture(), quality=90, progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 4
    for at in scans[1:]:
        with pytest.raises(ImageError, match="its last scans are cut off"):
            decode_rgb(whole[:at] + b"\xff\xd9")


@pytest.mark.parametrize("fault", ["a bit", "zeros"])
def test_pixels_of_a_png_are_held_against_their_checksums(fault: str) -> None:
    data = io.BytesIO()
    picture().save(data, "PNG")
    whole, at = bytearray(data.getvalue()), len(data.getvalue()) // 2
    if fault == "a bit":
        whole[at] ^= 4
    else:  # as a power cut leaves them
        whole[at:] = bytes(len(whole) - at)
    with pytest.raises(ImageError, match="expected a whole picture, got a damaged file"):
        decode_rgb(bytes(whole))


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_that_ends_in_zeros_is_refused(lossless: bool) -> None:
    data = io.BytesIO()
    picture().save(data, "WEBP", lossless=lossless)
    whole = data.getvalue()
    assert decode_rgb(whole + bytes(100)).shape == (70, 90, 3)  # behind its end
    with pytest.raises(ImageError, match="it ends in zeros"):
        decode_rgb(whole[:-100] + bytes(100))


def fax(rows: int = 400) -> bytes:
    """A fax TIFF whose directory stands before its pixels, as scanners that stream write it."""
    data = io.BytesIO()
    page = Image.fromarray(np.random.default_rng(0).integers(0, 2, (rows, 64)).astype(bool))
    page.save(data, "TIFF", compression="group4")
    with Image.open(data) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        start, size = tags[273][0], tags[279][0]
    strip = data.getvalue()[start : start + size]
    entries = [(256, 4, 64), (257, 4, rows), (258, 3, 1), (259, 3, 4), (262, 3, 0), (277, 3, 1), (278, 4, rows)]
    head = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [(273, 4, head), (279, 4, size)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + struct.pack("<I", 0) + strip


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_fax_tiff_that_ends_before_its_pixels_is_refused(share: float) -> None:
    whole = fax()
    assert decode_rgb(whole).shape == (400, 64, 3)
    with pytest.raises(ImageError, match="expected a whole picture"):
        decode_rgb(whole[: int(share * len(whole))])


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp", ".png"])
def test_any_other_file_that_was_cut_off_is_refused(suffix: str, tmp_path: Path) -> None:
    picture().save(tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    for share in (0.3, 0.8, 0.99):
        (tmp_path / f"cut{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ImageError, match="expected"):
            read_rgb(tmp_path / f"cut{suffix}")


@pytest.mark.parametrize("source", ["--folder", "--watch"])
def test_a_run_calls_a_jpeg_that_was_cut_off_an_error(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.onnx")
    (tmp_path / "in").mkdir()
    whole = jpeg(Image.fromarray(good()), quality=95)
    (tmp_path / "in" / "1.jpg").write_bytes(whole)
    (tmp_path / "in" / "2.jpg").write_bytes(cut(whole, 0.8))
    result = CliRunner().invoke(run, ["--model", "m.onnx", source, "in", "--max-frames", "2"])
    rows = [json.loads(line) for line in Path("results/0001/results.jsonl").read_text().splitlines()]
    assert {Path(row["file"]).name: row["verdict"] for row in rows} == {"1.jpg": "OK", "2.jpg": "ERROR"}
    assert result.exit_code == 3
