"""Shift and zoom: what they show, that they follow the generator, and that their range is that of the good pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_run import tiny

from vtad.data.augmentation import shifted_and_zoomed
from vtad.data.images import ImageCache
from vtad.data.registration import LOOSE, SHIFT, registered, with_shift
from vtad.inspection import input_spec

SHOWN = 0.06


def test_shifted_images_show_the_same_a_little_nearer_and_off_centre() -> None:
    ramp = np.broadcast_to(np.linspace(0, 250, 100).astype(np.uint8)[None, None, :, None], (8, 60, 100, 3)).copy()
    before = ramp.copy()
    shifted = shifted_and_zoomed(ramp, SHOWN, np.random.default_rng(1))
    assert shifted.shape == ramp.shape
    assert shifted.dtype == np.uint8
    off = np.abs(shifted.astype(int) - ramp)[:, 30, 2:-2, 0]
    assert 0 < off.max() <= 250 * SHOWN + 3  # a ramp moves by as many levels as pixels
    assert len({m.tobytes() for m in shifted}) == 8
    assert np.array_equal(shifted, shifted_and_zoomed(ramp, SHOWN, np.random.default_rng(1)))
    assert not np.array_equal(shifted, shifted_and_zoomed(ramp, SHOWN, np.random.default_rng(2)))
    np.testing.assert_array_equal(ramp, before)
    less = shifted_and_zoomed(ramp, SHOWN / 4, np.random.default_rng(1))
    assert np.abs(less.astype(int) - ramp).mean() < 0.5 * np.abs(shifted.astype(int) - ramp).mean()


def test_no_images_give_none() -> None:
    assert shifted_and_zoomed(np.empty((0, 16, 16, 3), np.uint8), SHOWN, np.random.default_rng(0)).shape == (
        0,
        16,
        16,
        3,
    )


def parts(by: float, turned: bool = False, count: int = 12) -> NDArray[np.uint8]:
    """Noisy pictures of one part, each shifted by up to so many pixels, or lying at any angle."""
    rng = np.random.default_rng(3)
    part = np.full((96, 128, 3), 90, np.uint8)
    cv2.rectangle(part, (30, 20), (90, 60), (200, 180, 60), -1)
    cv2.circle(part, (60, 70), 14, (20, 40, 160), -1)
    cv2.line(part, (40, 30), (80, 50), (10, 10, 10), 4)
    out = []
    for _ in range(count):
        x, y = rng.uniform(-by, by, 2)
        matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
        if turned:
            matrix = np.asarray(cv2.getRotationMatrix2D((60, 45), float(rng.uniform(0, 360)), 1), np.float32)
        seen = cv2.warpAffine(part, matrix, (128, 96), borderMode=cv2.BORDER_REPLICATE)
        out.append(np.clip(seen + rng.normal(0, 3, seen.shape), 0, 255).astype(np.uint8))
    return np.stack(out)


@pytest.mark.parametrize("by", [1.0, 5.0])
def test_pictures_of_a_part_say_how_far_it_shifts(by: float) -> None:
    found = registered(parts(by))
    assert found.aligned
    assert 0.8 * by / 96 < found.shift < 2.1 * by / 96  # of two pictures, each shifted by up to so much


@pytest.mark.parametrize("odd", [0, 255, None])
def test_a_few_odd_pictures_say_nothing_of_the_shift(odd: int | None) -> None:
    """Some of 36 are black, white, or of a part that was turned: nothing brings them together with others."""
    pictures = parts(1.0, count=36)
    before = registered(pictures).shift
    for i in (5, 20):
        pictures[i] = parts(0, turned=True)[i % 12] if odd is None else odd
    found = registered(pictures)
    assert found.aligned
    assert found.shift <= 1.2 * before


def test_turned_parts_textures_and_a_single_picture_are_not_aligned() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    for pictures in (parts(0, turned=True), noise, noise[:1], noise[:0]):
        assert not registered(pictures).aligned


@pytest.mark.parametrize(
    ("by", "turned", "lowest", "highest"),
    [(4.0, False, 0.015, 0.045), (0.0, False, SHIFT[0], SHIFT[0]), (0.0, True, LOOSE, LOOSE)],
)
def test_the_configuration_gets_the_shift_of_its_pictures(
    tmp_path: Path, by: float, turned: bool, lowest: float, highest: float
) -> None:
    for i, picture in enumerate(parts(by, turned)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    config = tiny(image_height=96, image_width=128)
    with ImageCache(sorted(tmp_path.iterdir()), input_spec(config)) as images:
        found, text = with_shift(config, images)
        given, said = with_shift(tiny(shift=0.2), images)
    assert found.shift is not None
    assert lowest <= found.shift <= highest
    assert f"{found.shift:.1%}" in text
    assert ("turned or loose" in text) == turned
    assert given.shift == 0.2
    assert "20.0% of their sides, as given" in said
