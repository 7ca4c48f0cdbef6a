"""Which trials of a study count, so that workers who share nothing else than its storage make exactly so many as were wanted.

A study has a slot for each trial that was wanted. A trial is an attempt at a slot: the first one, or another after one that was
killed or stopped. Trials have numbers without gaps, given by the storage one at a time, so whoever looks at the trials below a
number sees the same. From them follows whether a trial may begin: two workers that both took the last slot agree on whose it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

SLOT = "slot"  # user attribute of a later attempt: the number of the first one
WHY = "why"  # user attribute of an attempt that did not end by itself: STOPPED, SURPLUS or ERROR; none: it was killed
STOPPED, SURPLUS, ERROR = "stopped", "surplus", "error"
MOST_KILLED = 2  # attempts, after which a slot is given up: what they have in common is the options

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
UNDER_WAY = (TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True)
class Standing:
    """How far a study is."""

    wanted: int  # trials
    ended: tuple[FrozenTrial, ...]  # complete or pruned, one a slot
    running: tuple[FrozenTrial, ...]
    waiting: int  # attempts that any worker can begin
    again: tuple[FrozenTrial, ...]  # attempts after which there must be another one, the last one a slot
    given_up: tuple[FrozenTrial, ...]  # the last attempt of slots whose trainings were killed again and again
    missing: int  # slots without an attempt

    @property
    def early(self) -> int:
        """Trials that ended before their training did: pruned, or without a figure."""
        return sum(trial.state is TrialState.PRUNED for trial in self.ended)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do, for any worker."""
        return not (self.running or self.waiting or self.again or self.missing)


def standing(trials: Sequence[FrozenTrial], wanted: int) -> Standing:
    """Of a study whose trials, all of them, are these."""
    ended, running, again, given_up = list[FrozenTrial](), list[FrozenTrial](), list[FrozenTrial](), list[FrozenTrial]()
    waiting = 0
    slots = _slots(trials, wanted)
    for attempts in slots.values():
        states = {trial.state: trial for trial in attempts}
        real = [trial for trial in attempts if trial.user_attrs.get(WHY) != SURPLUS] or attempts
        if found := [states[state] for state in ENDED if state in states]:
            ended.append(found[0])
        elif TrialState.RUNNING in states:
            running.append(states[TrialState.RUNNING])
        elif TrialState.WAITING in states:
            waiting += 1
        elif sum(WHY not in trial.user_attrs for trial in attempts) >= MOST_KILLED:
            given_up.append(real[-1])
        else:
            again.append(real[-1])
    return Standing(wanted, tuple(ended), tuple(running), waiting, tuple(again), tuple(given_up), wanted - len(slots))


def may_begin(number: int, trials: Sequence[FrozenTrial], wanted: int) -> bool:
    """Whether the trial of this number belongs to a slot, and no earlier attempt at it ended or is under way."""
    slots = _slots([trial for trial in trials if trial.number <= number], wanted)
    mine = next((attempts for attempts in slots.values() if any(t.number == number for t in attempts)), None)
    return mine is not None and not any(t.state in (*ENDED, *UNDER_WAY) for t in mine if t.number < number)


def slot(trial: FrozenTrial) -> int:
    """The number of the first attempt at the trial's slot."""
    return int(trial.user_attrs.get(SLOT, trial.number))


def _slots(trials: Sequence[FrozenTrial], wanted: int) -> dict[int, list[FrozenTrial]]:
    """The attempts at each slot, in order."""
    in_order = sorted(trials, key=lambda trial: trial.number)
    firsts = [trial.number for trial in in_order if SLOT not in trial.user_attrs][:wanted]
    return {first: [trial for trial in in_order if slot(trial) == first] for first in firsts}
