"""A run knows its images wherever a command is started from, says which ones it judged, and never takes others for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_run import done, error, flags, tiny

from vtad.commands.evaluate import evaluate as evaluate_command
from vtad.commands.train import train as train_command
from vtad.config import ConfigError, preset
from vtad.run_folder import Run, newest_run
from vtad.training import train


@pytest.fixture
def at_home(pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data/pill, in which commands are started."""
    home = tmp_path / "home"
    shutil.copytree(pills, home / "data")
    monkeypatch.chdir(home)
    return home


def test_a_run_is_evaluated_from_anywhere(at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done(train_command, "--category", "pill", "--data", "data", *flags(epochs=1))
    monkeypatch.chdir(tmp_path)
    shown = done(evaluate_command, "--run", at_home / "runs/pill/0001")
    assert f"images: {at_home / 'data/pill'}\n" in shown
    assert str(at_home) not in (at_home / "runs/pill/0001/card.json").read_text()  # what is shipped does not say where


def test_other_images_under_the_same_name_are_never_judged_without_a_word(
    at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tiny(data="data", out=str(tmp_path / "runs"), epochs=1))
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**config, "data": "data"}))  # as an earlier vtad wrote it
    away = tmp_path / "away"
    shutil.copytree(at_home / "data", away / "data")
    next((away / "data/pill/train/good").iterdir()).unlink()
    monkeypatch.chdir(away)
    assert "got others; name the folder that holds them by --data" in error(2, evaluate_command, "--run", run.path)
    assert "not those that the run was trained on" in done(evaluate_command, "--run", run.path, "--data", "data")
    monkeypatch.chdir(tmp_path)
    assert "if they were moved, name the folder that holds them by --data" in error(
        2, evaluate_command, "--run", run.path
    )


@pytest.mark.slow
def test_a_training_continues_with_images_that_were_moved(at_home: Path, tmp_path: Path) -> None:
    stops = iter([False, True])
    with pytest.raises(Exception, match="stopped"):
        train(tiny(data="data", out=str(tmp_path / "runs"), epochs=2), stop=lambda: next(stops))
    (at_home / "data").rename(tmp_path / "elsewhere")
    run = newest_run(tmp_path / "runs", "pill", complete=False)
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "others")
    next((tmp_path / "others/pill/train/good").iterdir()).unlink()
    before = run.config()
    assert "are not those" in error(2, train_command, "--resume", "--run", run.path, "--data", tmp_path / "others")
    assert run.config() == before  # other images leave no trace
    done(train_command, "--resume", "--run", run.path, "--data", tmp_path / "elsewhere")
    assert Run(run.path).complete
    assert Run(run.path).config().data == str(tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_category_is_taken_by_its_name_and_not_as_a_pattern(pills: Path, tmp_path: Path) -> None:
    for name in ("lot1", "lot[12]"):
        shutil.copytree(pills / "pill", tmp_path / "data" / name)
        train(tiny(category=name, data=str(tmp_path / "data"), out=str(tmp_path / "runs"), epochs=1))
    assert newest_run(tmp_path / "runs", "lot[12]").path == tmp_path / "runs/lot[12]/0001"
    assert newest_run(tmp_path / "runs", "lot1").path == tmp_path / "runs/lot1/0001"
    with pytest.raises(Exception, match=r"no complete run of category lot\*"):
        newest_run(tmp_path / "runs", "lot*")


def test_the_folder_of_the_category_itself_is_answered_by_the_one_to_give(at_home: Path) -> None:
    line = error(2, train_command, "--category", "pill", "--data", at_home / "data/pill", *flags())
    assert f"give --data {at_home / 'data'}" in line


def test_one_side_of_the_input_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected both or neither, got one"):
        preset("default", "pill", image_height=64)


def test_pictures_of_one_colour_are_said_to_be_so(pills: Path, tmp_path: Path) -> None:
    from PIL import Image

    shutil.copytree(pills, tmp_path / "data")
    for file in (tmp_path / "data/pill/train/good").iterdir():
        Image.new("RGB", (64, 64)).save(file)
    line = error(2, train_command, "--category", "pill", "--data", tmp_path / "data", *flags())
    assert "of one colour each: look at them" in line
