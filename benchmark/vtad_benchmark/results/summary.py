"""Means and spreads: rows of one method together, over seeds and over categories. Unlike things are never averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from vtad_benchmark.results.row import Row

Value = Callable[[Row], float | None]

FIGURES: dict[str, Value] = {
    "image AUROC": lambda row: row.ranking.image_auroc,
    "pixel AUROC": lambda row: row.ranking.pixel_auroc,
    "AUPRO": lambda row: row.ranking.aupro,
}


@dataclass(frozen=True)
class Spread:
    """A mean, and the standard deviation over seeds; None of one seed."""

    mean: float
    deviation: float | None

    def text(self, digits: int = 3) -> str:
        """E.g. "0.989 ± 0.001"."""
        beside = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{beside}"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of values, one a seed. None unless each is there: a mean over some would pass for one over all."""
    all_of_them = list(values)
    there = [value for value in all_of_them if value is not None]
    if not there or len(there) < len(all_of_them):
        return None
    return Spread(fmean(there), stdev(there) if len(there) > 1 else None)


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each method, as it was asked for, in the order in which they come.

    Where a default has changed between rows, there are two methods of one name; their fingerprints tell them apart.
    """
    prints: dict[str, set[str]] = {}
    for row in rows:
        prints.setdefault(row.label, set()).add(row.fingerprint)
    found: dict[str, list[Row]] = {}
    for row in rows:
        several = len(prints[row.label]) > 1
        found.setdefault(f"{row.label} ({row.fingerprint})" if several else row.label, []).append(row)
    return found


def categories(rows: Sequence[Row]) -> list[str]:
    """In alphabetical order."""
    return sorted({row.category for row in rows})


def over_seeds(rows: Sequence[Row], category: str, value: Value) -> Spread | None:
    """Of one method on one category."""
    return spread(value(row) for row in rows if row.category == category)


def over_categories(rows: Sequence[Row], of: Sequence[str], value: Value) -> Spread | None:
    """Of one method: the mean over categories of each seed that has all of them, then over these seeds."""
    means = []
    for seed in sorted({row.seed for row in rows}):
        here = [row for row in rows if row.seed == seed and row.category in of]
        values = [value(row) for row in here]
        there = [one for one in values if one is not None]
        if len(here) == len(of) and len(there) == len(values):
            means.append(fmean(there))
    return spread(means)
