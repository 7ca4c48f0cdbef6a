"""Synthetic defects: where they are, how large, and that they are reproducible and cheap."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from vtad.data.demo import draw
from vtad.defects import damage as defects
from vtad.defects.damage import KINDS, SMALLEST, Patch, Scene, corrupt, corrupt_batch, difference

RGB = NDArray[np.uint8]


@pytest.fixture(scope="module")
def good() -> list[RGB]:
    return [draw((1, i), 128).rgb for i in range(4)]


def test_the_mask_is_the_pixels_that_visibly_changed(good: list[RGB]) -> None:
    rng = np.random.default_rng(0)
    for i in range(100):
        before = good[i % 4]
        after, mask = corrupt(before, good[(i + 1) % 4], rng)
        change = np.abs(after.astype(int) - before).max(axis=2)
        assert after.shape == before.shape
        assert after.dtype == np.uint8
        np.testing.assert_array_equal(mask, change > Scene(before).visible)
        assert mask.sum() >= SMALLEST


def test_inputs_are_left_alone(good: list[RGB]) -> None:
    before, donor = good[0].copy(), good[1].copy()
    for seed in range(20):
        corrupt(before, donor, np.random.default_rng(seed))
    np.testing.assert_array_equal(before, good[0])
    np.testing.assert_array_equal(donor, good[1])


def test_the_same_generator_gives_the_same_defects(good: list[RGB]) -> None:
    a, b, c = (corrupt(good[0], good[1], np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert (a[0] != c[0]).any()


def test_sizes_reach_from_specks_to_a_tenth_of_the_picture(good: list[RGB]) -> None:
    rng = np.random.default_rng(1)
    shares = [corrupt(good[i % 4], good[(i + 1) % 4], rng)[1].mean() for i in range(400)]
    assert min(shares) < 0.001
    assert np.quantile(shares, 0.98) > 0.04
    assert max(shares) < 0.35
    assert 0.001 < np.median(shares) < 0.03


def test_every_place_of_the_picture_gets_defects(good: list[RGB]) -> None:
    rng = np.random.default_rng(2)
    hits = np.sum([corrupt(good[i % 4], good[(i + 1) % 4], rng)[1] for i in range(600)], axis=0)
    blocks = hits.reshape(4, 32, 4, 32).sum(axis=(1, 3))
    assert (blocks > 0).all()
    assert blocks[1:3, 1:3].sum() < 0.8 * blocks.sum()


def test_a_small_part_on_a_plain_ground_gets_many_of_the_defects() -> None:
    """The ground is most of the picture, the part what must be learnt."""
    rng = np.random.default_rng(3)
    picture = np.clip(rng.normal(180, 2, (128, 128, 1)), 0, 255).repeat(3, axis=2).astype(np.uint8)
    part = np.zeros((128, 128), np.bool_)
    part[60:72, 20:100] = True  # 6 % of the picture
    picture[part] = rng.integers(20, 160, (int(part.sum()), 1))
    touched = [corrupt(picture, picture, rng)[1][part].any() for _ in range(300)]
    assert np.mean(touched) > 0.5


@pytest.mark.parametrize("noise", [0, 1])
def test_defects_of_a_grey_picture_are_grey(good: list[RGB], noise: int) -> None:
    """Colour in them would be what gives them away. A compressed grey picture is grey but for rounding."""
    rng = np.random.default_rng(4)
    grey = good[0].mean(axis=2, keepdims=True).repeat(3, axis=2)
    grey = np.clip(grey + rng.integers(-noise, noise + 1, grey.shape), 0, 255).astype(np.uint8)
    for _ in range(60):
        assert np.ptp(corrupt(grey, good[1], rng)[0].astype(int), axis=2).max() <= 2 * noise + 1
    colours = max(np.ptp(corrupt(good[0], good[1], rng)[0].astype(int), axis=2).max() for _ in range(20))
    assert colours > 60


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.strip("_"))
def test_every_kind_can_be_seen_and_stays_local(kind: object, good: list[RGB]) -> None:
    assert callable(kind)
    rng, scene = np.random.default_rng(3), Scene(good[0])
    changed = [difference(good[0], kind(good[0], good[1], scene, rng).on(good[0])).mean() for _ in range(40)]
    assert np.count_nonzero(changed) >= 20
    assert max(changed) < 0.25


def test_defects_of_dark_pictures_are_often_fainter(good: list[RGB]) -> None:
    dark = [(image // 5).astype(np.uint8) for image in good]
    assert Scene(dark[0]).faintest < 0.5
    assert Scene(good[0]).faintest == 1

    def steps(pictures: list[RGB]) -> list[float]:
        """How far the pixels of a defect moved, levels."""
        rng = np.random.default_rng(12)
        found = []
        for i in range(200):
            before = pictures[i % 4]
            after, mask = corrupt(before, pictures[(i + 1) % 4], rng)
            found.append(float(np.abs(after.astype(int) - before).max(axis=2)[mask].mean()))
        return found

    faint, strong = np.quantile(steps(dark), (0.25, 0.95))
    assert faint < 0.6 * np.quantile(steps(good), 0.25)
    assert strong > 40  # white paint on a dark part is a defect too


def test_half_of_the_defects_lie_where_there_is_contrast(good: list[RGB]) -> None:
    plain = np.full((96, 96, 3), 200, np.uint8)
    plain[:, :48] = good[0][:96, :48]
    rng = np.random.default_rng(13)
    spots = np.array([Scene(plain).spot(rng) for _ in range(400)])
    assert 0.6 < (spots[:, 0] < 48).mean() < 0.9  # half by contrast, half anywhere


def test_where_defects_gather_does_not_depend_on_earlier_ones(good: list[RGB], monkeypatch: pytest.MonkeyPatch) -> None:
    """All defects of a picture are placed by what was to be seen on the good one."""
    shares = []

    def recorded(rgb: RGB, donor: RGB, scene: Scene, rng: np.random.Generator) -> Patch:
        shares.append(scene.share)
        return KINDS[0](rgb, donor, scene, rng)

    monkeypatch.setattr(defects, "KINDS", (recorded,))
    for seed in range(10):
        corrupt(good[0], good[1], np.random.default_rng(seed))
    assert len(shares) > 10  # more than one in some pictures
    for share in shares:
        np.testing.assert_array_equal(share, Scene(good[0]).share)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 64), (64, 9), (33, 50)])
def test_flat_and_tiny_pictures_get_a_defect_too(level: int, height: int, width: int) -> None:
    flat = np.full((height, width, 3), level, np.uint8)
    rng = np.random.default_rng(4)
    for _ in range(40):
        after, mask = corrupt(flat, flat, rng)
        assert mask.sum() >= SMALLEST
        assert (after != flat).any(axis=2)[mask].all()


def test_donors_of_another_size_serve(good: list[RGB]) -> None:
    rng = np.random.default_rng(5)
    for donor in (good[1][:8, :8], np.tile(good[1], (2, 2, 1))):
        for _ in range(30):
            assert corrupt(good[0], donor, rng)[0].shape == good[0].shape


def test_a_batch_is_corrupted_picture_by_picture(good: list[RGB]) -> None:
    images = np.stack(good)
    corrupted, masks = corrupt_batch(images, images, np.random.default_rng(6))
    assert corrupted.shape == images.shape
    for before, after, mask in zip(images, corrupted, masks, strict=True):
        np.testing.assert_array_equal(mask, difference(before, after, Scene(before).visible))
        assert mask.any()
    assert corrupt_batch(images[:1], images, np.random.default_rng(6))[1].any()


@pytest.mark.parametrize(
    "wrong", [np.zeros((16, 16), np.uint8), np.zeros((16, 16, 3), np.float32), np.zeros((7, 16, 3), np.uint8)]
)
def test_other_shapes_and_kinds_are_refused(wrong: RGB, good: list[RGB]) -> None:
    with pytest.raises(ValueError, match="picture: expected"):
        corrupt(wrong, good[0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="donor: expected"):
        corrupt(good[0], wrong, np.random.default_rng(0))


def test_a_picture_of_256_pixels_costs_a_few_milliseconds() -> None:
    rgb = draw((1, 0), 256).rgb
    rng = np.random.default_rng(9)
    start = time.thread_time()
    for _ in range(50):
        corrupt(rgb, rgb, rng)
    assert (time.thread_time() - start) / 50 < 0.015  # three times the budget, for slow and busy machines
