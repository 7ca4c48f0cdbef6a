"""Counts and times of a run: what is said at its end, and summary.json. It counts verdicts; if they are right it cannot know."""

from __future__ import annotations

import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from vtad_runtime.verdict.judgement import STAGES, Judgement
from vtad_runtime.verdict.verdict import Verdict

MAX_FOLDERS = 25  # with more folders than this, they are counted by their top-level folder
TIMED = 1000  # frames whose times are kept


class Summary:
    """An output that adds up judgements. Bounded: times are those of the last thousand frames."""

    def __init__(self, root: Path | None = None, results: Path | None = None) -> None:
        """`root`: files are also counted by their folder below this one. `results`: the results folder, if there is one."""
        self.results = results
        self.rows = self.frames = self.dropped = 0
        self.worst_queue_age_ms = 0.0
        self.pictures_left_out = 0  # that were asked for and are not there
        self.unwritten = 0  # of pictures and rows: what a disk or a folder did not take
        self._root = root
        self._counts: dict[str, Counter[Verdict]] = {}
        self._times: dict[str, deque[float]] = {stage: deque(maxlen=TIMED) for stage in STAGES}
        self._start = time.monotonic()
        self._end: float | None = None

    def start(self) -> None:
        """The run begins now; without this it began when this was made."""
        self._start = time.monotonic()

    def write(self, judgement: Judgement) -> None:
        """Count one judgement."""
        self.rows += 1
        self._counts.setdefault(self._folder(judgement), Counter())[judgement.verdict] += 1
        self.dropped += judgement.dropped
        if judgement.result is None:
            return
        self.frames += 1
        self.worst_queue_age_ms = max(self.worst_queue_age_ms, judgement.queue_age_ms)
        for stage, times in self._times.items():
            times.append(getattr(judgement, f"{stage}_ms"))

    def close(self) -> None:
        """The last judgement was counted."""
        self._end = time.monotonic()

    @property
    def verdicts(self) -> Counter[Verdict]:
        """How often each verdict was given."""
        return sum(self._counts.values(), Counter())

    @property
    def folders(self) -> dict[str, Counter[Verdict]]:
        """Verdicts by folder below the root, which is "."; by its top-level folders when there are more than 25."""
        if len(self._counts) <= MAX_FOLDERS:
            return self._counts
        merged: dict[str, Counter[Verdict]] = {}
        for folder, counts in self._counts.items():
            merged.setdefault(folder.split("/")[0], Counter()).update(counts)
        return merged

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return (self._end or time.monotonic()) - self._start

    def median_ms(self) -> dict[str, float]:
        """Median milliseconds of a frame by stage."""
        from statistics import median  # it takes 3 ms, and the end of a run needs it first

        return {stage: round(median(times), 2) for stage, times in self._times.items() if times}

    def line(self) -> str:
        """What is said at the end of a live run."""
        verdicts = ", ".join(f"{v} {n}" for v in Verdict if (n := self.verdicts[v])) or "no verdicts"
        return (
            f"{self.frames} frames judged in {self.seconds:.1f} s, {self._rate(self.frames)} a second: {verdicts}; "
            f"{self.dropped} dropped; {self._medians()}; oldest {self.worst_queue_age_ms:.0f} ms{self._left_out()}"
        )

    def table(self) -> str:
        """The lines shown at the end of a run over a folder."""
        total = self.verdicts
        shown = [v for v in Verdict if total[v] or v in (Verdict.OK, Verdict.NG)]
        rows = list(self.folders.items())
        if len(rows) != 1:
            rows.append(("all", total))
        width = max([len(name) for name, _ in rows] + [6])
        lines = [f"{'folder':<{width}}" + "".join(f"{v:>8}" for v in shown)]
        lines += [f"{name:<{width}}" + "".join(f"{counts[v]:>8}" for v in shown) for name, counts in rows]
        files = "1 file" if self.rows == 1 else f"{self.rows} files"
        took = f"{files} in {self.seconds:.1f} s, {self._rate(self.rows)} images/s"
        lines.append(f"{took}; {self._medians('queue_age')}{self._left_out()}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same for summary.json."""
        return {
            "rows": self.rows,
            "frames": self.frames,
            "dropped": self.dropped,
            "seconds": round(self.seconds, 3),
            "verdicts": dict(self.verdicts),
            "folders": {name: dict(counts) for name, counts in self.folders.items()},
            "median_ms": self.median_ms(),
            "worst_queue_age_ms": round(self.worst_queue_age_ms, 1),
            "pictures_left_out": self.pictures_left_out,
            "unwritten": self.unwritten,
        }

    def _folder(self, judgement: Judgement) -> str:
        if self._root is None or judgement.file is None:
            return "."
        return Path(judgement.file).relative_to(self._root).parent.as_posix()

    def _left_out(self) -> str:
        return f"; {self.pictures_left_out} heatmaps or originals are not saved" if self.pictures_left_out else ""

    def _rate(self, count: int) -> str:
        return f"{count / max(self.seconds, 1e-9):.1f}"

    def _medians(self, without: str = "") -> str:
        times = [f"{stage} {ms:.1f} ms" for stage, ms in self.median_ms().items() if stage != without]
        return f"median {', '.join(times) or '-'}"
