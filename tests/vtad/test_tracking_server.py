"""A run in MLflow, from the training to the registered model: in an SQLite file, and on a real server that may be away or die."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import GUIDE, blocks
from fake_camera import eventually
from tiny_run import done, flags, invoke, tiny

import vtad.training
import vtad.version
from vtad.commands.evaluate import evaluate
from vtad.commands.train import train
from vtad.fitting.loop import Interrupted
from vtad.run_folder import Run
from vtad.tracking.address import store_address
from vtad_export.commands.export import export

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vtad[track]'")
pytestmark = pytest.mark.service

PROMPT = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1"}  # seconds; mlflow's default is ten


@dataclass
class Server:
    """`mlflow server` on loopback."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "served")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **quiet}, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        eventually(self._healthy, 120)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None

    def _healthy(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        time.sleep(0.2)  # the server needs the processor
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that a test starts; its store is the file mlflow.db in a folder that all tests here share."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = Server(tmp_path_factory.mktemp("mlflow"), free.getsockname()[1])
    yield found
    found.kill()


@pytest.fixture(autouse=True)
def _here(server: Server, pills: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(server.folder)
    if not Path("data").exists():
        Path("data").symlink_to(pills)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in PROMPT.items():
        monkeypatch.setenv(name, value)


def client(address: str) -> Any:
    return mlflow.MlflowClient(address, address)


def runs_of(address: str, experiment: str) -> list[Any]:
    store = client(address)
    found = store.get_experiment_by_name(experiment)
    return list(store.search_runs([found.experiment_id])) if found else []


def losses(address: str, run: Any) -> dict[int, list[float]]:
    """By epoch; one value each where nothing was sent twice."""
    found: dict[int, list[float]] = {}
    for metric in client(address).get_metric_history(run.info.run_id, "loss"):
        found.setdefault(metric.step, []).append(metric.value)
    return found


def files_of(address: str, run: Any, folder: str | None = None) -> set[str]:
    entries = client(address).list_artifacts(run.info.run_id, folder)
    return {e.path for e in entries if not e.is_dir}.union(
        *(files_of(address, run, e.path) for e in entries if e.is_dir)
    )


def rows(run: Run) -> dict[int, list[float]]:
    return {row["epoch"]: [row["loss"]] for row in map(json.loads, run.metrics.read_text().splitlines())}


def test_a_training_in_a_file_goes_on_in_the_same_mlflow_run(pills: Path, server: Server) -> None:
    from vtad.tracking.following import tracked
    from vtad.tracking.parents import add_to_parent, new_parent

    address, reports = store_address(), list[Any]()
    assert address == f"sqlite:///{server.folder}/mlflow.db"
    config = tiny(data=str(pills), out="runs", epochs=4)
    parent = new_parent(address, "file", "a search")
    with pytest.raises(Interrupted), tracked(address, "file", parent=parent) as started:
        vtad.training.train(
            config, started=started, report=reports.append, stop=lambda: bool(reports[-1].text == "epoch 3")
        )
    stopped, _ = runs_of(address, "file")  # the newest first
    assert stopped.data.tags["mlflow.parentRunId"] == parent
    assert stopped.info.status == "KILLED"
    said = done(train, "--resume")
    add_to_parent(address, parent, metrics={"best": 1.5}, parameters={"trials": 1}, status="FINISHED")
    run, search = runs_of(address, "file")
    assert (search.info.status, search.data.metrics, search.data.params) == ("FINISHED", {"best": 1.5}, {"trials": "1"})
    assert run.info.run_id == stopped.info.run_id
    assert f"tracked: {address}, run {run.info.run_id}" in said
    folder = Run(Path("runs/pill/0001"))
    assert losses(address, run) == rows(folder)
    assert run.info.status == "FINISHED"
    assert run.data.params["embed_dim"] == "16"
    assert run.data.tags["vtad.data_fingerprint"] == folder.card().identity.data_fingerprint
    assert run.data.metrics["calibration/threshold"] == folder.card().calibration.threshold
    assert {"config.json", "card.json", "calibration.json", "metrics.jsonl"} <= files_of(address, run)
    assert (server.folder / "mlartifacts/file").is_dir()


def test_a_server_that_was_away_gets_everything_from_the_evaluation_and_the_export_and_the_model_is_registered(
    pills: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vtad_runtime import Detector

    said = done(train, "--category", "pill", "--data", pills, "--track", server.url, *flags())
    assert "tracked: http" not in said
    assert len(messages) == 1
    assert server.url in messages[0]
    server.start()
    in_the_file = f"{server.url}/get-artifact?path=card.json&run_uuid={runs_of(server.url, 'file')[0].info.run_id}"
    with urllib.request.urlopen(in_the_file, timeout=60) as answer:  # what was tracked in the file, a server shows
        assert answer.read() == Path("runs/pill/0001/card.json").read_bytes()
    assert "tracked: http" in done(evaluate, "--run", "runs/pill/0002")
    said = done(export, "--run", "runs/pill/0002", "--register")
    assert "registered: pill version 1, load it by models:/pill@champion" in said
    folder = Run(Path("runs/pill/0002"))
    (run,) = runs_of(server.url, "pill")
    assert run.info.status == "FINISHED"
    assert losses(server.url, run) == rows(folder)
    metrics = json.loads((folder.path / "metrics.json").read_text())
    assert run.data.metrics["test/scores.image.auroc"] == metrics["scores"]["image"]["auroc"]
    assert run.data.metrics["onnx-fp32/flips"] == 0
    sent = {path.name for path in folder.path.iterdir() if path.suffix in (".json", ".jsonl", ".html")}
    certificates = {"export/parity.json", "certificates/pill.onnx.txt", "certificates/pill.onnx.card.json"}
    assert files_of(server.url, run) == sent - {"tracking.json"} | certificates

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    model = mlflow.pyfunc.load_model("models:/pill@champion")
    detector = Detector(folder.path / "export/pill.onnx")
    names = [str(path) for path in sorted((pills / "pill/test").glob("*/*.png"))]
    by_name = model.predict(names)
    assert [one.verdict for one in by_name] == [detector(name).verdict for name in names]
    assert [one.score for one in by_name] == pytest.approx([detector(name).score for name in names], abs=1e-4)
    rgb = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert model.predict(rgb)[0].score == pytest.approx(detector(rgb).score, abs=1e-4)
    assert model.metadata.signature.outputs is not None
    assert model.predict(model.input_example)[0].verdict in ("OK", "UNSURE", "NG")
    (shown,) = blocks(GUIDE, "py")
    exec(compile(shown, "docs/guide.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
    needed = Path(mlflow.pyfunc.get_model_dependencies("models:/pill@champion")).read_text()
    assert "onnxruntime" in needed
    assert "torch" not in needed


def test_a_server_that_dies_in_the_middle_costs_one_warning(
    pills: Path, server: Server, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    real, seen = vtad.training.train, list[Any]()

    def dies(*args: Any, report: Callable[[Any], None], **rest: Any) -> Run:
        def reporting(one: Any) -> None:
            report(one)
            if one.text == "epoch 4" and not seen:
                seen.append(eventually(with_system_metrics))
                server.kill()

        return real(*args, report=reporting, **rest)

    def with_system_metrics() -> Any:
        time.sleep(0.2)
        return next(
            (r for r in runs_of(server.url, "live") if "system/cpu_utilization_percentage" in r.data.metrics), None
        )

    monkeypatch.setattr(vtad.training, "train", dies)
    result = invoke(
        train, "--category", "pill", "--data", pills, "--track", server.url, "--experiment", "live", *flags(epochs=6)
    )
    assert result.exit_code == 0
    assert [one for one in messages if "metrics.jsonl has everything" in one] == messages
    assert len(messages) == 1
    (run,) = seen
    assert run.info.status == "RUNNING"
    assert run.data.tags["vtad.version"] == vtad.version.VERSION
    assert set(rows(Run(Path("runs/pill/0003")))) == {1, 2, 3, 4, 5, 6}
