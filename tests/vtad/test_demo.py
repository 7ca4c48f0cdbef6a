"""Demo images: what is written, that it is reproducible, and that its masks are exact."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vtad.data.demo import DEFECTS, DemoError, draw, write_demo
from vtad.data.layout import find_category
from vtad_runtime.contract.image import read_mask, read_rgb

SMALL = {"size": 96, "train": 4, "good": 2, "per_defect": 2}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_demo_category_has_the_mvtec_layout_with_a_mask_for_every_defect(tmp_path: Path) -> None:
    counts = write_demo(tmp_path / "pill", **SMALL)
    files = find_category(tmp_path, "pill")
    assert counts.total == 4 + 2 + 2 * len(DEFECTS)
    assert (len(files.train_good), len(files.test)) == (4, 12)
    assert {t.kind for t in files.test} == {"good", "crack", "contamination", "chip", "wrong_colour", "scratch"}
    for image in files.test:
        assert read_rgb(image.path).shape == (96, 96, 3)
        if image.kind != "good":
            assert image.mask is not None
            assert read_mask(image.mask).any()


def test_the_default_picture_is_512_pixels_square() -> None:
    assert draw((0, 1)).rgb.shape == (512, 512, 3)


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    write_demo(tmp_path / "a", 5, workers=1, **SMALL)
    write_demo(tmp_path / "b", 5, workers=3, **SMALL)
    write_demo(tmp_path / "c", 6, workers=3, **SMALL)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    a, c = tree(tmp_path / "a"), tree(tmp_path / "c")
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a if name.startswith(("train", "test")))


def test_no_two_pictures_are_the_same(tmp_path: Path) -> None:
    write_demo(tmp_path / "pill", **SMALL)
    pictures = [content for name, content in tree(tmp_path / "pill").items() if not name.startswith("ground_truth")]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_the_mask_is_the_pixels_that_the_defect_changed(defect: str) -> None:
    for i, strength in enumerate((0.0, 0.3, 0.6, 1.0)):
        good, bad = draw((i, 7), 256), draw((i, 7), 256, defect, strength)
        change = np.abs(good.rgb.astype(int) - bad.rgb).max(axis=2)
        assert bad.mask.any(), strength
        assert not change[~bad.mask].any(), strength
        assert (change[bad.mask] > 1).mean() > 0.85, strength
        assert not good.mask.any()


def test_some_defects_hide_from_a_plain_difference_to_the_mean_and_some_do_not() -> None:
    goods = np.stack([draw((9, i), 192).rgb for i in range(24)]).astype(np.float32)
    mean = goods[:16].mean(axis=0)
    odd_good = np.abs(goods[16:] - mean).mean(axis=3)
    ratio = []
    for i, defect in enumerate(list(DEFECTS) * 4):
        bad = draw((10, i), 192, defect, math.sqrt((i + 0.5) / 20))
        odd_bad = np.abs(bad.rgb - mean).mean(axis=2)
        ratio.append(odd_bad[bad.mask].mean() / odd_good[:, bad.mask].mean(axis=1).max())
    assert sum(r < 1 for r in ratio) >= 4, np.round(ratio, 2)
    assert sum(r > 1.2 for r in ratio) >= 2, np.round(ratio, 2)


def test_defects_reach_from_tiny_to_large() -> None:
    for defect in DEFECTS:
        faint = np.mean([draw((i, 3), 192, defect, 0.02).mask.mean() for i in range(4)])
        obvious = np.mean([draw((i, 3), 192, defect, 0.98).mask.mean() for i in range(4)])
        assert faint < obvious or defect == "wrong_colour"
    assert draw((1, 3), 192, "contamination", 0.02).mask.mean() < 0.002


def test_a_folder_in_use_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "pill").mkdir()
    (tmp_path / "pill" / "mine.txt").write_text("keep")
    with pytest.raises(DemoError, match=r"pill: expected an absent or empty folder") as error:
        write_demo(tmp_path / "pill", **SMALL)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.rglob("*")] == ["pill", "mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "pill").mkdir()
    write_demo(tmp_path / "pill", **SMALL)
    assert find_category(tmp_path, "pill").train_good


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DemoError, match="No space left on device"):
        write_demo(tmp_path / "pill", **SMALL)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from vtad.data import demo
demo._write_png = lambda path, image: os.kill(os.getpid(), 9)
demo.write_demo(Path(sys.argv[1]), size=96, train=4, good=2, per_defect=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_what_a_killed_one_left_goes_with_the_next(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "pill"], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    write_demo(tmp_path / "pill", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["pill"]
