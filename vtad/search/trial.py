"""One trial: a training with the options that it drew, judged; or pruned on the way."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import optuna

from vtad.config import Config, ConfigError
from vtad.fitting.device import NoRoom, pick_device, room_errors_as_lines
from vtad.fitting.loop import Interrupted, Reporter, TrainingError
from vtad.models.detector import Detector
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad.search.judge import Judge
from vtad.search.space import Space
from vtad.training import SMALLER, train

TENTHS = 10  # of a training: trials are compared where they are equally far

Started = Callable[[Run], None]
Followed = Callable[[int], AbstractContextManager[Started]]


class NoFigure(Exception):
    """The options of a trial cannot be trained with: they contradict each other, diverge, or need too much memory."""


@dataclass(frozen=True)
class Trainer:
    """What the trials of a worker share."""

    config: Config  # where every trial starts from
    space: Space
    judge: Judge
    folder: Path  # that gets a run folder for each trial, by its number
    followed: Followed = lambda number: nullcontext(lambda run: None)  # what the run folder of a trial is given to

    def run(self, trial: optuna.Trial, report: Reporter, stop: Callable[[], bool]) -> float:
        """The quality of a trial; its run folder holds a complete run.

        Raises optuna.TrialPruned or NoFigure, which leave an incomplete one; Interrupted, which leaves none; and what
        `vtad.training.train` raises whatever the options.
        """
        run = self.run_of(trial.number)
        values = self.space.draw(trial)
        try:
            config = dataclasses.replace(self.config, **values).check()
            with room_errors_as_lines(SMALLER):
                return self._trained(config, run, trial, report, stop)
        except Interrupted:
            shutil.rmtree(run.path, ignore_errors=True)  # its next attempt begins anew, in a folder of its own
            raise
        except (ConfigError, TrainingError, NoRoom) as e:
            run.checkpoint.unlink(missing_ok=True)
            raise NoFigure(str(e)) from e

    def run_of(self, number: int) -> Run:
        """The run folder of a trial."""
        return Run(self.folder / f"{number:04d}")

    def _trained(
        self, config: Config, run: Run, trial: optuna.Trial, report: Reporter, stop: Callable[[], bool]
    ) -> float:
        compared: set[int] = set()

        def validated(detector: Detector, fraction: float) -> None:
            tenth = int(TENTHS * fraction)
            if tenth in compared:
                return
            compared.add(tenth)
            trial.report(self.judge.quality_so_far(detector), tenth)
            if trial.should_prune():
                raise optuna.TrialPruned(f"at {fraction:.0%}")

        with self.followed(trial.number) as started:
            try:
                train(
                    config,
                    report=report,
                    stop=stop,
                    started=started,
                    files=self.judge.trial_files,
                    folder=run.path,
                    validated=validated,
                )
            except optuna.TrialPruned as e:
                run.checkpoint.unlink(missing_ok=True)
                pruned = e
            else:
                return self.judge.quality(load_detector(run, pick_device(config.device)))
        raise pruned
