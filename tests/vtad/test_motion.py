"""Moved pictures: what they show, and that they follow the generator."""

import numpy as np

from vtad.data.augmentation import ZOOM, moved_images


def test_moved_images_show_the_same_a_little_nearer_and_off_centre() -> None:
    ramp = np.broadcast_to(np.linspace(0, 250, 100).astype(np.uint8)[None, None, :, None], (8, 60, 100, 3)).copy()
    before = ramp.copy()
    moved = moved_images(ramp, np.random.default_rng(1))
    assert moved.shape == ramp.shape
    assert moved.dtype == np.uint8
    off = np.abs(moved.astype(int) - ramp)[:, 30, 2:-2, 0]
    assert 0 < off.max() <= 250 * ZOOM + 3  # a ramp moves by as many levels as pixels
    assert len({m.tobytes() for m in moved}) == 8
    assert np.array_equal(moved, moved_images(ramp, np.random.default_rng(1)))
    assert not np.array_equal(moved, moved_images(ramp, np.random.default_rng(2)))
    np.testing.assert_array_equal(ramp, before)


def test_no_images_give_none() -> None:
    assert moved_images(np.empty((0, 16, 16, 3), np.uint8), np.random.default_rng(0)).shape == (0, 16, 16, 3)
