"""The estimated threshold: how scores of good pictures tail off, so that the oddest one does not decide alone.

The fifth of the scores that is highest is taken to fall off exponentially, as a generalised Pareto tail of shape 0 (Pickands,
Annals of Statistics 1975). The oddest tenth of that fifth, at least one picture, counts as beyond the others and no more: how
far is not asked (censoring; Epstein & Sobel, Journal of the American Statistical Association 1953). Nothing is guaranteed: a
bootstrap (Efron, Annals of Statistics 1979) says how far off it may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import Estimate

TAIL = 0.2  # of the scores
CENSORED = 0.1  # of the tail; at least one
FEWEST = 20  # scores that a tail is fitted to: five of them are in it
RESAMPLES = 400
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Tail:
    """P(score > x) = share * exp(-(x - start) / scale) from `start` on."""

    start: float
    share: float  # of good pictures that score above `start`
    scale: float

    def exceeded_by(self, score: float) -> float:
        """The share of good pictures that score above this; `share` at most."""
        return self.share * math.exp(-max(score - self.start, 0.0) / self.scale)

    def level(self, share: float) -> float:
        """The score above which this share of good pictures lies, from `start` on."""
        return self.start + self.scale * max(math.log(self.share / share), 0.0)


def fit_tail(scores: Sequence[float] | NDArray[np.float64]) -> Tail:
    """Of finite scores: the tail begins halfway between two of them, its scale is the most likely one."""
    ordered = np.sort(np.asarray(scores, np.float64))
    count = max(2, round(TAIL * len(ordered)))
    start = (ordered[-count - 1] + ordered[-count]) / 2
    beyond = ordered[-count:] - start
    known = count - max(1, round(CENSORED * count))
    scale = (beyond[:known].sum() + (count - known) * beyond[known - 1]) / known
    return Tail(float(start), count / len(ordered), max(float(scale), 1e-9))


def estimated_level(scores: Sequence[float], false_alarms: float) -> float | None:
    """The level that the budget's share of good pictures exceeds by the tail.

    None with fewer than twenty scores, and for a budget beyond the tail.
    """
    if len(scores) < FEWEST or false_alarms >= TAIL:
        return None
    return fit_tail(scores).level(false_alarms)


def estimated_threshold(scores: Sequence[float], false_alarms: float) -> Estimate | None:
    """`estimated_level`, and how far off it may be."""
    threshold = estimated_level(scores, false_alarms)
    if threshold is None:
        return None
    rng, sample = np.random.default_rng(0), np.asarray(scores, np.float64)
    drawn = (fit_tail(rng.choice(sample, len(sample))).exceeded_by(threshold) for _ in range(RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    lowest, highest = np.quantile(np.fromiter(drawn, np.float64), (tail, 1 - tail))
    return Estimate(threshold, float(lowest), float(highest))
