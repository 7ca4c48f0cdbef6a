"""Symmetries: those that leave good parts good are kept, by what good images alone show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_run import error, flags, tiny

from vtad.commands.train import train as command
from vtad.config import SYMMETRIES, ConfigError, symmetry_names
from vtad.data.images import ImageCache
from vtad.fitting.symmetries import TRANSFORMS, Views, vary, with_symmetries
from vtad.inspection import input_spec
from vtad.training import train

Pixels = NDArray[np.uint8]
Cached = Callable[[str, int], ImageCache]


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    """cached(kind, n) -> n pictures: "arrow" points to one side, "speckle" is the same in all directions."""

    def make(kind: str, count: int) -> ImageCache:
        files = []
        for i in range(count):
            rng = np.random.default_rng((len(kind), count, i))
            noise = rng.normal(0, 12, (32, 32, 1))
            ground = np.full((32, 32, 3), 120.0)
            if kind == "arrow":
                ground[:, :, 0] += np.linspace(-100, 100, 32)
                ground[4:12, 20:30] = (250, 40, 40)
            files.append(tmp_path / f"{kind}{count}-{i}.png")
            Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8)).save(files[-1])
        return ImageCache(files, input_spec(tiny()))

    return make


def kept(cached: Cached, kind: str) -> set[str]:
    torch.manual_seed(0)
    config = with_symmetries(tiny(symmetries="auto"), cached(kind, 24), cached(kind, 23), torch.device("cpu"), None)
    return set(symmetry_names(config.symmetries))


def test_a_part_that_points_somewhere_is_not_turned(cached: Cached) -> None:
    assert not kept(cached, "arrow") & {"mirror", "turn180", "turn90", "turn270", "transpose", "transverse"}


def test_a_texture_without_direction_may_be_turned_and_mirrored(cached: Cached) -> None:
    assert len(kept(cached, "speckle")) >= 5


def test_only_symmetries_that_keep_the_shape_are_asked_about_where_the_input_is_not_square(cached: Cached) -> None:
    config = tiny(symmetries="auto", image_width=16)
    images = ImageCache([Path(f) for f in cached("speckle", 24).files], input_spec(config))
    found = with_symmetries(config, images, images, torch.device("cpu"), None)
    assert set(symmetry_names(found.symmetries)) <= {"mirror", "flip", "turn180"}


def test_each_transform_is_the_symmetry_of_its_name() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert tuple(TRANSFORMS) == SYMMETRIES
    for name, expected in {
        "mirror": np.fliplr(image),
        "flip": np.flipud(image),
        "turn180": np.rot90(image, 2),
        "turn90": np.rot90(image, -1),
        "turn270": np.rot90(image, 1),
        "transpose": np.transpose(image, (1, 0, 2)),
    }.items():
        found = TRANSFORMS[name](image[None])[0]
        np.testing.assert_array_equal(found, expected, name)
    both = TRANSFORMS["turn180"](TRANSFORMS["transpose"](image))
    np.testing.assert_array_equal(TRANSFORMS["transverse"](image), both)


def test_views_show_every_image_as_it_is_first_and_no_more_than_asked(cached: Cached) -> None:
    images = cached("arrow", 4)
    views = Views(images, ("mirror", "flip"), most=10)
    assert len(views) == 10
    np.testing.assert_array_equal(views[0:4], images[:])
    extra = views[4:10]
    for i, view in enumerate(extra):
        image = images[i % 4]
        assert any(np.array_equal(view, TRANSFORMS[name](image)) for name in ("mirror", "flip"))
    assert len(Views(images, (), most=10)) == 4
    assert len(Views(images, ("mirror",), most=2)) == 4


def test_varied_images_are_all_symmetries_of_the_given_ones() -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), dtype=np.uint8)
    seen = set()
    for before, after in zip(images, vary(images, ("turn90",), np.random.default_rng(1)), strict=True):
        turned = np.array_equal(after, TRANSFORMS["turn90"](before))
        assert turned or np.array_equal(after, before)
        seen.add(turned)
    assert seen == {True, False}


@pytest.mark.slow
def test_a_run_records_what_was_found_or_what_was_given(pills: Path, tmp_path: Path) -> None:
    found = train(tiny(data=str(pills), out=str(tmp_path / "auto"), epochs=1, symmetries="auto")).config()
    assert found.symmetries != "auto"
    symmetry_names(found.symmetries)
    given = train(tiny(data=str(pills), out=str(tmp_path / "given"), epochs=1, symmetries="mirror,turn90")).config()
    assert given.symmetries == "mirror,turn90"


def test_unknown_names_and_turns_of_what_is_not_square_are_one_line(pills: Path) -> None:
    line = error(2, command, "--category", "pill", "--data", pills, *flags(symmetries="mirror,twist"))
    assert "got 'twist'" in line
    with pytest.raises(ConfigError, match="turn90 needs a square input, got 32x48"):
        tiny(symmetries="turn90", image_width=48)
