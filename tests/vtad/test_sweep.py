"""vtad-sweep on tiny trainings: from pictures to best.toml and a training with it, without a look at a test picture."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial
from tiny_run import TINY, done, error, invoke, tiny

from vtad.commands.sweep import sweep as vtad_sweep
from vtad.commands.train import train as vtad_train
from vtad.data.layout import find_category
from vtad.fitting import schedule
from vtad.fitting.loop import Interrupted
from vtad.models.trained import load_detector
from vtad.preset_file import preset_text
from vtad.run_folder import Run
from vtad.search import sweep as search
from vtad.search.judge import Judge
from vtad.search.space import read_space
from vtad.search.trial import NoFigure, Trainer

pytestmark = pytest.mark.slow

SPACE = "learning_rate = { low = 1e-4, high = 1e-2, log = true }\nregisters = { low = 0, high = 4, step = 2 }\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "space.toml"
    file.write_text(SPACE)
    return file


def test_from_pictures_to_a_training_with_the_best_options(
    pills: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(preset_text("scratch", TINY))
    arguments = ("--category", "pill", "--data", pills, "--preset", "tiny.toml", "--space", space)
    short = ("--minutes-per-trial", "0.003")
    said = done(vtad_sweep, *arguments, *short, "--trials", 2).splitlines()
    assert re.fullmatch(r"trial 0: 0\.\d{4}", said[0])
    assert re.fullmatch(r"trial 1: 0\.\d{4}", said[1])
    assert said[2] == "2 of 2 trials have ended"
    best = re.fullmatch(
        r"best: trial (\d), quality 0\.\d{4}; the values that the search starts from: 0\.\d{4}", said[3]
    )
    assert best is not None
    folder = Path("sweeps/pill")
    assert sorted(path.name for path in folder.iterdir()) == ["0000", "0001", "best.toml", "sweep.db", "sweep.html"]
    assert all(Run(folder / name).complete for name in ("0000", "0001"))
    page = (folder / "sweep.html").read_text()
    assert "No test picture was read" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert page.count("<img") >= 5

    monkeypatch.setattr(search, "write_page", lambda *_: None)
    again = done(vtad_sweep, *arguments, *short, "--trials", 2).splitlines()
    assert again == said[2:]
    line = error(2, vtad_sweep, *arguments, "--minutes-per-trial", "0.1", "--trials", 2)
    assert "study pill: its trials have minutes 0.003, got 0.1: name another by --study" in line
    space.write_text(SPACE.replace("high = 4", "high = 2"))
    line = error(2, vtad_sweep, *arguments, *short)
    assert "study pill: its space is another one, which differs in registers" in line

    chosen = Run(folder / f"000{best[1]}").config()
    said_of_training = done(
        vtad_train, "--category", "pill", "--data", pills, "--preset", folder / "best.toml", "--epochs", 1
    )
    assert "runs/pill/0001: threshold" in said_of_training
    trained = Run(Path("runs/pill/0001")).config()
    assert (trained.learning_rate, trained.registers) == (chosen.learning_rate, chosen.registers)
    assert (trained.embed_dim, trained.epochs) == (TINY["embed_dim"], 1)
    assert trained.preset_file == "sweeps/pill/best.toml"
    assert said[-1].endswith("vtad-train --category pill --preset sweeps/pill/best.toml")


def test_a_search_without_one_complete_trial_ends_with_1(
    pills: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(preset_text("scratch", {**TINY, "optimizer": "sgd", "warmup": 0}))
    space.write_text("learning_rate = { low = 1e29, high = 1e30 }\n")
    arguments = ("--category", "pill", "--data", pills, "--preset", "tiny.toml", "--space", space, "--trials", 1)
    result = invoke(vtad_sweep, *arguments, "--minutes-per-trial", "0.02")
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith("trial 0: no figure: sweeps/pill/0000: the loss is not a number at step")
    assert second == "1 of 1 trials have ended, 1 of them early"
    assert result.stderr.startswith("Error: no trial is complete")
    assert sorted(path.name for path in Path("sweeps/pill").iterdir()) == ["0000", "sweep.db"]


def test_no_test_picture_is_read(pills: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "write_page", lambda *_: None)
    figures = []
    for name in ("as it is", "poisoned"):
        data = tmp_path / name
        shutil.copytree(pills, data)
        if name == "poisoned":
            shutil.rmtree(data / "pill" / "test")
            shutil.rmtree(data / "pill" / "ground_truth")
            for below in ("test/good", "test/crack", "ground_truth/crack"):
                (data / "pill" / below).mkdir(parents=True)
                (data / "pill" / below / "000.png").write_bytes(b"no picture")
                shutil.copyfile(data / "pill/train/good/000.png", data / "pill" / below / "001.png")
        found = search.sweep(tiny(data=str(data), out=str(tmp_path / name / "out")), space=space, trials=1)
        assert found.best is not None
        figures.append(found.best.value)
    assert figures[0] == figures[1]


def test_the_judge_asks_every_detector_the_same_and_no_trial_sees_its_pictures(pills: Path, trained: Run) -> None:
    files = find_category(pills, "pill")
    judge = Judge(files, tiny(image_height=64, image_width=64))
    assert judge.trial_files.test == ()
    assert len(set(files.train_good) - set(judge.trial_files.train_good)) == 3
    detector = load_detector(trained)  # of another input size
    quality = judge.quality(detector)
    assert 0.5 < quality <= 1.0
    other = Judge(files, tiny(image_height=64, image_width=64, seed=7, val_split=0.5, shift_and_zoom=0.5))
    assert other.quality(detector) == quality
    assert other.trial_files == judge.trial_files
    # What stands in for it during a training does not need the weights of a calibration, and sets none.
    weights = detector.model.score_fusion.weight.clone()  # type: ignore[union-attr, operator]
    assert 0 < judge.quality_so_far(load_detector(trained, prune=False)) <= 1.0
    assert (detector.model.score_fusion.weight == weights).all()  # type: ignore[union-attr]


@pytest.fixture
def trainer(pills: Path, space: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """trainer(**changes) of the tiny configuration."""

    def make(**changes: Any) -> Trainer:
        config = tiny(data=str(pills), **changes)
        files = find_category(pills, "pill")
        return Trainer(config, read_space(space, config), Judge(files, config), tmp_path / "trials")

    return make


def test_a_trial_below_the_others_is_pruned_and_leaves_its_curve(
    trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "VALIDATION_STEPS", 1)
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=5)
    )
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned, match="at 67%"):
        trainer(epochs=3).run(trial, lambda _: None, lambda: False)
    reported = study.trials[0].intermediate_values
    assert list(reported) == [3, 6]
    assert all(0 < value <= 1 for value in reported.values())
    folder = tmp_path / "trials" / "0000"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "metrics.jsonl"]


def test_what_pruning_goes_by_does_not_depend_on_the_weights_of_the_loss(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "VALIDATION_STEPS", 1)
    figures, losses = [], []
    for nll_weight in (0.1, 10.0):  # at a learning rate of almost nothing both have the same weights
        study = optuna.create_study(direction="maximize")
        one = trainer(epochs=2, nll_weight=nll_weight, learning_rate=1e-30)
        space = {"learning_rate": 1e-30, "registers": 2}
        monkeypatch.setattr(type(one.space), "draw", lambda self, trial, space=space: space)
        folder = one.folder / f"{nll_weight:g}"
        one = Trainer(one.config, one.space, one.judge, folder)
        one.run(study.ask(), lambda _: None, lambda: False)
        figures.append(study.trials[0].intermediate_values)
        rows = [json.loads(line) for line in (folder / "0000" / "metrics.jsonl").read_text().splitlines()]
        losses.append(rows[0]["val_loss"])
    assert figures[0] == pytest.approx(figures[1])
    assert losses[1] > 2 * losses[0]


def test_a_trial_that_diverges_has_no_figure_and_says_why(trainer: Callable[..., Trainer], space: Path) -> None:
    space.write_text("learning_rate = { low = 1e29, high = 1e30 }\n")
    trial = FixedTrial({"learning_rate": 1e30}, 3)
    with pytest.raises(NoFigure, match="the loss is not a number at step"):
        trainer(optimizer="sgd", warmup=0).run(trial, lambda _: None, lambda: False)  # type: ignore[arg-type]


def test_a_stopped_trial_leaves_nothing(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    options = {"learning_rate": 1e-3, "registers": 2}
    with pytest.raises(Interrupted):
        trainer().run(FixedTrial(options, 3), lambda _: None, lambda: True)  # type: ignore[arg-type]
    assert list((tmp_path / "trials").iterdir()) == []
