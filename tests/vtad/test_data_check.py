"""What `check_category` finds, and what it lets pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_run import tiny

from vtad.data.check import CheckReport, check_category
from vtad.data.images import split_good
from vtad.data.layout import DataError, find_category
from vtad.training import train
from vtad_runtime.contract.image import read_mask
from vtad_runtime.sources.folder import find

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
    assert str(report.unreadable[0]).startswith(f"{where}: expected")


def test_masks_that_do_not_fit_their_picture_are_found(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture
) -> None:
    data = make_category(defective=5)
    truth = data / "part" / "ground_truth" / "dent"
    write_image(truth / "000_mask.png", np.full((16, 20), 255, np.uint8))
    write_image(truth / "001_mask.png", np.zeros((32, 40), np.uint8))
    (truth / "002_mask.png").rename(truth / "999_mask.png")
    report = check(data)
    assert [*map(str, report.wrong_size_masks)] == ["ground_truth/dent/000_mask.png: 20x16, picture 40x32"]
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
    assert "fewer than 6 good pictures" in report.to_text()


def test_the_text_names_five_files_and_counts_the_rest(make_category: MakeCategory) -> None:
    data = make_category(train=12)
    for file in sorted((data / "part" / "train" / "good").iterdir())[:8]:
        file.write_bytes(b"")
    text = check(data).to_text()
    assert "unreadable files: 8" in text
    assert "004.png" in text
    assert "005.png" not in text
    assert "and 3 more" in text


def test_masks_that_cover_most_of_their_picture_are_said(make_category: MakeCategory, write_image: WriteImage) -> None:
    data = make_category()
    mask = np.full((32, 40), 255, np.uint8)
    mask[8:14, 10:20] = 0
    write_image(data / "part/ground_truth/dent/000_mask.png", mask)
    report = check(data)
    assert [*map(str, report.inverted_masks)] == ["ground_truth/dent/000_mask.png: 95%"]
    assert "is white the defect?" in report.to_text()
    assert not report.ok


def test_masks_beside_their_pictures_are_no_pictures(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture
) -> None:
    data = make_category(defective=0)
    mask = np.zeros((32, 40), np.uint8)
    mask[3:9, 4:12] = 1
    write_image(data / "part/test/crack/exp1.jpg", picture(91))
    write_image(data / "part/test/crack/exp1.png", mask)
    write_image(data / "part/test/crack/exp2.png", picture(92))
    write_image(data / "part/test/crack/gt/exp2.png", mask)
    report = check(data)
    assert (report.test, report.masks, report.ok) == ({"crack": 2, "good": 2}, 2, True)
    found = {t.path.name: t.mask for t in find_category(data, "part").test if t.kind == "crack"}
    assert {name: m.name if m else None for name, m in found.items()} == {
        "exp1.jpg": "exp1.png",
        "exp2.png": "exp2.png",
    }


@pytest.mark.parametrize("name", ["Good", "ok", "OK"])
def test_a_folder_of_good_pictures_may_be_called_as_people_call_it(make_category: MakeCategory, name: str) -> None:
    data = make_category()
    for split in ("train", "test"):
        (data / "part" / split / "good").rename(data / "part" / split / name)
    report = check(data)
    assert (report.train_good, report.test, report.ok) == (6, {"good": 2, "dent": 2}, True)


def test_files_that_are_not_read_are_counted(make_category: MakeCategory) -> None:
    data = make_category()
    for name in ("a.HEIC", "b.heic", "c.gif", ".DS_Store", "Thumbs.db"):
        (data / "part/train/good" / name).write_bytes(b"x")
    report = check(data)
    assert report.left_out == {".gif": 1, ".heic": 2}
    assert report.ok
    assert "left out, for vtad does not read them: 1 .gif, 2 .heic" in report.to_text()


@pytest.mark.parametrize(
    ("top", "said"),
    [
        (4095, "the highest value is 4095; taken as 12 bits, so 4095 is white"),
        (
            4096,
            "taken as 16 bits, so 65535 is white; they come out dark: for a camera of 14 bits, vtad-train --bits 14",
        ),
        (1000, "taken as 12 bits, so 4095 is white; they come out dark: for a camera of 10 bits, vtad-train --bits 10"),
        (40000, "the highest value is 40000; taken as 16 bits, so 65535 is white\n"),
    ],
)
def test_the_bits_of_16_are_a_rule_over_the_good_pictures(make_category: MakeCategory, top: int, said: str) -> None:
    data = make_category(train=8)
    for number in range(6):
        levels = np.random.default_rng(number).integers(0, top // 2, (32, 40)).astype(np.uint16)
        levels[0, 0] = top if number == 5 else 0
        Image.fromarray(levels).save(data / f"part/train/good/00{number}.png")
    Image.fromarray(np.full((32, 40), 50000, np.uint16)).save(data / "part/test/good/000.png")
    report = check(data)
    assert said in report.to_text()
    assert report.ok
    assert ("test pictures with values above that, which vtad-run calls UNSURE: 1" in report.to_text()) is (top <= 4095)


def test_pictures_that_nothing_looks_at_are_counted(make_category: MakeCategory, write_image: WriteImage) -> None:
    data = make_category()
    root, rgb = data / "part", np.full((32, 40, 3), 7, np.uint8)
    rgb[0, 0] = 9
    for name in ("test/1.png", "train/bad/1.png", "train/bad/2.png", "Test/dent/1.png"):
        write_image(root / name, rgb)
    (root / "train/good/dead.png").symlink_to("nothing")
    (root / "more").mkdir()
    write_image(root / "more/9.png", np.flip(rgb, 0))
    (root / "train/good/linked").symlink_to(root / "more")
    report = check(data)
    assert report.elsewhere == {"Test/dent": 1, "test": 1, "train/bad": 2}
    assert report.left_out == {"(link to nothing)": 1}
    assert report.ok
    assert "1 in Test/dent, 1 in test, 2 in train/bad" in report.to_text()


def test_the_check_and_training_agree_on_pictures_of_one_colour(make_category: MakeCategory) -> None:
    data = make_category()
    for number, file in enumerate(sorted((data / "part/train/good").iterdir())):
        Image.new("RGB", (40, 32), (number, 0, 0)).save(file)
    report = check(data)
    assert len(report.blank) == 6
    assert not report.ok
    with pytest.raises(DataError, match="got 3 of one colour each"):
        train(tiny(category="part", data=str(data), out=str(data / "runs")))


def test_files_of_several_pages_are_said_to_give_their_first(make_category: MakeCategory, picture: Picture) -> None:
    data = make_category()
    pages = [Image.fromarray(picture(number)) for number in (90, 91)]
    for name in ("a.tif", "b.png", "c.webp"):
        pages[0].rotate(len(name)).save(data / "part/train/good" / name, save_all=True, append_images=pages[1:])
    report = check(data)
    assert report.several_pages == 3
    assert "files of several pages or frames, of which the first is used: 3" in report.to_text()


def test_pictures_of_8_bits_say_nothing_of_bits(make_category: MakeCategory) -> None:
    assert "bits" not in check(make_category()).to_text()


def test_a_mask_saved_as_jpeg_loses_its_grey_fringe(tmp_path: Path) -> None:
    for top in (255, 1):
        mask = np.zeros((64, 64), np.uint8)
        mask[20:40, 10:50] = top
        Image.fromarray(mask).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask > 0)
    Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(tmp_path / "mask.jpg", quality=75)
    assert (read_mask(tmp_path / "mask.jpg") != (mask > 0)).sum() <= 8
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "empty.jpg", quality=75)
    assert not read_mask(tmp_path / "empty.jpg").any()


def test_the_check_and_the_split_agree_on_how_few_are_too_few(make_category: MakeCategory) -> None:
    for count in range(1, 14):
        data = make_category(f"part{count}", train=count)
        files = find_category(data, f"part{count}")
        try:
            train, held_out = split_good(files.train_good)
            assert min(len(train), len(held_out)) >= 3
            enough = True
        except DataError:
            enough = False
        assert check_category(files).ok is enough is (count >= 6)


def test_linked_subfolders_are_seen_by_training_the_check_and_vtad_run_alike(make_category: MakeCategory) -> None:
    data = make_category()
    good = data / "part/train/good"
    elsewhere = data / "elsewhere"
    elsewhere.mkdir()
    (good / "000.png").rename(elsewhere / "000.png")
    (good / "B").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(good)
    assert len(find_category(data, "part").train_good) == len(find(good).files) == check(data).train_good == 6


def test_a_picture_of_another_size_than_nearly_all_is_said_and_no_problem(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture
) -> None:
    data = make_category(train=12)
    write_image(data / "part" / "train" / "good" / "cut.png", picture(70)[:10, :20])
    report = check(data)
    assert [*map(str, report.odd_sizes)] == ["train/good/cut.png: 20x10, others 40x32"]
    assert report.ok
    for number in range(6):
        write_image(data / "part" / "train" / "good" / f"{number}-cut.png", picture(80 + number)[:10, : 12 + number])
    assert check(data).odd_sizes == ()  # sizes vary here


@pytest.mark.parametrize(("level", "said"), [(0.25, True), (1.9, True), (0.97, False)])
def test_a_good_picture_much_darker_or_brighter_than_the_others_is_said(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture, level: float, said: bool
) -> None:
    data = make_category(train=12)
    bright = np.clip(picture(70) * level, 0, 255).astype(np.uint8)
    write_image(data / "part" / "train" / "good" / "odd.png", bright)
    report = check(data)
    assert [found.files for found in report.odd_exposures] == [("train/good/odd.png",)] * said
    assert ("much darker or brighter" in report.to_text()) is said
    assert report.ok


def test_a_name_with_the_end_of_a_line_breaks_no_line(make_category: MakeCategory) -> None:
    data = make_category()
    good = data / "part" / "train" / "good"
    shutil.copyfile(good / "000.png", good / "a\nb.png")
    assert "    train/good/000.png = train/good/a?b.png" in check(data).to_text().splitlines()
