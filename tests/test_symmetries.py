"""Symmetries: what the rule keeps, or the user names, trains and calibrates with every preset. Exported in test_python_api."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import tiny

from vtad.config import SYMMETRIES, symmetry_names
from vtad.data.augmentation import shifted_and_zoomed
from vtad.fitting import sampling
from vtad.fitting.symmetries import RGB, TRANSFORMS, vary
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad.training import train


def carpet(folder: Path, count: int) -> Path:
    """A data folder with the category "carpet": woven texture that looks the same in all directions."""
    (folder / "carpet" / "train" / "good").mkdir(parents=True)
    for i in range(count):
        rng = np.random.default_rng((7, i))
        pile = np.clip(rng.normal(120, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pile).save(folder / "carpet" / "train" / "good" / f"{i:03d}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "scratch", "paper"])
def test_every_symmetry_trains_and_calibrates_with_every_preset(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: set[str] = set()

    def watched(images: RGB, names: tuple[str, ...], rng: np.random.Generator) -> RGB:
        with pytest.MonkeyPatch.context() as patch:
            for symmetry in names:
                patch.setitem(TRANSFORMS, symmetry, partial(turned_by, symmetry, TRANSFORMS[symmetry]))
            return vary(images, names, rng)

    def turned_by(symmetry: str, turn: Callable[[RGB], RGB], image: RGB) -> RGB:
        trained_on.add(symmetry)
        return turn(image)

    monkeypatch.setattr(sampling, "vary", watched)
    config = tiny(
        name,
        "carpet",
        data=str(carpet(tmp_path / "data", 12)),
        out=str(tmp_path / "runs"),
        symmetries=",".join(SYMMETRIES),
        shift_and_zoom=1.0,
        batch_size=1,  # so that whole batches are turned
        epochs=4,
    )
    assert train(config).card().calibration.images in (3, 12)  # held out; with those that are cross-fitted
    assert trained_on == set(SYMMETRIES)


def turned(name: str, data: Path, out: Path) -> Run:
    """A run on pictures that may be turned: the rule keeps that, or the user says so where the preset asks for none."""
    given = {"symmetries": ",".join(SYMMETRIES)} if name == "paper" else {"symmetries": "auto"}
    run = train(tiny(name, "carpet", data=str(data), out=str(out), shift_and_zoom=0.5, **given))
    assert {"transpose", "turn270"} & set(symmetry_names(run.config().symmetries))
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("default", 12), ("paper", 15), ("scratch", 31)])
def test_a_texture_that_may_be_turned_trains(name: str, count: int, tmp_path: Path) -> None:
    detector = load_detector(turned(name, carpet(tmp_path / "data", count), tmp_path / "runs"))
    assert torch.isfinite(detector(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).score).all()


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_turned_pictures_may_be_shifted_whatever_their_layout_in_memory(symmetry: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    turned = np.stack([TRANSFORMS[symmetry](image) for image in images])
    shifted = shifted_and_zoomed(turned, 0.06, np.random.default_rng(1))
    np.testing.assert_array_equal(
        shifted, shifted_and_zoomed(np.ascontiguousarray(turned), 0.06, np.random.default_rng(1))
    )
    assert vary(images, (symmetry,), np.random.default_rng(2)).flags.c_contiguous
