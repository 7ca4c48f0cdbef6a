"""Counts and times of a run: the table at its end and summary.json."""

from __future__ import annotations

import time
from collections import Counter, deque
from statistics import median
from typing import Any

from vtad_runtime.outputs.results_folder import Row
from vtad_runtime.verdict.judgement import Judgement
from vtad_runtime.verdict.verdict import Verdict

STAGES = ("capture", "queue_age", "prepare", "infer")
MAX_GROUPS = 25  # with more folders than this, they are counted by their top-level folder


class Summary:
    """Adds up rows. It counts verdicts; whether they are right it cannot know."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[Verdict]] = {}
        self._times: dict[str, list[float]] = {"decode": [], "infer": [], "write": []}

    def add(self, row: Row) -> None:
        """Count one row."""
        self._counts.setdefault(row.group, Counter())[row.verdict] += 1
        self._times["decode"].append(row.decode_ms)
        self._times["write"].append(row.write_ms)
        if row.infer_ms:
            self._times["infer"].append(row.infer_ms)

    @property
    def total(self) -> Counter[Verdict]:
        """How often each verdict was given."""
        return sum(self._counts.values(), Counter())

    @property
    def groups(self) -> dict[str, Counter[Verdict]]:
        """Verdicts by folder below the source; by its top-level folders when there are more than 25."""
        if len(self._counts) <= MAX_GROUPS:
            return self._counts
        merged: dict[str, Counter[Verdict]] = {}
        for group, counts in self._counts.items():
            merged.setdefault(group.split("/")[0], Counter()).update(counts)
        return merged

    def median_ms(self) -> dict[str, float]:
        """Median milliseconds per file by stage; stages without a file are left out."""
        return {stage: round(median(times), 2) for stage, times in self._times.items() if times}

    def table(self, seconds: float) -> str:
        """The lines shown at the end of a run that took `seconds`."""
        shown = [v for v in Verdict if self.total[v] or v in (Verdict.OK, Verdict.NG)]
        rows = [(group or ".", counts) for group, counts in self.groups.items()]
        if len(rows) != 1:
            rows.append(("all", self.total))
        width = max([len(name) for name, _ in rows] + [6])
        lines = [f"{'folder':<{width}}" + "".join(f"{v:>8}" for v in shown)]
        lines += [f"{name:<{width}}" + "".join(f"{counts[v]:>8}" for v in shown) for name, counts in rows]
        times = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in self.median_ms().items())
        files = self.total.total()
        lines.append(
            f"{files} files in {seconds:.1f} s, {files / max(seconds, 1e-9):.1f} images/s; median {times or '-'}"
        )
        return "\n".join(lines)

    def to_dict(self, seconds: float) -> dict[str, Any]:
        """The same for summary.json."""
        return {
            "files": self.total.total(),
            "seconds": round(seconds, 3),
            "verdicts": {str(v): n for v, n in self.total.items()},
            "folders": {g or ".": {str(v): n for v, n in counts.items()} for g, counts in self.groups.items()},
            "median_ms": self.median_ms(),
        }


class LiveSummary:
    """An output that counts the judgements of a live run. Bounded: times are those of the last thousand frames."""

    def __init__(self) -> None:
        self.total: Counter[Verdict] = Counter()
        self.rows = self.frames = self.dropped = 0
        self.worst_queue_age_ms = 0.0
        self._times: dict[str, deque[float]] = {stage: deque(maxlen=1000) for stage in STAGES}
        self._start = time.monotonic()

    def write(self, judgement: Judgement) -> None:
        """Count one judgement."""
        self.rows += 1
        self.total[judgement.verdict] += 1
        self.dropped += judgement.dropped
        if judgement.result is None:
            return
        self.frames += 1
        self.worst_queue_age_ms = max(self.worst_queue_age_ms, judgement.queue_age_ms)
        for stage, times in self._times.items():
            times.append(getattr(judgement, f"{stage}_ms"))

    def close(self) -> None:
        """Nothing is held open."""

    def line(self) -> str:
        """What is said at the end."""
        seconds = time.monotonic() - self._start
        verdicts = ", ".join(f"{v} {self.total[v]}" for v in Verdict if self.total[v]) or "no verdicts"
        times = ", ".join(f"{stage} {median(t):.1f} ms" for stage, t in self._times.items() if t)
        return (
            f"{self.frames} frames judged in {seconds:.1f} s, {self.frames / max(seconds, 1e-9):.1f} a second: {verdicts}; "
            f"{self.dropped} dropped; median {times or '-'}; oldest {self.worst_queue_age_ms:.0f} ms"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same for summary.json."""
        return {
            "rows": self.rows,
            "frames": self.frames,
            "dropped": self.dropped,
            "seconds": round(time.monotonic() - self._start, 3),
            "verdicts": {str(v): n for v, n in self.total.items()},
            "median_ms": {stage: round(median(t), 2) for stage, t in self._times.items() if t},
            "worst_queue_age_ms": round(self.worst_queue_age_ms, 1),
        }
