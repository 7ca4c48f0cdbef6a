"""tracking.json of a run folder: where the run is in MLflow, and what of it is there, so that later commands go on."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from vtad.run_folder import Run, RunError, write_text
from vtad_runtime.contract.errors import one_line
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed


@dataclass(frozen=True)
class Tracked:
    """A run folder's place in a store, and how much of it the store has."""

    address: str  # of the store, without user and password
    experiment: str  # by name
    started_ms: int  # since 1970: when tracking began
    parent: str | None = None  # id of the MLflow run that this one is part of
    tags: dict[str, str] = field(default_factory=dict)  # that the MLflow run is to have
    experiment_id: str | None = None  # this and the next: None until the store has answered
    run_id: str | None = None
    epochs: int = 0  # of metrics.jsonl that the store has
    sent: dict[str, str] = field(default_factory=dict)  # sha256 of each file that it has, by its path in the folder

    def write(self, run: Run) -> None:
        """Into the run's folder. Raises WriteError."""
        write_text(_file(run), json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @staticmethod
    def read(run: Run) -> Tracked | None:
        """Of a run; None of one that is not tracked. Raises RunError."""
        try:
            return typed(Tracked, parsed(_file(run).read_bytes()), "tracking")
        except FileNotFoundError:
            return None
        except (OSError, WrongJson) as e:
            raise RunError(
                f"{_file(run)}: expected where the run is in MLflow, got a file that is damaged ({one_line(e)}); without the "
                "file the run is not tracked"
            ) from e


def _file(run: Run) -> Path:
    return run.path / "tracking.json"
