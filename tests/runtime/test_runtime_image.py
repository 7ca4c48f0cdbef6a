"""The pixel path: what every kind of file decodes to, how pictures are fitted, and how maps come back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from PIL.ImageFile import ImageFile
from tiny_model import make_card

from vtad_runtime.contract.card import Input
from vtad_runtime.contract.fit import fit_image, fit_mask, place, resize, unfit_map
from vtad_runtime.contract.image import ImageError, image_size, is_image, read_mask, read_rgb

Fit = Literal["stretch", "letterbox", "centre_crop"]

# 2 rows, 3 columns
RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [255, 255, 255]]], np.uint8)
ORIENTED: dict[int, Any] = {  # EXIF orientation -> the upright picture of the stored pixels
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: RGB[::-1].transpose(1, 0, 2),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: RGB[:, ::-1].transpose(1, 0, 2),
}


def spec(width: int, height: int, fit: Fit = "stretch", roi: tuple[int, int, int, int] | None = None) -> Input:
    return dataclasses.replace(make_card(width, height).input, fit=fit, roi=roi)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.TIFF", {"compression": "tiff_lzw"}),
        ("a.tiff", {"compression": "tiff_adobe_deflate"}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_lossless_rgb_files_decode_to_the_same_pixels(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = save(Image.fromarray(RGB), tmp_path / name, **options)
    assert_array_equal(read_rgb(path), RGB)
    assert image_size(path) == (3, 2)
    assert is_image(path)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_eight_bit_kinds_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 255, 255], [255, 0, 255]], np.uint8)
    path = save(Image.fromarray(grey).convert(mode), tmp_path / "a.png")
    assert_array_equal(read_rgb(path), np.repeat(grey[:, :, None], 3, axis=2))


def test_transparency_is_composited_over_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 128], [200, 100, 50, 0]]], np.uint8)
    path = save(Image.fromarray(rgba), tmp_path / "a.png")
    assert_array_equal(read_rgb(path), [[[200, 100, 50], [100, 50, 25], [0, 0, 0]]])


def test_a_palette_with_a_transparent_colour_is_composited_over_black(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 100, 50, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    path = save(palette, tmp_path / "a.png", transparency=0)
    assert_array_equal(read_rgb(path), [[[0, 0, 0], [10, 20, 30]]])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_divided_by_257_and_rounded(tmp_path: Path, name: str) -> None:
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    path = save(Image.fromarray(levels), tmp_path / name)
    assert_array_equal(read_rgb(path)[0, :, 1], [0, 0, 1, 1, 128, 255])
    assert read_rgb(path).shape == (1, 6, 3)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_colour_keeps_channel_order_and_is_within_one_level(tmp_path: Path, name: str) -> None:
    bgr = np.array([[[65535, 0, 1000], [257 * 7, 257 * 8, 257 * 9], [40000, 50000, 60000]]], np.uint16)
    assert cv2.imwrite(str(tmp_path / name), bgr)
    exact = np.rint(bgr[:, :, ::-1] / 257)
    assert np.abs(read_rgb(tmp_path / name) - exact).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.tif", {}), ("a.tif", {"compression": "tiff_lzw"}), ("a.webp", {"lossless": True})],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, name: str, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(RGB), tmp_path / name, exif=exif, **options)
    upright = ORIENTED[orientation]
    assert_array_equal(read_rgb(path), upright)
    assert image_size(path) == (upright.shape[1], upright.shape[0])
    assert_array_equal(read_mask(path), upright.any(axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_to_know_the_size_of_a_picture_its_pixels_are_not_decoded(
    name: str, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.new("RGB", (40, 30)), tmp_path / name, **({} if name == "a.bmp" else {"exif": exif}))
    monkeypatch.setattr(ImageFile, "load", lambda image: pytest.fail("its pixels are decoded"))
    assert image_size(path) == ((30, 40) if orientation == 6 and name != "a.bmp" else (40, 30))


def test_what_a_png_says_of_its_orientation_after_its_pixels_counts_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save(Image.new("RGB", (40, 30)), tmp_path / "a.png", exif=exif).read_bytes()
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4])
    path = tmp_path / "b.png"
    path.write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
    assert image_size(path) == (30, 40)
    assert read_rgb(path).shape == (40, 30, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_oriented_uncompressed_grey_tiff_is_not_scrambled(tmp_path: Path, orientation: int, depth: Any) -> None:
    # Pillow maps such files into memory with width and height swapped when it is given a path.
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = RGB[:, :, 0].astype(depth) * (257 if depth is np.uint16 else 1)
    path = save(Image.fromarray(grey), tmp_path / "a.tif", exif=exif)
    assert_array_equal(read_rgb(path)[:, :, 0], ORIENTED[orientation][:, :, 0])


def test_a_rotated_jpeg_stands_upright(tmp_path: Path) -> None:
    halves = np.zeros((16, 32, 3), np.uint8)
    halves[:, :16], halves[:, 16:] = (200, 50, 50), (30, 60, 220)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view: the left half comes to the top
    path = save(Image.fromarray(halves), tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    rgb = read_rgb(path)
    assert rgb.shape == (32, 16, 3)
    assert image_size(path) == (16, 32)
    assert np.abs(rgb[8, 8].astype(int) - (200, 50, 50)).max() <= 2
    assert np.abs(rgb[24, 8].astype(int) - (30, 60, 220)).max() <= 2


@pytest.mark.parametrize(("name", "tolerance"), [("a.jpg", 3), ("a.tif", 0)])
def test_cmyk_is_converted(tmp_path: Path, name: str, tolerance: int) -> None:
    path = save(Image.new("CMYK", (16, 16), (255, 0, 51, 0)), tmp_path / name)
    assert np.abs(read_rgb(path).astype(int) - (0, 255, 204)).max() <= tolerance


@pytest.mark.parametrize("image", [Image.new("F", (2, 2)), Image.new("I", (2, 2))])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, image: Image.Image) -> None:
    path = save(image, tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: expected pixels of 8 or 16 bits"):
        read_rgb(path)


def noise(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return save(Image.fromarray(pixels), path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, share: float) -> None:
    path = noise(tmp_path / f"a.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"a\..*: expected .* got"):
        read_rgb(path)


def test_each_unusable_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    save(Image.new("L", (4, 4)), tmp_path / "gif.png", format="GIF")
    (tmp_path / "folder.png").mkdir()
    for name, got in [
        ("missing.png", "nothing there"),
        ("folder.png", "a folder"),
        ("empty.png", "an empty file"),
        ("text.png", "another or a damaged file"),
        ("gif.png", "another or a damaged file"),
    ]:
        for read in (read_rgb, read_mask, image_size):
            with pytest.raises(ImageError, match=rf"{name}: expected .*got {got}") as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noise(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(ImageError, match=r"a\.png: expected at most 1800 pixels"):
        read_rgb(path)
    monkeypatch.setenv("VTAD_MAX_PIXELS", "8000")
    assert read_rgb(path).shape == (40, 50, 3)
    monkeypatch.setenv("VTAD_MAX_PIXELS", "1900")
    with pytest.raises(ImageError, match="raise the limit by the environment variable VTAD_MAX_PIXELS"):
        read_rgb(path)
    monkeypatch.setenv("VTAD_MAX_PIXELS", "many")
    with pytest.raises(ImageError, match="VTAD_MAX_PIXELS: expected a number of pixels"):
        read_rgb(path)


def test_names_that_are_not_pictures(tmp_path: Path) -> None:
    assert is_image(Path("A.JPeG"))
    assert not is_image(Path("a.txt"))
    assert not is_image(Path(".hidden.png"))


def test_any_non_zero_mask_pixel_is_defect(tmp_path: Path) -> None:
    for values in (np.array([[0, 1, 255]], np.uint8), np.array([[0, 1, 65535]], np.uint16)):
        path = save(Image.fromarray(values), tmp_path / "mask.png")
        assert_array_equal(read_mask(path), [[False, True, True]])


def test_shrinking_averages_areas() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    means = pixels.reshape(3, 4, 5, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize(pixels, 5, 3) - means).max() <= 1
    np.testing.assert_allclose(resize(pixels.astype(np.float32), 5, 3), means, atol=1e-3)


def test_growing_interpolates_linearly() -> None:
    assert_array_equal(resize(np.array([[0, 100]], np.float32), 4, 1), [[0, 25, 75, 100]])


def test_one_axis_shrinks_while_the_other_grows() -> None:
    values = np.array([[0, 100, 40, 60]], np.float32)
    assert_array_equal(resize(values, 2, 3), [[50, 50]] * 3)
    assert_array_equal(resize(values.T.copy(), 3, 2), [[50] * 3] * 2)


def test_resize_keeps_shape_kind_and_refuses_others() -> None:
    assert resize(np.zeros((4, 4, 1), np.uint8), 2, 2).shape == (2, 2, 1)
    assert resize(np.zeros((4, 4), np.float32), 2, 8).dtype == np.float32
    with pytest.raises(ValueError, match=r"expected .* uint8 or float32, got .* float64"):
        resize(np.zeros((4, 4)), 2, 2)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="at least 1x1"):
        resize(np.zeros((4, 4), np.uint8), 0, 2)


def test_stretch_fills_the_input() -> None:
    fitted, placement = fit_image(np.full((10, 20, 3), 7, np.uint8), spec(4, 8))
    assert fitted.shape == (8, 4, 3)
    assert (fitted == 7).all()
    assert (placement.source_width, placement.source_height) == (20, 10)


def test_letterbox_keeps_the_aspect_and_pads_with_black() -> None:
    fitted, placement = fit_image(np.full((10, 20, 3), 7, np.uint8), spec(8, 8, "letterbox"))
    assert_array_equal(fitted[:, 0, 0], [0, 0, 7, 7, 7, 7, 0, 0])
    assert (placement.inside.y, placement.inside.height, placement.inside.width) == (2, 4, 8)


def test_centre_crop_keeps_the_middle() -> None:
    rgb = np.zeros((4, 8, 3), np.uint8)
    rgb[:, 2:6] = 9
    fitted, placement = fit_image(rgb, spec(4, 4, "centre_crop"))
    assert (fitted == 9).all()
    assert (placement.used.x, placement.used.width) == (2, 4)


def test_the_region_of_interest_is_cut_before_fitting() -> None:
    rgb = np.zeros((10, 10, 3), np.uint8)
    rgb[2:6, 3:9] = 5
    fitted, _ = fit_image(rgb, spec(6, 4, roi=(3, 2, 6, 4)))
    assert (fitted == 5).all()


@pytest.mark.parametrize("roi", [(5, 5, 6, 5), (-1, 0, 4, 4), (0, 0, 0, 4), (20, 0, 2, 2)])
def test_a_region_of_interest_outside_the_picture_is_an_error(roi: tuple[int, int, int, int]) -> None:
    with pytest.raises(ImageError, match=r"region of interest .* got a picture of 10x10"):
        fit_image(np.zeros((10, 10, 3), np.uint8), spec(4, 4, roi=roi))


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "centre_crop"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 400), (400, 1), (3, 7), (500, 333)])
def test_every_size_fits_and_comes_back(fit: Fit, width: int, height: int) -> None:
    rgb = np.full((height, width, 3), 7, np.uint8)
    fitted, placement = fit_image(rgb, spec(16, 16, fit))
    assert fitted.shape == (16, 16, 3)
    back = unfit_map(np.ones((16, 16), np.float32), placement)
    assert back.shape == (height, width)
    assert (back[placement.used.slices] == 1).all()
    assert back.sum() == placement.used.width * placement.used.height


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize(("width", "height"), [(1000, 900), (20, 31), (13, 500), (33, 33)])
def test_a_single_defect_pixel_never_vanishes(fit: Fit, width: int, height: int) -> None:
    for y, x in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
        mask = np.zeros((height, width), np.bool_)
        mask[y, x] = True
        fitted = fit_mask(mask, spec(32, 32, fit))
        assert fitted.dtype == np.bool_
        assert 1 <= fitted.sum() <= 64


def test_a_mask_lies_where_its_picture_lies() -> None:
    rgb = np.zeros((60, 90, 3), np.uint8)
    rgb[20:40, 30:60] = 255
    fitted, _ = fit_image(rgb, spec(30, 30, "letterbox"))
    assert_array_equal(fit_mask(rgb[:, :, 0] > 0, spec(30, 30, "letterbox")), fitted.any(axis=2))


def test_a_map_comes_back_to_where_it_was_seen() -> None:
    placement = place(20, 10, spec(8, 8, roi=(4, 2, 8, 8)))
    values = np.zeros((8, 8), np.float32)
    values[1, 3] = 5
    back = unfit_map(values, placement)
    assert back[3, 7] == 5
    assert back.sum() == 5
