"""A study in MLflow: one run for the study, and a run below it for each trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from vtad.fitting.loop import Interrupted
from vtad.run_folder import Run
from vtad.tracking.address import TrackingError, without_login
from vtad.tracking.following import tracked
from vtad.tracking.mirror import FAILED, KILLED
from vtad.tracking.parents import add_to_parent, new_parent
from vtad.tracking.record import Tracked
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.log import warning

PARENTS = "mlflow_runs"  # user attribute of the study: the id of its run in MLflow, by the address of the store
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
        kept = without_login(address)
        if kept not in (known := study.user_attrs.get(PARENTS, {})):
            with _warned(address):
                parent = new_parent(address, experiment, f"sweep {study.study_name}")
                study.set_user_attr(PARENTS, {**known, kept: parent})
        # Of two that came together, the one that was kept.
        return Tracker(address, experiment, study.user_attrs.get(PARENTS, {}).get(kept))

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

    @contextmanager
    def study(self) -> Iterator[None]:
        """Where the block is left by a signal or an error, the study's own run ends as killed or failed."""
        try:
            yield
        except BaseException as e:
            killed = isinstance(e, Interrupted) or not isinstance(e, Exception)
            self.ended(None, (), KILLED if killed else FAILED)
            raise

    def ended(self, best: FrozenTrial | None, files: Sequence[Path], status: str) -> None:
        """What the study found goes to its own run, which ends."""
        if self.address is not None and self.parent is not None:
            found = (
                {} if best is None or best.value is None else {QUALITY: best.value, "best_trial": float(best.number)}
            )
            with _warned(self.address):
                add_to_parent(self.address, self.parent, metrics=found, files=files, status=status)


@contextmanager
def _warned(address: str) -> Iterator[None]:
    try:
        yield
    except TrackingError as e:
        shown = without_credentials(address)
        warning("tracking", f"tracking: {e}; the search goes on, and its storage has everything", address=shown)
