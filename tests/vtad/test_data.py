"""Finding files, splitting good pictures, their fingerprint, and the cache."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_run import small_disk

from vtad.data.images import ImageCache, evenly, fingerprint, split_good
from vtad.data.layout import MVTEC_CATEGORIES, DataError, find_categories, find_category
from vtad_runtime.contract.card import Input
from vtad_runtime.contract.fit import fit_image
from vtad_runtime.contract.image import ImageError, read_rgb

MakeCategory = Callable[..., Path]
WriteImage = Callable[..., Path]
Picture = Callable[[int], NDArray[np.uint8]]
SPEC = Input("image", width=24, height=16, colour="rgb", resize="area-linear", fit="stretch", roi=None)


def test_a_category_lists_train_pictures_and_test_pictures_with_kind_and_mask(make_category: MakeCategory) -> None:
    files = find_category(make_category(), "part")
    assert files.name == "part"
    assert [p.name for p in files.train_good] == [f"{i:03d}.png" for i in range(6)]
    assert [(t.path.name, t.kind, t.mask.name if t.mask else None) for t in files.test] == [
        ("000.png", "dent", "000_mask.png"),
        ("001.png", "dent", "001_mask.png"),
        ("000.png", "good", None),
        ("001.png", "good", None),
    ]


def test_a_mask_may_have_the_name_of_its_picture_and_may_be_absent(make_category: MakeCategory) -> None:
    data = make_category()
    truth = data / "part" / "ground_truth" / "dent"
    (truth / "000_mask.png").rename(truth / "000.png")
    (truth / "001_mask.png").unlink()
    dents = [t for t in find_category(data, "part").test if t.kind == "dent"]
    assert [t.mask and t.mask.name for t in dents] == ["000.png", None]


def test_a_mask_may_lie_beside_its_picture(make_category: MakeCategory) -> None:
    data = make_category()
    part = data / "part"
    for mask in (part / "ground_truth" / "dent").iterdir():
        mask.rename(part / "test" / "dent" / mask.name)
    lone = part / "test" / "dent" / "gas_mask.png"  # no picture called gas
    shutil.copy(part / "test" / "good" / "000.png", lone)
    dents = [t for t in find_category(data, "part").test if t.kind == "dent"]
    assert [(t.path.name, t.mask and t.mask.name) for t in dents] == [
        ("000.png", "000_mask.png"),
        ("001.png", "001_mask.png"),
        ("gas_mask.png", None),
    ]


def test_no_test_folder_is_needed(make_category: MakeCategory) -> None:
    data = make_category()
    shutil.rmtree(data / "part" / "test")
    assert find_category(data, "part").test == ()


def test_good_pictures_may_lie_in_subfolders_and_other_files_are_left_alone(
    make_category: MakeCategory, write_image: WriteImage, picture: Picture
) -> None:
    data = make_category()
    good = data / "part" / "train" / "good"
    write_image(good / "monday" / "a.png", picture(50))
    write_image(good / ".cache" / "thumb.png", picture(51))
    (good / "notes.txt").write_text("no picture")
    (good / "._000.png").write_bytes(b"\0")
    names = [p.relative_to(good).as_posix() for p in find_category(data, "part").train_good]
    assert names == [*(f"{i:03d}.png" for i in range(6)), "monday/a.png"]


def test_a_folder_that_cannot_be_listed_is_named_and_not_left_out(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_category("part")
    scandir, shut = os.scandir, data / "part" / "train" / "good" / "lot_2"
    shut.mkdir()

    def refuse(path: str) -> object:
        if Path(path) == shut:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="lot_2: expected a readable folder, got Permission denied"):
        find_category(data, "part")


def test_a_missing_category_names_those_found_and_how_to_make_one(make_category: MakeCategory) -> None:
    make_category("screw")
    data = make_category("bottle")
    with pytest.raises(DataError) as error:
        find_category(data, "pill")
    text = str(error.value)
    assert "bottle, screw" in text
    assert "vtad-data demo --category pill" in text
    assert "\n" not in text


def test_missing_or_empty_train_good_is_one_clear_error(make_category: MakeCategory) -> None:
    data = make_category()
    good = data / "part" / "train" / "good"
    for file in good.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="train/good: expected pictures of good parts"):
        find_category(data, "part")
    good.rmdir()
    with pytest.raises(DataError, match="train/good: expected a folder of good pictures"):
        find_category(data, "part")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/"])
def test_a_category_is_a_folder_name_not_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="category: expected the name of a folder"):
        find_category(tmp_path, name)


def test_categories_are_the_folders_with_train_good(make_category: MakeCategory) -> None:
    data = make_category("wood")
    make_category("cable")
    (data / "scratchpad").mkdir()
    assert find_categories(data) == ("cable", "wood")
    assert find_categories(data / "nowhere") == ()
    assert len(MVTEC_CATEGORIES) == 15


def test_the_split_does_not_depend_on_order_or_place(make_category: MakeCategory, tmp_path: Path) -> None:
    data = make_category(train=40)
    here = list(find_category(data, "part").train_good)
    moved = Path(shutil.copytree(data, tmp_path / "else" / "where"))
    there = list(find_category(moved, "part").train_good)
    train, val = split_good(here, 0.25, seed=3)
    assert (len(train), len(val)) == (30, 10)
    assert sorted(train + val) == sorted(here)
    random.Random(0).shuffle(there)
    train_there, val_there = split_good(there, 0.25, seed=3)
    assert [p.name for p in train] == [p.name for p in train_there]
    assert [p.name for p in val] == [p.name for p in val_there]
    assert split_good(here, 0.25, seed=4)[1] != val


def test_adding_a_picture_moves_at_most_one_other(make_category: MakeCategory) -> None:
    files = find_category(make_category(train=41), "part").train_good
    before, after = set(split_good(files[:40], 0.25)[1]), set(split_good(files, 0.25)[1])
    assert len(before - after) <= 1


@pytest.mark.parametrize("val_split", [0.001, 0.5, 0.999])
def test_both_sides_of_the_split_get_a_picture(tmp_path: Path, val_split: float) -> None:
    train, val = split_good([tmp_path / f"{i}.png" for i in range(6)], val_split)
    assert len(train) == len(val) == 3


def test_too_few_pictures_and_impossible_shares_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 6 good pictures, got 5"):
        split_good([tmp_path / f"{i}.png" for i in range(5)])
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(DataError, match="val_split"):
            split_good([tmp_path / f"{i}.png" for i in range(9)], share)


def test_of_many_pictures_those_that_decide_are_spread_over_all_days_and_of_few_all_are_taken() -> None:
    assert evenly(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert evenly(0, 8).tolist() == []
    many = evenly(200, 8).tolist()
    assert many == sorted(set(many))
    assert np.diff([*many, 200]).tolist() == [25] * 8


def test_a_pipe_among_the_pictures_is_an_error_and_no_wait_without_end(make_category: MakeCategory) -> None:
    pipe = make_category() / "part" / "train" / "good" / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"pipe\.png: expected a readable file, got no plain file"):
        fingerprint([pipe])
    with pytest.raises(ImageError, match=r"pipe\.png: expected a picture file, got no plain file"):
        read_rgb(pipe)


def test_the_fingerprint_follows_the_content_only(make_category: MakeCategory, tmp_path: Path) -> None:
    data = make_category()
    files = find_category(data, "part").train_good
    moved = find_category(Path(shutil.copytree(data, tmp_path / "moved")), "part").train_good
    assert fingerprint(files) == fingerprint(moved[::-1])
    assert len(fingerprint(files)) == 64
    moved[2].write_bytes(moved[2].read_bytes() + b"\0")
    assert fingerprint(files) != fingerprint(moved)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: expected a readable file"):
        fingerprint([tmp_path / "gone.png"])


def test_the_cache_holds_what_the_pixel_path_gives(make_category: MakeCategory) -> None:
    files = find_category(make_category(train=9, formats=True), "part").train_good
    with ImageCache(files, SPEC) as images:
        assert images.shape == (9, 16, 24, 3)
        for i, file in enumerate(files):
            np.testing.assert_array_equal(images[i], fit_image(read_rgb(file), SPEC)[0])
        np.testing.assert_array_equal(images[[2, 0]], np.stack([images[2], images[0]]))
        assert len(list(images)) == len(files)


def test_changing_a_picture_does_not_change_the_cache(make_category: MakeCategory) -> None:
    with ImageCache(find_category(make_category(), "part").train_good, SPEC) as images:
        before = images[0]
        images[0][:] = 0
        np.testing.assert_array_equal(images[0], before)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="looks at open files as Linux shows them")
def test_beyond_its_memory_the_cache_is_a_file_that_no_end_of_the_process_can_leave_behind(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    files = find_category(make_category(), "part").train_good
    spill = tmp_path / "spill"
    spill.mkdir()
    with ImageCache(files, SPEC) as kept, ImageCache(files, SPEC, memory=1000, temporary=spill) as images:
        assert str(spill) in Path("/proc/self/maps").read_text()
        assert list(spill.iterdir()) == []
        np.testing.assert_array_equal(images[:], kept[:])
    images.close()
    assert len(images) == 0
    assert str(spill) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_an_unreadable_picture_is_named_and_nothing_is_left(
    make_category: MakeCategory, tmp_path: Path, memory: int
) -> None:
    files = find_category(make_category(), "part").train_good
    files[3].write_bytes(files[3].read_bytes()[:200])
    spill = tmp_path / "spill"
    spill.mkdir()
    with pytest.raises(DataError, match=r"003\.png") as error:
        ImageCache(files, SPEC, memory=memory, temporary=spill)
    assert "\n" not in str(error.value)
    assert str(error.value).count("003.png") == 1
    assert list(spill.iterdir()) == []


def test_no_room_for_the_file_is_one_clear_error(make_category: MakeCategory, tmp_path: Path) -> None:
    files = find_category(make_category(), "part").train_good
    with pytest.raises(DataError, match="expected room for"):
        ImageCache(files, SPEC, memory=0, temporary=tmp_path / "missing")
    with small_disk(1000), pytest.raises(DataError, match=r"expected room for .*, got File too large") as full:
        ImageCache(files, SPEC, memory=0, temporary=tmp_path)
    assert full.value.exit_code == 4
