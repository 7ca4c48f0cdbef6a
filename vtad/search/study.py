"""A study: the trials of one search, and what they have in common. Workers with other settings or pictures may not join it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import MedianPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from vtad.config import Config
from vtad.inspection import without_places
from vtad.search.attempts import ENDED, Standing, slot, standing
from vtad.search.space import Space
from vtad_runtime.contract.errors import VtadError

SETTINGS = "vtad"  # user attribute of the study
START = "start"  # user attribute of the trial with the values that the search starts from
STARTUP = 5  # complete trials, before which none is pruned
WARM_UP = 3  # tenths of a training, before which none is pruned
FEWEST = 3  # complete trials that reached the same tenth, to compare with
OF_THIS_MACHINE = ("data", "out", "device", "preset_file")


class StudyError(VtadError):
    """A study that cannot be joined. The message is one line."""


@dataclass(frozen=True)
class Settings:
    """What all trials of a study have in common."""

    space: Space
    config: Config  # where every trial starts from
    fingerprint: str  # of the good pictures

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a storage gives them back: those of two workers of one study are the same."""
        config = without_places(dataclasses.asdict(self.config))
        options = {name: value for name, value in config.items() if name not in OF_THIS_MACHINE}
        values = {"space": self.space.to_json(), "options": options, "fingerprint": self.fingerprint}
        found: dict[str, Any] = json.loads(json.dumps(values))
        return found


def join(storage: RDBStorage, name: str, settings: Settings) -> optuna.Study:
    """The study of this name, made if there is none. Raises StudyError where its settings are others.

    Its first trial has the values that the search starts from, if the space holds them: what is found is never worse.
    """
    pruner = MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARM_UP, n_min_trials=FEWEST)
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", pruner=pruner)
        if start := settings.space.values_in(settings.config):
            study.enqueue_trial(start, user_attrs={START: True})
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name, pruner=pruner)
    ours = settings.to_json()
    if SETTINGS not in study.user_attrs:
        study.set_user_attr(SETTINGS, ours)
    _require_same(name, study.user_attrs[SETTINGS], ours)
    return study


@dataclass(frozen=True)
class Found:
    """What a study has found so far."""

    standing: Standing
    best: FrozenTrial | None  # None: no trial is complete
    start: FrozenTrial | None  # the trial with the values that the search starts from, if it is complete


def found_in(study: optuna.Study, wanted: int) -> Found:
    """Of all trials of a study, also where fewer are `wanted` than it has: another worker may have wanted more."""
    trials = study.get_trials(deepcopy=False)
    there = len({slot(trial) for trial in trials if trial.state in ENDED})
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    start = next((trial for trial in complete if START in trial.user_attrs), None)
    return Found(
        standing(trials, max(wanted, there)), max(complete, key=lambda trial: trial.value or 0.0, default=None), start
    )


def _require_same(name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    other = "name another by --study, or go on with what it began with"
    if (found := _difference(theirs["space"], ours["space"])) is not None:
        raise StudyError(f"study {name}: its space is another one, which differs in {found}: {other}")
    if (found := _difference(theirs["options"], ours["options"])) is not None:
        its, given = (options.get(found) for options in (theirs["options"], ours["options"]))
        raise StudyError(f"study {name}: its trials have {found} {its}, got {given}: {other}")
    if theirs["fingerprint"] != ours["fingerprint"]:
        raise StudyError(f"study {name}: its good pictures are others: {other}")


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first name whose values differ."""
    return next((name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)), None)
