"""The pictures of a result: nothing is hidden, good parts stay as they are, colours mean the same everywhere."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_model import GREY, UNIT, bad, good, write_model

from vtad_runtime import Detector
from vtad_runtime.contract.tint import tint
from vtad_runtime.drawing import heatmap
from vtad_runtime.drawing.annotated import annotated
from vtad_runtime.drawing.encoding import PictureError, encode
from vtad_runtime.drawing.heatmap import MAX_SIDE, overlay
from vtad_runtime.drawing.panel import panel
from vtad_runtime.drawing.text import draw_text, text_width
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.verdict import Verdict


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return Detector(write_model(tmp_path / "m.onnx"))


def test_a_good_part_stays_as_it_is(detector: Detector) -> None:
    rgb = good(400, 300)
    picture = overlay(rgb, detector(rgb))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:300], rgb)
    assert picture.shape[0] > 300  # the legend is below, so it hides nothing
    assert picture.shape[1] == 400


def test_below_half_the_pixel_threshold_nothing_is_tinted(detector: Detector) -> None:
    for units, tinted in [(1.4, False), (1.7, True), (2.9, True), (5.0, True)]:
        rgb = np.full((300, 400, 3), round(GREY + units * UNIT), np.uint8)
        picture = overlay(rgb, detector(rgb))[100:200, 100:200]  # clear of boxes
        assert (picture != rgb[100:200, 100:200]).any() == tinted


def test_colours_are_fixed_in_units_not_scaled_to_each_picture(detector: Detector) -> None:
    weak, strong = good(400, 400), good(400, 400)
    weak[100:200, 100:200] = strong[100:200, 100:200] = round(GREY + 4 * UNIT)
    strong[300:380, 300:380] = 255
    a, b = (overlay(rgb, detector(rgb))[150, 150] for rgb in (weak, strong))
    np.testing.assert_array_equal(a, b)


def test_a_defect_is_tinted_and_boxed(detector: Detector) -> None:
    rgb = bad(400, 400, 100, 100, 100)
    picture = overlay(rgb, detector(rgb))
    changed = (picture[:400] != rgb).any(axis=2)
    assert changed[150, 150]
    assert (picture[:400] == (255, 255, 255)).all(axis=2)[80:100].any()  # the box, outside the defect
    assert not changed[:80].any()


@pytest.mark.parametrize("scale", [0.01, 0.42, 1.0, 4.0])
def test_words_stand_on_their_line_as_wide_as_foretold_and_are_cut_at_the_edges(scale: float) -> None:
    height = round(40 * scale) + 8
    picture = np.zeros((height, text_width("HE H", scale) + 8, 3), np.uint8)
    draw_text(picture, "HE H", 4, height - 4, scale=scale, colour=(200, 100, 0))
    rows, columns = np.nonzero(picture[..., 0] > 60)
    assert rows.max() <= height - 4 < rows.max() + 3
    assert columns.min() >= 4
    assert columns.max() <= 4 + text_width("HE H", scale) < columns.max() + 3 + 4 * scale
    assert not picture[..., 2].any()
    for x, y in ((-9, 5), (len(picture[0]) - 3, 2), (0, height + 6), (9999, 0), (-9999, height)):
        draw_text(picture, "score 1", x, y, scale=scale)


@pytest.mark.skipif(int(cv2.__version__.split(".")[0]) < 5, reason="before, OpenCV has no other letters")
def test_names_keep_their_letters_in_any_script() -> None:
    words = ["Prüfung", "Prёfung", "Pr部fung", "Prufung"]
    drawn = []
    for text in words:
        assert text_width(text, 1.0) > 60
        drawn.append(np.zeros((40, 200, 3), np.uint8))
        draw_text(drawn[-1], text, 4, 30, scale=1.0)
        assert drawn[-1].any()
    assert len({picture.tobytes() for picture in drawn}) == len(words)


def test_pictures_do_not_show_each_others_words(detector: Detector) -> None:
    first = overlay(good(400, 300), detector(good(400, 300)))
    overlay(bad(400, 300), detector(bad(400, 300)))
    np.testing.assert_array_equal(overlay(good(400, 300), detector(good(400, 300))), first)


@pytest.mark.parametrize("rows", [3, 2000])  # blended at once, and in bands
def test_each_pixel_is_tinted_by_its_own_value(rows: int) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (rows, 900, 3), dtype=np.uint8)
    values = rng.normal(0, 4, (rows, 900)).astype(np.float32)
    values[0, :2] = np.nan, np.inf
    picture = tint(rgb, values, 3.0)
    low, top = values <= 1.5, ~(values < 6)  # NaN is as bad as can be
    np.testing.assert_array_equal(picture[low], rgb[low])
    for y, x in [(0, 0), (0, 1), (rows - 1, 899), *np.argwhere(top)[-3:], *np.argwhere(~low & ~top)[:3]]:
        np.testing.assert_array_equal(
            picture[y, x], tint(rgb[y : y + 1, x : x + 1], values[y : y + 1, x : x + 1], 3.0)[0, 0]
        )
    assert (picture[~low] != rgb[~low]).any(axis=1).mean() > 0.99


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30, 90), (100, 80), (359, 10), (2000, 40)])
def test_every_size_gives_a_legible_picture(detector: Detector, width: int, height: int) -> None:
    rgb = good(width, height)
    picture = overlay(rgb, detector(rgb))
    assert picture.shape[1] >= 360
    assert picture.shape[1] % width == 0  # enlarged by a whole factor
    factor = picture.shape[1] // width
    np.testing.assert_array_equal(picture[: height * factor : factor, ::factor], rgb)
    assert panel(rgb, detector(rgb)).shape[2] == 3


def test_the_panel_shows_five_pictures_of_one_size(detector: Detector) -> None:
    rgb = bad(320, 320, 80, 80, 80)
    picture = panel(rgb, detector(rgb))
    assert picture.shape[1] == 5 * 640 + 4 * 6
    tile = picture[28 : 28 + 640, :640]
    assert (tile[300, 300] == 255).all()  # the input, untouched
    assert (picture[28 + 600, 2 * 646 + 600] == 0).all()  # the SSIM map is black where nothing is odd
    assert (picture[28 + 300, 2 * 646 + 300] > 0).any()


def test_a_result_that_is_not_finite_can_be_drawn(tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "nan.onnx", score_scale=float("nan")))
    rgb = good(400, 100)
    assert overlay(rgb, detector(rgb)).shape[1] == 400


@pytest.mark.parametrize(
    ("width", "height"), [(96, 16_400), (4, 8000), (16_400, 96), (8000, 4), (1, 70_000), (359, 5000), (4200, 900)]
)
def test_a_picture_of_any_shape_is_drawn_within_4096_pixels_a_side(detector: Detector, width: int, height: int) -> None:
    rgb = good(width, height)
    result = detector(rgb)
    frame = Frame(1, 1.7e9, 0.0, 1.0, 0, rgb)
    judgements = [Judgement("camera 0", 1, 1.7e9, Verdict.NG, "x", None, 2.0, frame, r) for r in (result, None)]
    for picture in (overlay(rgb, result), panel(rgb, result), *map(annotated, judgements)):
        assert max(picture.shape) <= MAX_SIDE
        assert encode(picture, ".jpg")
    assert overlay(rgb, result).shape[1] >= 360  # the legend stays legible


@pytest.mark.parametrize(("width", "height"), [(96, 1000), (4096, 900), (360, 4046)])
def test_a_picture_that_fits_is_neither_shrunk_nor_cut(detector: Detector, width: int, height: int) -> None:
    rgb = good(width, height)
    picture = overlay(rgb, detector(rgb))
    factor = picture.shape[1] // width
    np.testing.assert_array_equal(picture[: height * factor : factor, ::factor], rgb)


def test_a_shrunk_picture_shows_the_defect_where_it_is(detector: Detector) -> None:
    picture = overlay(rgb := bad(8192, 1000, 4096, 500, 400), detector(rgb))
    inside, outside = picture[350, 2150], picture[100, 100]
    assert (inside != 255).any()  # tinted
    assert (outside == GREY).all()


def test_what_cannot_be_encoded_says_its_size_and_format(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PictureError, match=r"65500 pixels a side.*JPEG.*got 70000x1 pixels"):
        encode(np.zeros((1, 70_000, 3), np.uint8), ".jpg")
    assert encode(np.zeros((1, 70_000, 3), np.uint8), ".png")
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.zeros(0, np.uint8)))
    with pytest.raises(PictureError, match=r"a picture of 5x4 pixels cannot be saved as \.png"):
        encode(np.zeros((4, 5, 3), np.uint8), ".png")

    def raises(*_: object) -> None:
        raise cv2.error("several\nlines")

    monkeypatch.setattr(cv2, "imencode", raises)
    with pytest.raises(PictureError, match=r"cannot be saved as \.jpg: cv2.error: several lines"):
        encode(np.zeros((4, 5, 3), np.uint8), ".jpg")


def test_what_cannot_be_drawn_is_one_clear_error(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    rgb = good(400, 300)
    result = detector(rgb)
    monkeypatch.setattr(heatmap, "tint", full)
    with pytest.raises(PictureError, match="the picture cannot be drawn: MemoryError"):
        overlay(rgb, result)
