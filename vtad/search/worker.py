"""A worker: it takes trials of a study until as many have ended as were wanted, by itself and by all other workers."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from vtad.fitting.loop import Interrupted, Report, Reporter
from vtad.search.attempts import ERROR, SLOT, STOPPED, SURPLUS, WHY, may_begin, slot, standing
from vtad.search.storage import beating, fail_stale_trials, next_trial
from vtad.search.study import START
from vtad.search.trial import NoFigure
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.progress import Bar

WORKER = "worker"  # user attribute of a trial: machine and process; it is there from the trial's first moment on
REASON = "reason"  # user attribute of a trial without a figure
LOOK_S = 2.0  # between two looks at what other workers do

Say = Callable[[str], None]


class Trains(Protocol):
    """What `vtad.search.trial.Trainer` is to a worker."""

    def run(self, trial: optuna.Trial, report: Reporter, stop: Callable[[], bool]) -> float:
        """The figure of a trial."""
        ...


@dataclass
class Worker:
    """Of one study."""

    study: optuna.Study
    storage: RDBStorage
    trainer: Trains
    trials: int  # that are wanted, by all workers together
    say: Say
    stop: Callable[[], bool]
    ended: Callable[[FrozenTrial], None] = lambda trial: (
        None
    )  # called with each trial that this worker brought to an end
    _unclaimed: dict[int, float] = field(
        default_factory=dict
    )  # when trials of which no worker is known were first seen

    def work(self) -> None:
        """Until every trial has ended or `stop` says so. Raises what a training raises whatever its options, and the storage."""
        waited = False
        while not self.stop():
            fail_stale_trials(self.study)
            now = standing(self.study.get_trials(deepcopy=False), self.trials)
            for attempt in now.again:
                self._again(attempt)
            if now.again or now.waiting or now.missing:
                self._attempt(next_trial(self.study))
            elif now.running:
                if not waited:
                    others = len(now.running)
                    self.say(f"waiting for {others} trial{'s' if others > 1 else ''} of other workers")
                    waited = True
                self._give_up_unclaimed(now.running)
                self._wait()
            else:
                return

    def _again(self, last: FrozenTrial) -> None:
        """Another attempt waits for a worker, with the options of the last one as far as that one had drawn them."""
        options = {**last.system_attrs.get("fixed_params", {}), **last.params}
        kept = {START: True} if START in last.user_attrs else {}
        self.study.enqueue_trial(options, user_attrs={SLOT: slot(last), **kept})
        why = "was stopped" if last.user_attrs.get(WHY) == STOPPED else "did not end"
        self.say(f"trial {last.number} {why}: it is tried again")

    def _attempt(self, trial: optuna.Trial) -> None:
        with beating(self.storage, trial):
            try:
                trial.set_user_attr(WORKER, f"{platform.node()}:{os.getpid()}")
                if may_begin(trial.number, self.study.get_trials(deepcopy=False), self.trials):
                    self._tell(trial, *self._outcome(trial))
                else:
                    self._fail(trial, SURPLUS)
            except UpdateFinishedTrialError:
                self._say_lost(trial)
            except BaseException as e:
                with suppress(OptunaError, SQLAlchemyError):
                    self._fail(trial, _why(e))
                raise

    def _outcome(self, trial: optuna.Trial) -> tuple[TrialState, float | None, str]:
        """How it ended, its figure, and both for people."""
        try:
            value = self._run(trial)
        except optuna.TrialPruned as e:
            return TrialState.PRUNED, None, f"pruned {e}"
        except NoFigure as e:
            trial.set_user_attr(REASON, str(e))
            return TrialState.PRUNED, None, f"no figure: {e}"
        return TrialState.COMPLETE, value, f"{value:.4f}"

    def _run(self, trial: optuna.Trial) -> float:
        with Bar(f"trial {trial.number}", 1.0) as bar:

            def report(report: Report) -> None:
                bar.to(report.fraction, report.text if report.lasting else bar.text)

            return self.trainer.run(trial, report, self.stop)

    def _tell(self, trial: optuna.Trial, state: TrialState, value: float | None, text: str) -> None:
        found = self.study.tell(trial, value, None if value is not None else state, skip_if_finished=True)
        if found.state != state:
            self._say_lost(trial)
            return
        self.say(f"trial {trial.number}: {text}")
        self.ended(found)

    def _fail(self, trial: optuna.Trial, why: str | None) -> None:
        if why is not None:
            trial.set_user_attr(WHY, why)
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _say_lost(self, trial: optuna.Trial) -> None:
        self.say(
            f"trial {trial.number}: not counted, for it was silent so long that it was taken for dead; it is tried again"
        )

    def _give_up_unclaimed(self, running: tuple[FrozenTrial, ...]) -> None:
        """Fail what was taken by a worker that was killed before its first heartbeat: nobody else would."""
        for trial in running:
            if WORKER not in trial.user_attrs:
                since = self._unclaimed.setdefault(trial.number, time.monotonic())
                if time.monotonic() - since > (self.storage.grace_period or 0):
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _wait(self) -> None:
        until = time.monotonic() + LOOK_S
        while time.monotonic() < until and not self.stop():
            time.sleep(0.1)


def _why(error: BaseException) -> str | None:
    """Why a trial failed; None where nobody knows but that it may fail again."""
    if isinstance(error, Interrupted) or not isinstance(error, Exception):
        return STOPPED
    return ERROR if isinstance(error, VtadError | OptunaError | SQLAlchemyError) else None
