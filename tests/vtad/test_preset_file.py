"""A preset in a file: what it changes, and its errors, which name the line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_run import TINY, done, error

from vtad.commands.train import train as vtad_train
from vtad.config import Config, preset
from vtad.preset_file import named_preset, preset_of, preset_text


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("mine.toml")


def test_a_file_changes_values_of_the_preset_that_it_names(file: Path) -> None:
    file.write_text('preset = "scratch"\nlearning_rate = 1e-3\nnll_weight = 2\n')
    expected = preset("scratch", "pill", learning_rate=1e-3, nll_weight=2.0, preset_file="mine.toml", seed=3)
    assert preset_of(str(file), "pill", seed=3) == expected
    file.write_text("noise = 0.3")
    assert preset_of(str(file), "pill").preset == "default"


def test_what_is_written_is_what_is_read(file: Path) -> None:
    values: dict[str, float | str | bool] = {
        "learning_rate": 3.1e-5,
        "embed_dim": 288,
        "optimizer": "adam",
        "synthetic_defects": False,
    }
    file.write_text(preset_text("scratch", values))
    assert named_preset(str(file)) == ("scratch", {**values, "preset_file": "mine.toml"})
    odd = 'C:\\weights\\"a" \x07.pth'
    file.write_text(preset_text("default", {"backbone_file": odd}))
    assert preset_of(str(file), "pill").backbone_file == odd


def test_minutes_or_epochs_of_the_command_line_replace_those_of_the_file(file: Path) -> None:
    file.write_text("epochs = 5")
    assert (preset_of(str(file), "pill").epochs, preset_of(str(file), "pill", minutes=2.0).epochs) == (5, None)
    file.write_text("minutes = 5")
    found = preset_of(str(file), "pill", epochs=2)
    assert (found.epochs, found.minutes) == (2, Config("pill").minutes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("noise = 0.1\nnoize = 0.1", "line 2: noize: expected an option of a training"),
        ("# mine\n\nlearning_rate = '1e-3'", "line 3: learning_rate: expected float, got '1e-3'"),
        ("depth = 2.5", "line 1: depth: expected int, got 2.5"),
        ("noise = 0.1\n[depth]\nlow = 1", "line 2: depth: expected int, got {'low': 1}"),
        ("noise = 0.1\nembed_dim = 100", "line 2: embed_dim 100 is not a multiple of heads 6"),
        ("image_height = 256", "line 1: image_height and image_width: expected both or neither"),
        ("epochs = 1\nminutes = 1", "line 1: expected either minutes or epochs"),
        ("preset = 'best'", "line 1: preset: expected default, scratch, paper, got 'best'"),
        ("seed = 1\ncategory = 'pill'", "line 2: category: expected an option of a training"),
        ("noise = 0.1\nseed = = 1", "line 2: expected TOML, got text that does not parse (Invalid value)"),
        ("noise = [1,\n", "line 1: expected TOML"),
        ("noise = 1\nnoise = 2", "line 2: expected TOML"),
        ("# \xe9\nnoise = 0.1".encode("latin-1"), "line 1: expected text in UTF-8"),
        (None, "expected a file in TOML, got No such file"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_line(
    pills: Path, file: Path, text: str | bytes | None, says: str
) -> None:
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = error(2, vtad_train, "--category", "pill", "--data", pills, "--preset", file)
    assert line.startswith("Error: mine.toml")
    assert says in line
    assert not Path("runs").exists()


def test_a_preset_that_is_neither_a_name_nor_a_file_names_those_there_are(pills: Path) -> None:
    line = error(2, vtad_train, "--category", "pill", "--data", pills, "--preset", "fast")
    assert line == "Error: --preset: expected default, scratch, paper, or a file that ends in .toml, got 'fast'"


@pytest.mark.slow
def test_a_run_remembers_the_file_and_its_values(pills: Path, file: Path) -> None:
    values = {**TINY, "epochs": 1}
    file.write_text(preset_text("scratch", values))
    done(vtad_train, "--category", "pill", "--data", pills, "--preset", file, "--seed", "2")
    run = Path("runs/pill/0001")
    recorded = json.loads((run / "config.json").read_text())
    expected = dataclasses.asdict(preset("scratch", "pill", **values, seed=2, data=str(pills)))
    assert recorded == {
        **expected,
        "bits": recorded["bits"],
        "shift": recorded["shift"],
        "preset_file": "mine.toml",
    }
    assert json.loads((run / "card.json").read_text())["identity"]["config"]["preset_file"] == "mine.toml"
