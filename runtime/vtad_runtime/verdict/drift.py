"""Drift: whether the scores of late still look like those of the calibration.

The newest scores are compared with the calibration's by two measures: the two-sample Kolmogorov-Smirnov statistic says
whether they differ by more than chance, the population stability index (PSI) whether by enough to matter. A warning takes
both (p < 1e-4 and PSI > 0.25, the usual sign of a shifted population) and comes once per excursion: the next one is possible
after PSI fell below 0.1 or p rose above 0.05.

A camera shows the same part many times, and such scores say nothing new. So a score counts only if it is further than
0.3 of the calibration's spread from the last one that counted, and p is taken at the number of scores that would be
independent (`independent`).

How often it errs in simulations is in docs/live-runtime.md; a small one with a fixed seed is in the tests. Scores that all
come to lie within 0.3 of the spread look like one part that stands still: of those nothing is said.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import Calibration

FIRST = 0.25  # of the window: the scores needed before anything is said
EVERY = 0.05  # of the window: it is measured again after so many new scores
ALPHA, PSI_SHIFTED = 1e-4, 0.25
CALM_P, CALM_PSI = 0.05, 0.1
SAME_PART = 0.3  # of the calibration's spread
BIN_IMAGES, MAX_BINS = 5, 10  # a bin of the PSI holds at least five calibration scores; at most ten bins, at least two

Scores = NDArray[np.float64]


class Drift:
    """A rolling window of scores beside the calibration's. Not thread-safe.

    `watched` is false where the card holds no calibration scores to compare with: nothing is taken, and nothing said.
    """

    def __init__(self, calibration: Calibration, window: int = 200) -> None:
        """`window`: scores compared, of different parts."""
        self.watched = len(calibration.scores) > 0
        self._reference: Scores = np.sort(np.asarray(calibration.scores, np.float64))
        self._scores: deque[float] = deque(maxlen=window)
        self._first = max(2, round(FIRST * window))
        self._every = max(1, round(EVERY * window))
        self._new = 0  # scores since the window was measured
        self._measured: tuple[float, float, float] | None = None  # KS, p and PSI; None: too few scores yet
        self._warning: str | None = None
        if self.watched:
            self._spread, self._edges = robust_spread(self._reference), psi_edges(self._reference)

    def add(self, score: float) -> str | None:
        """Take the score of one judged frame; a warning line when an excursion begins. NaN is left out."""
        if not self.watched or not math.isfinite(score):
            return None
        if self._scores and abs(score - self._scores[-1]) <= SAME_PART * self._spread:
            return None
        self._scores.append(score)
        self._new += 1
        if len(self._scores) < self._first or self._new < self._every:
            return None
        newest, self._new = np.array(self._scores), 0
        ks = ks_statistic(self._reference, newest)
        p = ks_p_value(ks, len(self._reference), independent(newest, self._spread))
        stability = psi(self._reference, newest, self._edges)
        self._measured = ks, p, stability
        if self._warning is not None:
            if p > CALM_P or stability < CALM_PSI:
                self._warning = None
            return None
        if p < ALPHA and stability > PSI_SHIFTED:
            now, then = float(np.median(newest)), float(np.median(self._reference))
            self._warning = (
                f"scores drift {'up' if now > then else 'down'}: median {now:.3g} over the last {len(newest)} parts, "
                f"{then:.3g} at calibration (KS {ks:.2f}, p {p:.1e}, PSI {stability:.2f}); check light, focus "
                "and parts by the golden samples, or calibrate again by vtad-calibrate"
            )
        return self._warning

    def state(self) -> dict[str, Any]:
        """`ks`, `p`, `psi`, `n` (scores in the window), and `warning`: the line while an excursion lasts, else None.

        ks, p and psi are None as long as there are too few scores.
        """
        ks, p, stability = self._measured or (None, None, None)
        return {"ks": ks, "p": p, "psi": stability, "n": len(self._scores), "warning": self._warning}


def ks_statistic(a: Scores, b: Scores) -> float:
    """The largest distance between two samples' distribution functions, 0..1 (Kolmogorov 1933, Smirnov 1948)."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    below_a = np.searchsorted(a, at, side="right") / len(a)
    below_b = np.searchsorted(b, at, side="right") / len(b)
    return float(np.abs(below_a - below_b).max())


