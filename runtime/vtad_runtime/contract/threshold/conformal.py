"""The threshold rule: scores of good pictures and a false-alarm budget in, a decision out. Numpy only.

The guaranteed threshold is conformal (Vovk et al., Algorithmic Learning in a Random World): with n good pictures and a budget a,
at most k = floor(a (n + 1)) of n + 1 exchangeable good pictures score above the k-th largest calibration score.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vtad_runtime.contract.card import USUAL_RULE, BudgetRule, Calibration
from vtad_runtime.contract.errors import FAILED, VtadError
from vtad_runtime.contract.threshold.tail import estimated_level, estimated_threshold

MARGIN = 0.05  # of the calibration spread, at most: more than float16 drifts on good pictures
LEAST_MARGIN = 1e-3  # of the calibration spread; twice what float32 exports may drift
MIN_IMAGES = 3
FENCE = 3.0  # interquartile ranges above the third quartile: Tukey's outer fence
REVIEW = 0.05  # share of good pictures at most that a person looks at, NG ones among them


class CalibrationError(VtadError):
    """Too few good pictures, or scores that are not numbers. The message is one line."""

    exit_code = FAILED


def images_needed(false_alarms: float) -> int:
    """Good pictures from which on a budget can be kept: the smallest n with 1 / (n + 1) <= budget."""
    return math.ceil(1 / false_alarms - 1 - 1e-9)


def conformal_threshold(scores: Sequence[float], false_alarms: float) -> float:
    """The level above which at most the budget's share of good pictures lies, plus a margin.

    The margin goes halfway to the next larger score, but no farther than MARGIN: no rounding of an export flips the picture that
    gave the level. With too few pictures for the budget, that is the oddest one. Raises CalibrationError.
    """
    ordered = sorted(scores)
    if len(ordered) < MIN_IMAGES:
        raise CalibrationError(
            f"expected at least {MIN_IMAGES} good images to calibrate, got {len(ordered)}: add good images"
        )
    if not all(math.isfinite(s) for s in ordered):
        raise CalibrationError("a good image has a score that is not a number: the training diverged")
    k = max(1, math.floor(false_alarms * (len(ordered) + 1) + 1e-9))
    level = ordered[-k]
    gap = min((s for s in ordered if s > level), default=math.inf) - level
    return level + margin(gap, spread(ordered))


def margin(gap: float, unit: float) -> float:
    """How far beyond a picture's score a threshold lies that it gave; `gap` is to the next score, `unit` their spread."""
    return max(LEAST_MARGIN * unit, min(MARGIN * unit, gap / 2))


def clear_of(threshold: float, scores: Sequence[float]) -> float:
    """The threshold, moved so that no rounding of an export flips a picture: within its gap between two scores, or up to a wider.

    As far as `margin` says, in the spread of the scores below it, which odd ones do not widen.
    """
    ordered = sorted(scores)
    above = bisect_right(ordered, threshold)
    unit = spread(ordered[:above])
    ends = [-math.inf, *ordered, math.inf]
    lower, upper = next(gap for gap in pairwise(ends[above:]) if gap[1] - gap[0] > 2 * LEAST_MARGIN * unit)
    away = margin(upper - lower, unit)
    return min(max(threshold, lower + away), upper - away)


def fence(scores: Sequence[float]) -> float:
    """Tukey's outer fence: above it a good picture is odd among the others, and possibly none."""
    lower, upper = np.quantile(np.asarray(scores, dtype=np.float64), (0.25, 0.75))
    return float(upper + FENCE * max(upper - lower, 1e-6))


def review_level(calibration: Calibration, review: float) -> float | None:
    """The score above which at most the share `review` of good pictures lies: from there up to the threshold, UNSURE.

    None where nothing lies between: the share is 0 or within the false-alarm budget, or the calibration scores are too few.
    """
    scores = calibration.scores
    if review <= calibration.false_alarms or len(scores) < max(MIN_IMAGES, images_needed(review)):
        return None
    level = conformal_threshold(scores, review)
    return level if level < calibration.threshold else None


def spread(scores: Sequence[float]) -> float:
    """Standard deviation of the scores, never zero, also of none."""
    return max(float(np.std(np.asarray(scores, dtype=np.float64))) if len(scores) else 0.0, 1e-6)


def budget_threshold(scores: Sequence[float], false_alarms: float, rule: BudgetRule) -> float:
    """The threshold of a budget by this rule; the guaranteed one where nothing can be estimated. Raises CalibrationError."""
    guaranteed = conformal_threshold(scores, false_alarms)
    level = estimated_level(scores, false_alarms) if rule == "estimated" else None
    return guaranteed if level is None else clear_of(level, scores)


def calibration(
    scores: Sequence[float], peaks: Sequence[float], false_alarms: float, rule: BudgetRule = USUAL_RULE
) -> Calibration:
    """The card's entry from good pictures' scores and heatmap maxima (at model resolution). Raises CalibrationError.

    Where nothing can be estimated the rule is the guaranteed one.
    """
    n, guaranteed = len(scores), conformal_threshold(scores, false_alarms)
    estimated = estimated_threshold(scores, false_alarms)
    if estimated:
        estimated = dataclasses.replace(estimated, threshold=clear_of(estimated.threshold, scores))
    return Calibration(
        scores=tuple(sorted(scores)),
        false_alarms=false_alarms,
        achievable=max(false_alarms, 1 / (n + 1)),
        threshold=estimated.threshold if estimated and rule == "estimated" else guaranteed,
        pixel_threshold=conformal_threshold(peaks, false_alarms),
        images=n,
        rule=rule if estimated else "guaranteed",
        guaranteed=guaranteed,
        estimated=estimated,
    )
