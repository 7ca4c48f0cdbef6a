"""What a replay found: how verdicts and scores moved between the recorded run and now.

A flip is a part whose verdict changes between OK and NG. UNSURE, STALE and ERROR stand in the table of agreement and are
no flips: they are no decision.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.review.recorded import Recorded
from vtad_runtime.verdict.verdict import Verdict

DECIDED = (Verdict.OK, Verdict.NG)


@dataclass(frozen=True)
class Again:
    """One row and what is said about it now."""

    recorded: Recorded
    verdict: Verdict | None  # None: not judged again, see recorded.gone
    score: float  # NaN when not judged
    threshold: float
    reason: str | None  # why the verdict is neither OK nor NG

    @property
    def flipped(self) -> bool:
        """From OK to NG or from NG to OK."""
        before, now = self.recorded.verdict, self.verdict
        return before in DECIDED and now in DECIDED and before is not now

    @property
    def margin(self) -> float:
        """How far beyond the new threshold the score lies, as a share of it."""
        return abs(self.score - self.threshold) / max(abs(self.threshold), 1e-9)


@dataclass(frozen=True)
class Shift:
    """How scores moved, over the pictures that have both."""

    pictures: int
    recorded_median: float
    new_median: float
    difference_p5_p50_p95: tuple[float, float, float]  # percentiles of new - recorded
    rank_correlation: float | None  # Spearman's, -1..1; None where one side has only one value


@dataclass(frozen=True)
class Comparison:
    """All rows, compared."""

    rows: tuple[Again, ...]
    table: dict[tuple[Verdict, Verdict], int]  # (recorded, new): how many
    flips: tuple[Again, ...]  # missed ones first: NG -> OK, then OK -> NG; in each the clearest first
    shift: Shift | None  # None when no row has both scores
    not_saved: int  # rows without anything to judge: no frame was kept, or, of a threshold alone, no score
    missing: tuple[tuple[str, str], ...]  # name and why, of rows whose picture is not there any more
    failed: tuple[tuple[str, str], ...]  # name and why, of rows whose picture could not be judged

    @property
    def judged(self) -> int:
        """How many were judged again."""
        return sum(self.table.values())

    @property
    def sides(self) -> tuple[list[Verdict], list[Verdict]]:
        """The verdicts that were recorded, and those of now: rows and columns of the table."""
        before, now = {b for b, _ in self.table}, {n for _, n in self.table}
        return [v for v in Verdict if v in before], [v for v in Verdict if v in now]

    def flips_from(self, verdict: Verdict) -> int:
        """How many flipped away from this verdict."""
        return sum(again.recorded.verdict is verdict for again in self.flips)

    def to_dict(self) -> dict[str, Any]:
        """For replay.json."""
        table: dict[str, dict[str, int]] = {}
        for (before, now), count in sorted(self.table.items()):
            table.setdefault(str(before), {})[str(now)] = count
        return {
            "rows": len(self.rows),
            "judged_again": self.judged,
            "flips": {"OK -> NG": self.flips_from(Verdict.OK), "NG -> OK": self.flips_from(Verdict.NG)},
            "table": table,
            "score_shift": self.shift and dataclasses.asdict(self.shift),
            "not_saved": self.not_saved,
            "missing": [{"name": name, "why": why} for name, why in self.missing],
            "failed": [{"name": name, "why": why} for name, why in self.failed],
        }


def compare(rows: Sequence[Again]) -> Comparison:
    """Count and order what was judged again."""
    judged = [(a.recorded.verdict, a.verdict) for a in rows if a.verdict is not None]
    flips = [a for a in rows if a.flipped]
    return Comparison(
        rows=tuple(rows),
        table=dict(Counter(judged)),
        flips=tuple(sorted(flips, key=lambda a: (a.verdict is Verdict.NG, -a.margin))),
        shift=_shift(rows),
        not_saved=sum(a.verdict is None and a.recorded.gone != "missing" for a in rows),
        missing=tuple(
            (a.recorded.name, a.recorded.why) for a in rows if a.verdict is None and a.recorded.gone == "missing"
        ),
        failed=tuple((a.recorded.name, a.reason or "") for a in rows if a.verdict is Verdict.ERROR),
    )


def _shift(rows: Sequence[Again]) -> Shift | None:
    pairs = [(a.recorded.score, a.score) for a in rows if math.isfinite(a.recorded.score) and math.isfinite(a.score)]
    if not pairs:
        return None
    before, now = np.array(pairs).T  # (N,) each
    low, middle, high = np.percentile(now - before, (5, 50, 95))
    return Shift(
        pictures=len(pairs),
        recorded_median=float(np.median(before)),
        new_median=float(np.median(now)),
        difference_p5_p50_p95=(float(low), float(middle), float(high)),
        rank_correlation=_spearman(before, now),
    )


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Pearson's correlation of the ranks; ties share their mean rank."""
    ranks = [_ranks(values) for values in (a, b)]
    if any(rank.std() == 0 for rank in ranks):
        return None
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts).astype(np.float64) - (counts - 1) / 2
    return np.take(mean_rank, inverse)
