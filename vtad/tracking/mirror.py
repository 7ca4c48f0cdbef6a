"""A run folder, brought to its MLflow run: parameters, metrics, tags and files. What is there already is not sent again.

Everything is taken from the folder, so that it does not matter when it is sent, nor by which command.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtad.run_folder import Run, sha256
from vtad.tracking.address import TrackingError, page, sqlite_file, without_login
from vtad.tracking.library import client, experiment_in
from vtad.tracking.record import Tracked
from vtad.version import VERSION

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.entities import Run as MlflowRun

FILES = ("config.json", "card.json", "calibration.json", "metrics.jsonl", "metrics.json", "report.html")
ROWS = 50  # of metrics.jsonl in one message; MLflow takes 1000 numbers
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


class Mirror:
    """One run folder and its MLflow run. Each method raises what mlflow raises when the store does not answer."""

    def __init__(self, run: Run, tracked: Tracked, address: str) -> None:
        """`address`: of the store, with its login. Asks nobody."""
        self.run, self.address = run, address
        self._tracked = tracked

    @staticmethod
    def new(
        run: Run,
        address: str,
        experiment: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Mirror:
        """Begin to track a run, or go on with one that is tracked in this store. Asks nobody.

        Raises WriteError, RunError; TrackingError for a run that is in another experiment already.
        """
        kept = Tracked.read(run)
        if kept is None or kept.address != without_login(address):
            kept = Tracked(
                without_login(address), experiment or run.config().category, _now_ms(), parent, dict(tags or {})
            )
            kept.write(run)
        elif experiment not in (None, kept.experiment):
            raise TrackingError(
                f"--experiment {experiment}: {run.path} is tracked in the experiment {kept.experiment!r} already"
            )
        return Mirror(run, kept, address)

    @cached_property
    def client(self) -> MlflowClient:
        """Made when it is first used, for it may ask the store. Raises TrackingError without mlflow."""
        return client(self.address)

    @property
    def page(self) -> str | None:
        """Where a person finds the MLflow run; None before the store has answered."""
        kept = self._tracked
        if kept.run_id is None or kept.experiment_id is None:
            return None
        return page(self.address, kept.experiment_id, kept.run_id)

    def run_id(self) -> str:
        """The id of the MLflow run, which is made if there is none."""
        kept = self._tracked
        if kept.run_id is not None:
            file = sqlite_file(self.address)
            if file is not None and not file.is_file():  # mlflow would make a new one, without the run
                raise TrackingError(f"{file}: expected the MLflow store of this run, got no such file")
            return kept.run_id
        experiment_id = experiment_in(self.client, self.address, kept.experiment)
        made = self.client.create_run(
            experiment_id, kept.started_ms, self._tags(), f"{self.run.path.parent.name}/{self.run.path.name}"
        )
        self._keep(experiment_id=experiment_id, run_id=made.info.run_id)
        return str(made.info.run_id)

    def begin(self) -> str:
        """The MLflow run runs, with the configuration as its parameters; its id."""
        run_id = self.run_id()
        there = self.client.get_run(run_id)
        if there.info.status != RUNNING:
            self.client.update_run(run_id, status=RUNNING)
        self._send_parameters(there)
        return run_id

    def send_epochs(self) -> None:
        """The rows of metrics.jsonl that the store does not have.

        After a training that was killed, rows are written anew: the store keeps the first. Their time is the training's
        own, so that a row that is sent twice is one point.
        """
        rows = [row for row in self.run.epochs() if row["epoch"] > self._tracked.epochs]
        for i in range(0, len(rows), ROWS):
            part = rows[i : i + ROWS]
            metrics = [
                metric
                for row in part
                for metric in _metrics(row, self._tracked.started_ms + int(1000 * row["seconds"]), row["epoch"])
            ]
            self.client.log_batch(self.run_id(), metrics=metrics)
            self._keep(epochs=part[-1]["epoch"])

    def send_files(self) -> None:
        """Card, report and the other files of the folder, where the store has none or another one; and what they say."""
        paths = [self.run.path / name for name in FILES] + sorted((self.run.path / "export").glob("*.json"))
        for path in paths:
            if not path.is_file():
                continue
            name, digest = path.relative_to(self.run.path), sha256(path)
            if self._tracked.sent.get(name.as_posix()) == digest:
                continue
            self._say(path)
            folder = name.parent.as_posix()
            self.client.log_artifact(self.run_id(), str(path), None if folder == "." else folder)
            self._keep(sent=self._tracked.sent | {name.as_posix(): digest})

    def send_numbers(self, values: Mapping[str, float], prefix: str) -> None:
        """Metrics that belong to no epoch, as prefix/name, but for those that are there."""
        run_id = self.run_id()
        there = self.client.get_run(run_id).data.metrics
        named = {f"{prefix}/{name}": value for name, value in values.items()}
        new = {name: value for name, value in named.items() if there.get(name) != value}
        self.client.log_batch(run_id, metrics=list(_metrics(new, _now_ms(), 0)))

    def end(self, status: str) -> None:
        """The MLflow run has ended."""
        self.client.set_terminated(self.run_id(), status)

    def send(self) -> None:
        """Everything, of a training that ended. A run that was never ended, for the store was away then, is ended."""
        run_id = self.run_id()
        there = self.client.get_run(run_id)
        self._send_parameters(there)
        self.send_epochs()
        self.send_files()
        if there.info.status == RUNNING and self.run.complete:
            self.end(FINISHED)

    def _send_parameters(self, there: MlflowRun) -> None:
        """Those that it does not have: MLflow lets none be changed."""
        from mlflow.entities import Param

        values = dataclasses.asdict(self.run.config())
        if missing := sorted(values.keys() - there.data.params.keys()):
            self.client.log_batch(there.info.run_id, params=[Param(name, str(values[name])) for name in missing])

    def _tags(self) -> dict[str, str]:
        from vtad.version import git

        uname = platform.uname()
        tags = {
            "mlflow.source.name": "vtad-train",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": git("rev-parse", "HEAD"),
            "mlflow.parentRunId": self._tracked.parent,
            "vtad.version": VERSION,
            "vtad.machine": f"{uname.node}, {uname.system} {uname.machine}",
            "vtad.category": self.run.config().category,
        }
        return {key: value for key, value in tags.items() if value} | self._tracked.tags

    def _say(self, path: Path) -> None:
        """What a file says in numbers and tags, on the run itself."""
        if path.name == "card.json":
            card = self.run.card()
            self.client.set_tag(self.run_id(), "vtad.data_fingerprint", card.identity.data_fingerprint)
            chosen = card.calibration
            self.send_numbers(
                {"threshold": chosen.threshold, "pixel_threshold": chosen.pixel_threshold, "images": chosen.images},
                "calibration",
            )
        elif path.name == "metrics.json":
            self.send_numbers(dict(_numbers(json.loads(path.read_text(encoding="utf-8")))), "test")

    def _keep(self, **changes: Any) -> None:
        self._tracked = dataclasses.replace(self._tracked, **changes)
        self._tracked.write(self.run)


def _metrics(values: Mapping[str, Any], time_ms: int, step: int) -> Iterator[Metric]:
    from mlflow.entities import Metric

    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield Metric(name, float(value), time_ms, step)


def _numbers(values: dict[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """scores.image.auroc and so on: every number of nested values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{within}{_allowed(name)}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{within}{_allowed(name)}", value


def _allowed(name: str) -> str:
    """MLflow takes letters, digits and some signs in a name; a defect type may hold others."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
