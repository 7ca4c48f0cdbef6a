"""Judges recorded pictures again, by another model or another threshold, and compares: how a new model earns its trust.

A flip is a part whose verdict changes between OK and NG. Recorded UNSURE, STALE and ERROR stand in the table of
agreement but are no flips: they were no decision.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.image import ImageError, read_rgb
from vtad_runtime.review.recorded import Recorded
from vtad_runtime.verdict.detector import Detector, Prepared, Result
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.mask import Mask
from vtad_runtime.verdict.verdict import Verdict

DECODERS = 2  # threads that decode ahead
AHEAD = 8  # pictures decoded ahead
DECIDED = (Verdict.OK, Verdict.NG)


@dataclass(frozen=True, eq=False)
class Judge:
    """The new model or threshold, looking at the same part of each picture as the recorded run did."""

    detector: Detector
    geometry: Geometry  # of the recorded run
    mask: Mask | None = None  # likewise
    threshold: float | None = None  # None: its card's

    @property
    def limit(self) -> float:
        """The threshold: NG if and only if score > limit."""
        return self.detector.card.calibration.threshold if self.threshold is None else self.threshold

    def read(self, row: Recorded) -> NDArray[np.uint8]:
        """The pixels of a row as they were judged, (H, W, 3) RGB. Raises ImageError."""
        if row.picture is None:
            raise ImageError(f"{row.name}: {row.why}")
        rgb = read_rgb(row.picture)
        return self.geometry.apply(rgb) if row.whole else rgb

    def settle(self, result: Result) -> Result:
        """The result under mask and threshold."""
        if self.mask is not None:
            result = self.mask.apply(result)
        verdict = Verdict.ERROR if result.verdict is Verdict.ERROR else decide_at(self.limit, result.score)
        return dataclasses.replace(result, verdict=verdict, threshold=self.limit)


@dataclass(frozen=True)
class Again:
    """One row and what is said about it now."""

    recorded: Recorded
    verdict: Verdict | None  # None: not judged again, see recorded.gone
    score: float  # NaN when not judged
    threshold: float
    error: str | None  # why the verdict is ERROR

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
    difference: tuple[float, float, float]  # new - recorded: 5th percentile, median, 95th percentile
    rank_correlation: float | None  # Spearman's, -1..1; None where one side has only one value


@dataclass(frozen=True)
class Comparison:
    """All rows, compared."""

    rows: tuple[Again, ...]
    table: dict[tuple[Verdict, Verdict], int]  # (recorded, new): how many
    flips: tuple[Again, ...]  # missed ones first: NG -> OK, then OK -> NG; in each the clearest first
    shift: Shift | None  # None when no row has both scores
    not_saved: int  # rows without anything to judge: no frame was kept, or, of a threshold alone, no score
    missing: tuple[Again, ...]  # rows whose picture is not there any more
    failed: tuple[Again, ...]  # rows whose picture could not be judged

    def flips_from(self, verdict: Verdict) -> int:
        """How many flipped away from this verdict."""
        return sum(again.recorded.verdict is verdict for again in self.flips)

    def to_dict(self) -> dict[str, Any]:
        """For replay.json."""
        table: dict[str, dict[str, int]] = {}
        for (before, now), count in sorted(self.table.items()):
            table.setdefault(str(before), {})[str(now)] = count
        shift = self.shift
        return {
            "rows": len(self.rows),
            "judged_again": sum(self.table.values()),
            "flips": {
                "OK -> NG": self.flips_from(Verdict.OK),
                "NG -> OK": self.flips_from(Verdict.NG),
            },
            "table": table,
            "score_shift": shift
            and {
                "pictures": shift.pictures,
                "recorded_median": shift.recorded_median,
                "new_median": shift.new_median,
                "difference_p5_p50_p95": list(shift.difference),
                "rank_correlation": shift.rank_correlation,
            },
            "not_saved": self.not_saved,
            "missing": [{"name": a.recorded.name, "why": a.recorded.why} for a in self.missing],
            "failed": [{"name": a.recorded.name, "why": a.error} for a in self.failed],
        }


def rejudge(rows: Sequence[Recorded], judge: Judge, stop: Callable[[], bool] = lambda: False) -> Iterator[Again]:
    """Judge the picture of each row again; in order.

    Once `stop()` is true no further picture is begun. Raises ModelError.
    """
    with ThreadPoolExecutor(DECODERS, "vtad-decode") as pool:
        window: deque[tuple[Recorded, Future[Prepared | str] | None]] = deque()
        try:
            for row in rows:
                if stop():
                    break
                window.append((row, pool.submit(_prepared, row, judge) if row.picture else None))
                if len(window) > AHEAD:
                    yield _again(*window.popleft(), judge)
            while window:
                yield _again(*window.popleft(), judge)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def rescore(rows: Sequence[Recorded], threshold: float) -> Iterator[Again]:
    """Hold the recorded scores against another threshold; no picture is needed.

    Rows hold six digits of a score. One that equals the threshold to these keeps its verdict if that was its threshold.
    """
    for row in rows:
        if not math.isfinite(row.score):
            scoreless = dataclasses.replace(row, gone="not saved", why="it has no score")
            yield Again(scoreless, None, math.nan, threshold, None)
        elif row.score == threshold == row.threshold and row.verdict in DECIDED:
            yield Again(row, row.verdict, row.score, threshold, None)
        else:
            yield Again(row, decide_at(threshold, row.score), row.score, threshold, None)


def decide_at(threshold: float, score: float) -> Verdict:
    """NG if and only if score > threshold; ERROR if it is not finite."""
    if not math.isfinite(score):
        return Verdict.ERROR
    return Verdict.NG if score > threshold else Verdict.OK


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
        missing=tuple(a for a in rows if a.verdict is None and a.recorded.gone == "missing"),
        failed=tuple(a for a in rows if a.verdict is Verdict.ERROR),
    )


def _prepared(row: Recorded, judge: Judge) -> Prepared | str:
    """The picture fitted to the model, or why not."""
    try:
        return judge.detector.prepare(judge.read(row))
    except ImageError as e:
        return str(e)


def _again(row: Recorded, decoded: Future[Prepared | str] | None, judge: Judge) -> Again:
    if decoded is None:
        return Again(row, None, math.nan, judge.limit, None)
    prepared = decoded.result()
    if isinstance(prepared, str):
        return Again(row, Verdict.ERROR, math.nan, judge.limit, prepared)
    (result,) = judge.detector.judge([prepared])
    result = judge.settle(result)
    return Again(row, result.verdict, result.score, judge.limit, result.error)


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
        difference=(float(low), float(middle), float(high)),
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
