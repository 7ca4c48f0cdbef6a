"""The contact sheet of a check: what was found odd, drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_run import done, error, invoke, small_disk

from vtad.commands.data import data as command
from vtad.data import contact_sheet

MakeCategory = Callable[..., Path]
WriteImage = Callable[..., Path]
RED, GREEN = (250, 10, 10), (10, 250, 10)


def of(sheet: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(sheet).convert("RGB"))


def seen(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    """How many pixels of a sheet have about this colour."""
    return int((np.abs(pixels.astype(int) - colour).max(2) < 8).sum())


@pytest.fixture
def odd(make_category: MakeCategory, write_image: WriteImage) -> Path:
    """Twelve good pictures; beside them a red one twice, a green one of another size, and a file that is no picture."""
    data = make_category(train=12)
    good = data / "part" / "train" / "good"
    for name, colour, size in (("a", RED, (32, 40)), ("b", RED, (32, 40)), ("c", GREEN, (64, 80))):
        picture = np.full((*size, 3), colour, np.uint8)
        picture[0, 0] = 0  # not of one colour
        write_image(good / f"{name}.png", picture)
    (good / "torn.png").write_bytes(b"torn")
    return data


def test_what_is_odd_is_drawn_and_what_is_not_is_left_out(odd: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = invoke(command, "check", "--category", "part", "--data", odd, "--contact-sheet", sheet)
    assert result.exit_code == 1
    assert f"{sheet}: " in result.stdout
    pixels = of(sheet)
    assert seen(pixels, RED) >= 2 * (32 * 40 - 1)  # both of the pair
    assert seen(pixels, GREEN) >= 64 * 80 - 1
    assert pixels.shape[1] == 1280


def test_a_mask_is_shown_beside_its_picture(
    make_category: MakeCategory, write_image: WriteImage, tmp_path: Path
) -> None:
    data = make_category(train=12)
    picture = np.full((32, 40, 3), RED, np.uint8)
    write_image(data / "part" / "test" / "dent" / "000.png", picture)
    write_image(data / "part" / "ground_truth" / "dent" / "000_mask.png", np.zeros((32, 40), np.uint8))
    sheet = tmp_path / "sheet.png"
    invoke(command, "check", "--category", "part", "--data", data, "--contact-sheet", sheet)
    pixels = of(sheet)
    assert seen(pixels, RED) > 0.8 * 32 * 40
    assert seen(pixels, (0, 0, 0)) > 0.8 * 32 * 40


def test_many_findings_are_cut_and_counted(make_category: MakeCategory, tmp_path: Path) -> None:
    data = make_category(train=60)
    for file in sorted((data / "part" / "train" / "good").iterdir())[:40]:
        file.write_bytes(b"")
    sheet = tmp_path / "sheet.png"
    result = invoke(command, "check", "--category", "part", "--data", data, "--contact-sheet", sheet)
    assert f"{sheet}: 24 findings to look at" in result.stdout


def test_where_nothing_is_odd_there_is_no_sheet(make_category: MakeCategory, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    said = done(command, "check", "--category", "part", "--data", make_category(), "--contact-sheet", sheet)
    assert f"nothing odd to show: {sheet} is not written" in said
    assert not sheet.exists()


def test_a_sheet_that_cannot_be_written_is_one_line_and_leaves_nothing(odd: Path, tmp_path: Path) -> None:
    arguments = ("check", "--category", "part", "--data", odd, "--contact-sheet")
    assert "expected a file name that ends in .png or .jpg" in error(2, command, *arguments, tmp_path / "sheet.pdf")
    (tmp_path / "file").write_text("")
    assert "could not be written" in error(2, command, *arguments, tmp_path / "file" / "sheet.png")
    with small_disk(100):
        assert "could not be written" in error(4, command, *arguments, tmp_path / "new" / "sheet.png")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_jpeg_that_would_be_too_tall_is_refused_with_what_to_do(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "TALLEST_JPEG", 100)
    for name, code in (("sheet.png", 1), ("sheet.jpg", 2)):
        result = invoke(command, "check", "--category", "part", "--data", odd, "--contact-sheet", tmp_path / name)
        assert result.exit_code == code
    assert "expected findings that fit into a JPEG of 100 rows" in result.stderr
    assert "name a .png" in result.stderr
    assert not (tmp_path / "sheet.jpg").exists()
