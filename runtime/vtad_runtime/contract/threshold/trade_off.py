"""The trade-off between false alarms and misses: what each threshold costs, by good and by defective pictures that were judged.

The choices keep the rule of `conformal.py`: with n pictures a share can be vouched for from 1 / (n + 1) on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vtad_runtime.contract.card import percent
from vtad_runtime.contract.threshold.binomial import exact_interval
from vtad_runtime.contract.threshold.conformal import LEAST_MARGIN, CalibrationError, images_needed, margin, spread

ROWS = 12  # of a table, about


@dataclass(frozen=True)
class Count:
    """So many of so many pictures, and between which shares the truth lies with 95 % confidence."""

    of: int
    count: int

    @property
    def share(self) -> float | None:
        """None without pictures."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """The exact interval (Clopper & Pearson, 1934); (0, 1) without pictures."""
        return exact_interval(self.count, self.of)

    def __str__(self) -> str:
        """E.g. "2 of 40, 5.0 % (0.6 to 16.9 %)"."""
        if self.share is None:
            return "none of 0"
        low, high = (100 * end for end in self.interval)
        return f"{self.count} of {self.of}, {100 * self.share:.1f} % ({low:.1f} to {high:.1f} %)"


@dataclass(frozen=True)
class Choice:
    """A threshold and what it costs. A picture is NG if and only if its score is above the threshold."""

    threshold: float
    false_alarms: Count  # of the good pictures
    misses: Count  # of the defective ones


def choice(threshold: float, good: Sequence[float], defective: Sequence[float]) -> Choice:
    """What this threshold costs on these scores."""
    alarms = sum(score > threshold for score in good)
    missed = sum(score <= threshold for score in defective)
    return Choice(threshold, Count(len(good), alarms), Count(len(defective), missed))


def trade_off(good: Sequence[float], defective: Sequence[float], also: float | None = None) -> list[Choice]:
    """The thresholds worth a look, ascending; of many, about a dozen. No other threshold costs less of one kind and no more of
    the other.

    `also` is a threshold that is shown in any case, in place of any that costs the same. Raises CalibrationError: no scores, or
    some that are not finite.
    """
    scores = sorted({*good, *defective})
    if not scores or not all(map(math.isfinite, scores)):
        raise CalibrationError("expected finite scores to weigh false alarms against misses, got none, or others")
    is_good, is_bad = set(good), set(defective)
    levels = [(a + b) / 2 for a, b in pairwise(scores) if a in is_good and b in is_bad]
    unit = spread(good)
    if scores[-1] in is_good:  # above all: no false alarms
        levels.append(scores[-1] + LEAST_MARGIN * unit)
    if scores[0] in is_bad:  # below all: no misses
        levels.insert(0, scores[0] - LEAST_MARGIN * unit)
    shown = {levels[round(i * (len(levels) - 1) / (ROWS - 1))] for i in range(ROWS)}
    found = [choice(level, good, defective) for level in sorted(shown)]
    if also is not None:
        own = choice(also, good, defective)
        found = [one for one in found if (one.false_alarms, one.misses) != (own.false_alarms, own.misses)]
        found = sorted([*found, own], key=lambda one: one.threshold)
    return found


def miss_threshold(good: Sequence[float], defective: Sequence[float], max_misses: float) -> float:
    """The level up to which at most this share of defective parts lies: conformal, on the scores of known bad parts.

    A little below the k-th smallest of them, as a threshold by good pictures lies a little above one. Raises CalibrationError
    where so few bad parts cannot vouch for the share; it says how many can.
    """
    ordered = sorted(defective)
    k = math.floor(max_misses * (len(ordered) + 1) + 1e-9)
    if k < 1:
        needed = images_needed(max_misses)
        raise CalibrationError(
            f"expected known bad parts that vouch for {percent(max_misses)} misses, got {len(ordered)}, which vouch for "
            f"{percent(1 / (len(ordered) + 1))} at best; {needed} can, {needed - len(ordered)} more"
        )
    level = ordered[k - 1]
    gap = level - max((s for s in ordered if s < level), default=-math.inf)
    return level - margin(gap, spread(good))


def table(choices: Sequence[Choice], chosen: float) -> list[str]:
    """Lines of text, one a threshold; the chosen one is marked. Rates come with their exact 95 % intervals."""
    alarms, misses = [str(c.false_alarms) for c in choices], [str(c.misses) for c in choices]
    width = max(len("false alarms"), *map(len, alarms))
    lines = [f"  {'threshold':>10}   {'false alarms':<{width}}   missed"]
    for one, alarm, miss in zip(choices, alarms, misses, strict=True):
        mark = "*" if one.threshold == chosen else " "
        lines.append(f"{mark} {one.threshold:>10.4g}   {alarm:<{width}}   {miss}")
    return lines
