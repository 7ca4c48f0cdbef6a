"""Shift and zoom: what they show, and that they follow the generator."""

import numpy as np

from vtad.data.augmentation import ZOOM, shifted_and_zoomed


def test_shifted_images_show_the_same_a_little_nearer_and_off_centre() -> None:
    ramp = np.broadcast_to(np.linspace(0, 250, 100).astype(np.uint8)[None, None, :, None], (8, 60, 100, 3)).copy()
    before = ramp.copy()
    shifted = shifted_and_zoomed(ramp, np.random.default_rng(1))
    assert shifted.shape == ramp.shape
    assert shifted.dtype == np.uint8
    off = np.abs(shifted.astype(int) - ramp)[:, 30, 2:-2, 0]
    assert 0 < off.max() <= 250 * ZOOM + 3  # a ramp moves by as many levels as pixels
    assert len({m.tobytes() for m in shifted}) == 8
    assert np.array_equal(shifted, shifted_and_zoomed(ramp, np.random.default_rng(1)))
    assert not np.array_equal(shifted, shifted_and_zoomed(ramp, np.random.default_rng(2)))
    np.testing.assert_array_equal(ramp, before)


def test_no_images_give_none() -> None:
    assert shifted_and_zoomed(np.empty((0, 16, 16, 3), np.uint8), np.random.default_rng(0)).shape == (0, 16, 16, 3)
