"""A study in MLflow: one run for the study, and a run below it for each trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from vtad.run_folder import Run
from vtad.tracking.address import TrackingError
from vtad.tracking.following import tracked
from vtad.tracking.parents import add_to_parent, new_parent
from vtad.tracking.record import Tracked
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.log import warning

PARENT = "mlflow_run"  # user attribute of the study: the id of its run in MLflow
QUALITY = "quality"


@dataclass(frozen=True)
class Tracker:
    """Where a study and its trials go; nowhere without an address. A store that is away is a warning and stops no search."""

    address: str | None = None
    experiment: str = ""
    parent: str | None = None  # id of the study's run

    @staticmethod
    def of(track: tuple[str, str | None] | None, study: optuna.Study, category: str) -> Tracker:
        """Of an address and an experiment, the category unless named."""
        if track is None:
            return Tracker()
        address, experiment = track[0], track[1] or category
        if PARENT not in study.user_attrs:
            with _warned(address):
                study.set_user_attr(PARENT, new_parent(address, experiment, f"sweep {study.study_name}"))
        return Tracker(
            address, experiment, study.user_attrs.get(PARENT)
        )  # the one that was kept, of two that came together

    @contextmanager
    def trial(self, number: int) -> Iterator[Callable[[Run], None]]:
        """Inside the block the run folder of a trial is followed."""
        if self.address is None:
            yield lambda run: None
            return
        with tracked(self.address, self.experiment, parent=self.parent, tags={"vtad.trial": str(number)}) as started:
            yield started

    def judged(self, run: Run, trial: FrozenTrial) -> None:
        """The figure of a trial goes to its run in MLflow."""
        kept = Tracked.read(run) if self.address is not None else None
        if kept is not None and kept.run_id is not None and self.address is not None and trial.value is not None:
            with _warned(self.address):
                add_to_parent(self.address, kept.run_id, metrics={QUALITY: trial.value})

    def ended(self, best: FrozenTrial, files: Sequence[Path]) -> None:
        """What the study found goes to its own run, which ends."""
        if self.address is not None and self.parent is not None and best.value is not None:
            figures = {QUALITY: best.value, "best_trial": float(best.number)}
            with _warned(self.address):
                add_to_parent(self.address, self.parent, metrics=figures, files=files, status="FINISHED")


@contextmanager
def _warned(address: str) -> Iterator[None]:
    try:
        yield
    except TrackingError as e:
        shown = without_credentials(address)
        warning("tracking", f"tracking: {e}; the search goes on, and its storage has everything", address=shown)
