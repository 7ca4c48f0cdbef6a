"""What `check_category` finds, and what it lets pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vtad.data.check import CheckReport, check_category
from vtad.data.layout import find_category

MakeCategory = Callable[..., Path]
WriteImage = Callable[..., Path]
Picture = Callable[[int], NDArray[np.uint8]]


def check(data: Path) -> CheckReport:
    return check_category(find_category(data, "part"))


def test_a_sound_category_is_ok_in_every_format(make_category: MakeCategory) -> None:
    report = check(make_category(train=9, formats=True))
    assert report.ok, report.to_text()
    assert (report.train_good, report.test, report.masks) == (9, {"dent": 2, "good": 2}, 2)
    assert report.sizes is not None
    assert report.sizes.smallest == report.sizes.largest == report.sizes.most_common == (40, 32)
    assert report.to_text().splitlines()[-1].strip() == "ok"


def test_sizes_are_smallest_largest_and_most_common(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture
) -> None:
    data = make_category()
    good = data / "part" / "train" / "good"
    write_image(good / "small.png", picture(70)[:10, :20])
    write_image(good / "large.png", np.tile(picture(71), (2, 3, 1)))
    sizes = check(data).sizes
    assert sizes is not None
    assert (sizes.smallest, sizes.largest, sizes.most_common, sizes.distinct) == ((20, 10), (120, 64), (40, 32), 3)


@pytest.mark.parametrize("where", ["train/good/002.png", "test/dent/000.png", "ground_truth/dent/001_mask.png"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file_is_named_with_the_reason(make_category: MakeCategory, where: str, damage: str) -> None:
    data = make_category()
    file = data / "part" / where
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not a picture"}[damage])
    report = check(data)
    assert not report.ok
    assert len(report.unreadable) == 1
    assert report.unreadable[0].startswith(f"{where}: expected")


def test_masks_that_do_not_fit_their_picture_are_found(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture
) -> None:
    data = make_category(defective=5)
    truth = data / "part" / "ground_truth" / "dent"
    write_image(truth / "000_mask.png", np.full((16, 20), 255, np.uint8))
    write_image(truth / "001_mask.png", np.zeros((32, 40), np.uint8))
    (truth / "002_mask.png").rename(truth / "999_mask.png")
    report = check(data)
    assert report.wrong_size_masks == ("ground_truth/dent/000_mask.png: 20x16, picture 40x32",)
    assert report.empty_masks == ("ground_truth/dent/001_mask.png",)
    assert report.missing_masks == ("test/dent/002.png",)
    assert report.stray_masks == ("ground_truth/dent/999_mask.png",)
    assert not report.ok


def test_defect_types_without_any_mask_are_allowed(make_category: MakeCategory) -> None:
    data = make_category()
    shutil.rmtree(data / "part" / "ground_truth")
    report = check(data)
    assert report.ok
    assert report.unmasked_kinds == ("dent",)
    assert "no masks for dent" in report.to_text()


def test_the_same_pixels_twice_are_found_whatever_the_file_format(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture
) -> None:
    data = make_category()
    write_image(data / "part" / "train" / "good" / "copy.bmp", picture(4))
    write_image(data / "part" / "test" / "good" / "leak.tif", picture(1))
    report = check(data)
    assert report.repeated == (("train/good/004.png", "train/good/copy.bmp"),)
    assert report.leaked == (("train/good/001.png", "test/good/leak.tif"),)
    assert not report.ok


def test_too_few_pictures_to_train_from_is_a_problem(make_category: MakeCategory) -> None:
    report = check(make_category(train=3))
    assert not report.ok
    assert "fewer than 4 good pictures" in report.to_text()


def test_the_text_names_five_files_and_counts_the_rest(make_category: MakeCategory) -> None:
    data = make_category(train=12)
    for file in sorted((data / "part" / "train" / "good").iterdir())[:8]:
        file.write_bytes(b"")
    text = check(data).to_text()
    assert "unreadable files: 8" in text
    assert "004.png" in text
    assert "005.png" not in text
    assert "and 3 more" in text
