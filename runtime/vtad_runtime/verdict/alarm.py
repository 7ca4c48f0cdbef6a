"""An alarm over time: on when at least N of the last M judged frames are NG, off by a second threshold."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from vtad_runtime.verdict.verdict import Verdict


@dataclass(frozen=True)
class AlarmRule:
    """When the alarm is on."""

    at_least: int  # NG frames ...
    of_last: int  # ... among this many judged ones
    on: float  # score above which a frame speaks for raising it: the card's threshold
    off: float  # score above which a frame speaks for keeping it; at most `on`


class Alarm:
    """Goes on when at least N of the last M scores are above `on`, off when fewer than N of them are above `off`.

    With `off` below `on` a score that wavers about the threshold does not make the alarm flicker. What was not judged
    neither raises nor clears it: ERROR frames do not enter the window at all, and a frame that is STALE or UNSURE enters
    it only if its score speaks for the alarm. So a covered lens, a lost camera or a late frame never clears an alarm.
    """

    def __init__(self, rule: AlarmRule) -> None:
        if not (1 <= rule.at_least <= rule.of_last and rule.off <= rule.on):
            raise ValueError(f"alarm: expected 1 <= N <= M and off <= on, got {rule}")
        self.rule = rule
        self.on = False
        self._scores: deque[float] = deque(maxlen=rule.of_last)

    def add(self, verdict: Verdict, score: float) -> bool:
        """Take the next frame in order; whether the alarm is on after it."""
        speaks_for = score > (self.rule.off if self.on else self.rule.on)
        judged = verdict is not Verdict.ERROR and math.isfinite(score)
        if judged and (speaks_for or verdict in (Verdict.OK, Verdict.NG)):
            self._scores.append(score)
        limit = self.rule.off if self.on else self.rule.on
        self.on = sum(score > limit for score in self._scores) >= self.rule.at_least
        return self.on
