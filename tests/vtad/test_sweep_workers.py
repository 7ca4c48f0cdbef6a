"""vtad-sweep in processes of its own: killed, stopped, three workers on a real PostgreSQL, and in MLflow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from documents import ROOT
from optuna.trial import TrialState
from postgres import postgres
from tiny_run import TINY, done

from vtad.commands.sweep import sweep as vtad_sweep
from vtad.preset_file import named_preset, preset_text
from vtad.run_folder import Run
from vtad.search.attempts import SLOT, WHY
from vtad.search.worker import WORKER

pytestmark = pytest.mark.service

TRIALS = 6
BEGIN = (
    "from vtad.search import storage; storage.HEARTBEAT_S, storage.GRACE_S = 1, 8; "
    "from vtad.commands.programs import sweep; sweep()"
)
SOURCES = os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "runtime")))


def eventually(happened: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)


def test_of_three_workers_one_is_killed_and_its_trial_is_tried_again_and_counted_once(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(preset_text("scratch", TINY))
    Path("space.toml").write_text("learning_rate = { low = 1e-4, high = 1e-2, log = true }\n")
    with postgres("s3cret") as address:
        options = ["--category", "pill", "--data", str(pills), "--preset", "tiny.toml", "--space", "space.toml"]
        options += ["--minutes-per-trial", "0.05", "--trials", str(TRIALS), "--storage", address]
        environment = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", BEGIN, *options]
        workers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(3)
        ]
        victim = workers[0]

        def in_the_middle_of_a_trial() -> bool:
            names = optuna.get_all_study_names(address)
            trials = optuna.load_study(study_name="pill", storage=address).trials if names else []
            return any(
                trial.state is TrialState.RUNNING
                and trial.user_attrs.get(WORKER, "").endswith(f":{victim.pid}")
                and trial.params
                and Path(f"sweeps/pill/{trial.number:04d}/config.json").exists()
                for trial in trials
            )

        eventually(in_the_middle_of_a_trial, 120)
        victim.send_signal(signal.SIGKILL)
        said = [worker.communicate(timeout=240)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0], said
        study = optuna.load_study(study_name="pill", storage=address)
        trials = [trial for trial in study.trials if WHY not in trial.user_attrs]
        (killed,) = [trial for trial in trials if trial.state is TrialState.FAIL]
        (again,) = [trial for trial in trials if SLOT in trial.user_attrs]
        assert killed.user_attrs[WORKER].endswith(f":{victim.pid}")
        assert again.user_attrs[SLOT] == killed.number
        assert again.params == killed.params
        ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        assert len(ended) == TRIALS == len(trials) - 1
        assert len({trial.user_attrs[WORKER] for trial in ended}) >= 2
        folder = Path("sweeps/pill")
        for trial in ended:
            run = Run(folder / f"{trial.number:04d}")
            assert run.complete == (trial.state is TrialState.COMPLETE)
            assert run.config().learning_rate == trial.params["learning_rate"]
        assert not Run(folder / f"{killed.number:04d}").complete
        assert named_preset(str(folder / "best.toml"))[1]["learning_rate"] == study.best_params["learning_rate"]
        assert "s3cret" not in "".join(said) + (folder / "sweep.html").read_text() + (folder / "best.toml").read_text()

        after = done(vtad_sweep, *options)
        assert f"{TRIALS} of {TRIALS} trials have ended" in after
        assert len(optuna.load_study(study_name="pill", storage=address).trials) == len(study.trials)


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(preset_text("scratch", TINY))
    options = ["--category", "pill", "--data", str(pills), "--preset", "tiny.toml", "--trials", "1"]
    options += ["--minutes-per-trial", "0.05"]
    environment = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BEGIN, *options]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(Path("sweeps/pill/0000/config.json").exists, 120)
    worker.send_signal(signal.SIGINT)
    said, complained = worker.communicate(timeout=60)
    assert (worker.returncode, said) == (130, "")
    assert complained == "Error: stopped; the same command goes on\n"
    assert not list(Path("sweeps/pill").glob("00*"))
    lines = done(vtad_sweep, *options).splitlines()
    assert lines[0] == "trial 0 was stopped: it is tried again"
    assert lines[1].startswith("trial 1: 0.")
    assert lines[2] == "1 of 1 trials have ended"


def test_a_study_is_a_run_in_mlflow_with_its_trials_below_it(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(preset_text("scratch", TINY))
    Path("space.toml").write_text("learning_rate = { low = 1e-4, high = 1e-2, log = true }\n")
    options = ["--category", "pill", "--data", str(pills), "--preset", "tiny.toml", "--space", "space.toml"]
    options += ["--minutes-per-trial", "0.005"]
    done(vtad_sweep, *options, "--track", "sqlite:///mlflow.db", "--trials", "1")
    done(vtad_sweep, *options, "--track", "sqlite:///mlflow.db", "--trials", "2")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("pill")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.data.tags["vtad.trial"] for run in trials} == {"0", "1"}
    qualities = {run.data.tags["vtad.trial"]: run.data.metrics["quality"] for run in trials}
    assert parent.data.metrics["quality"] == max(qualities.values())
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"best.toml", "sweep.html"}
    # A store that is away stops nothing.
    done(vtad_sweep, *options, "--track", "http://127.0.0.1:9", "--trials", "3")