def ks_p_value(d: float, n: float, m: float) -> float:
    """The chance of a statistic of at least `d` when n and m independent scores come from one distribution; asymptotic.

    2 sum_j (-1)^(j-1) exp(-2 j^2 x^2) at x = (e + 0.12 + 0.11 / e) d, e = sqrt(n m / (n + m)) (Stephens 1970, in Press et
    al., Numerical Recipes, 14.3).
    """
    if d <= 0:
        return 1.0
    e = math.sqrt(n * m / (n + m))
    x = (e + 0.12 + 0.11 / e) * d
    if x < 0.2:  # 1 to seven digits; the series converges slowly here
        return 1.0
    total = sum((-1.0) ** (j - 1) * math.exp(-2 * (j * x) ** 2) for j in range(1, 31))
    return min(1.0, max(0.0, 2 * total))


def psi_edges(reference: Scores) -> Scores:
    """Inner edges of the PSI's bins: quantiles of the reference, at least five of its scores a bin.

    Two bins below 15 scores, ten from 50 on; fewer where scores are equal. Where the lowest score is itself an edge, what lies
    below it has a bin of its own, since a fall from there would go unseen.
    """
    bins = min(max(len(reference) // BIN_IMAGES, 2), MAX_BINS)
    edges = _quantiles(reference, np.arange(1, bins) / bins)
    edges = edges[np.diff(edges, prepend=-np.inf) > 0]
    if edges[0] > reference.min():
        return edges
    return np.concatenate([[np.nextafter(edges[0], -np.inf)], edges])


def psi(reference: Scores, newest: Scores, edges: Scores) -> float:
    """Population stability index: sum of (q - p) ln(q / p) over bins with shares p (reference) and q (newest).

    Half a score is added to each bin, so that an empty one does not make the index infinite.
    """
    counts = [np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) + 0.5 for x in (reference, newest)]
    p, q = (c / c.sum() for c in counts)
    return float(((q - p) * np.log(q / p)).sum())


def independent(scores: Scores, spread: float) -> float:
    """How many independent scores these, in the order they came, are worth; 1..n. The lower of two estimates.

    Neighbours: scores with this spread and correlation r differ from the next by a normal deviate of variance
    2 spread^2 (1 - r) (after von Neumann 1941, here by the median), and n of them are worth n (1 - r) / (1 + r), as in a
    first-order autoregression. Batch means: the means of batches of b independent scores vary by a b-th of their own
    variance (Conway 1963); where they vary more, scores stay alike over a batch. Neither takes a shift of the mean that all the
    scores share for correlation; while a shift fills the window, the batches do, and the warning waits for it.
    """
    n = len(scores)
    step = float(np.median(np.abs(np.diff(scores)))) / 0.6745
    ratio = min(1.0, step**2 / (2 * spread**2))
    size = math.isqrt(n)
    means = scores[: n - n % size].reshape(-1, size).mean(axis=1)
    by_batches = n * float(scores.var()) / max(size * float(means.var(ddof=1)), 1e-30)
    return max(1.0, min(n, n * ratio / (2 - ratio), by_batches))


def robust_spread(scores: Sequence[float] | Scores) -> float:
    """Standard deviation of a normal distribution with this interquartile range: one odd score does not widen it."""
    lower, upper = _quantiles(scores, np.array([0.25, 0.75]))
    return max(float(upper - lower) / 1.349, 1e-6)


def _quantiles(scores: Sequence[float] | Scores, shares: Scores) -> Scores:
    """By linear interpolation. As np.quantile, which imports numpy.ma: 35 ms that the first verdict would wait for."""
    ordered = np.sort(np.asarray(scores, np.float64))
    return np.interp(shares * (len(ordered) - 1), np.arange(len(ordered)), ordered)
