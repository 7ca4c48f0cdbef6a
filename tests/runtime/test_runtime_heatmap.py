"""The pictures of a result: nothing is hidden, good parts stay as they are, colours mean the same everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import GREY, UNIT, bad, good, write_model

from vtad_runtime import Detector
from vtad_runtime.drawing.heatmap import overlay, panel


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
