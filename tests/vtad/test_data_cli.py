"""vtad-data as a user meets it: output, errors, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_run import small_disk

from vtad.commands.data import data as command
from vtad.data.layout import MVTEC_CATEGORIES

MakeCategory = Callable[..., Path]
FEW = ["--size", "64", "--train", "6", "--good", "1", "--defects", "1"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_demo_images_pass_the_check(tmp_path: Path) -> None:
    made = run("demo", "--category", "pill", "--data", str(tmp_path), *FEW)
    assert made.exit_code == 0, made.output
    assert "6 good to train, 1 good to test" in made.output
    checked = run("check", "--category", "pill", "--data", str(tmp_path))
    assert checked.exit_code == 0, checked.output
    assert checked.output.splitlines()[-1].strip() == "ok"


def test_the_data_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTAD_DATA", str(tmp_path / "here"))
    assert run("demo", "--category", "pill", *FEW).exit_code == 0
    assert (tmp_path / "here" / "pill" / "train" / "good" / "000.png").is_file()


def test_the_data_folder_is_data_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VTAD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert run("demo", "--category", "pill", *FEW).exit_code == 0
    assert (tmp_path / "data" / "pill").is_dir()


def test_check_exits_1_when_something_is_wrong(make_category: MakeCategory) -> None:
    data = make_category("part")
    (data / "part" / "train" / "good" / "000.png").write_bytes(b"")
    result = run("check", "--category", "part", "--data", str(data))
    assert result.exit_code == 1
    assert "problem: unreadable files: 1" in result.output
    assert "000.png" in result.output


def test_check_all_checks_each_category_and_one_bad_one_is_enough(make_category: MakeCategory) -> None:
    data = make_category("bolt")
    make_category("nut")
    assert run("check", "--category", "all", "--data", str(data)).exit_code == 0
    (data / "bolt" / "train" / "good" / "000.png").write_bytes(b"")
    result = run("check", "--category", "all", "--data", str(data))
    assert result.exit_code == 1
    assert "bolt\n" in result.output
    assert "nut\n" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "--category", "pill"), "vtad-data demo --category pill"),
        (("check", "--category", "all"), "expected folders in the MVTec AD layout"),
        (("check", "--category", "../part"), "expected the name of a folder"),
        (("demo", "--category", "a/b"), "expected the name of a folder"),
        (("demo", "--category", "used"), "expected an absent or empty folder"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    result = run(*arguments, "--data", str(tmp_path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_in_place_of_the_data_folder_is_such_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    for sub in ("demo", "check"):
        result = run(sub, "--category", "pill", "--data", str(tmp_path / "data"))
        assert (result.exit_code, result.stderr.count("\n"), result.stderr[:7]) == (2, 1, "Error: ")


def test_a_reader_that_goes_away_is_141_and_no_folder_that_cannot_be_read(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    data = make_category("part")
    monkeypatch.setattr("vtad.commands.data.say", gone)
    result = run("check", "--category", "part", "--data", str(data))
    assert (result.exit_code, result.stderr) == (141, "")


def test_a_full_disk_is_exit_code_4_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(1000):
        result = run("demo", "--category", "pill", "--data", str(tmp_path), *FEW)
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_default_and_the_mvtec_names() -> None:
    for sub in ("demo", "check"):
        text = " ".join(run(sub, "--help").output.split())
        assert "$VTAD_DATA, or ./data" in text
        assert all(name in text for name in MVTEC_CATEGORIES)
    assert "default: 220" in run("demo", "--help").output
