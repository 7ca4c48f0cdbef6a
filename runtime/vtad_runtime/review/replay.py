"""Judges recorded pictures again, by another model or another threshold: how a new model earns its trust.

The pictures are cut, turned and masked as the recorded run did, and judged by its rules. What takes several frames (a frozen
picture, focus against earlier frames, age, the alarm) is left out: not every frame was kept.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.threshold.conformal import review_level
from vtad_runtime.review.comparison import DECIDED, Again
from vtad_runtime.review.recorded import Recorded, Run
from vtad_runtime.sources.capture import as_frame
from vtad_runtime.sources.files import read_shot
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement, Unusable
from vtad_runtime.verdict.mask import Mask
from vtad_runtime.verdict.verdict import conclude

DECODERS = 2  # threads that decode ahead
AHEAD = 8  # pictures decoded ahead


class Rejudge:
    """The new model, seeing of each picture what the recorded one saw, under the rules of the recorded run."""

    def __init__(self, run: Run, detector: Detector, threshold: float | None) -> None:
        """`threshold` in place of that on the card. Raises VtadError: the run's mask is not what it was."""
        self.detector, self._geometry, self._rules = detector, Geometry(), Rules(threshold)
        if (how := run.how) is not None:
            self._geometry, mask = how.geometry, None
            if how.roi_mask is not None:
                mask = Mask(Path(how.roi_mask.file), how.geometry, detector.card)
                if mask.sha256 != how.roi_mask.sha256:
                    raise VtadError(
                        f"{mask.path}: expected the mask of the run, SHA-256 {how.roi_mask.sha256[:12]}..., got one that was "
                        "changed since; put that one back"
                    )
            checks = frozenset(how.frame_check) - {"frozen"}
            unsure_from = how.unsure_from
            if how.review is not None:  # a share of good pictures is another score of another model
                unsure_from = review_level(detector.card.calibration, how.review)
            self._rules = Rules(threshold, unsure_from, checks=checks, mask=mask)
        self.threshold = self._judge().threshold  # NG if and only if the score is above it

    def frame(self, row: Recorded) -> Frame | Unusable:
        """The picture of a row as it was judged, fitted to the model; in any thread."""
        if row.picture is None:
            return Unusable(0, 0.0, 0.0, 0.0, 0, row.why)
        now, geometry = time.monotonic(), self._geometry if row.whole else Geometry()
        frame = as_frame(0, read_shot(row.picture, self.detector.card.input.full_scale), geometry, now, now)
        return self._judge().prepare(frame) if isinstance(frame, Frame) else frame

    def judge(self, frame: Frame | Unusable) -> Judgement:
        """What is said about it now. Raises ModelError."""
        return self._judge().judge([frame])[0]

    def _judge(self) -> Judge:
        return Judge("replay", self.detector, self._rules)  # a new one, that remembers no earlier frame


def rejudge(rows: Sequence[Recorded], by: Rejudge, stop: Callable[[], bool] = lambda: False) -> Iterator[Again]:
    """Judge the picture of each row again; in order.

    Once `stop()` is true no further picture is begun. Raises ModelError.
    """
    with ThreadPoolExecutor(DECODERS, "vtad-decode") as pool:
        window: deque[tuple[Recorded, Future[Frame | Unusable] | None]] = deque()
        try:
            for row in rows:
                if stop():
                    break
                window.append((row, pool.submit(by.frame, row) if row.picture else None))
                if len(window) > AHEAD:
                    yield _again(*window.popleft(), by)
            while window:
                yield _again(*window.popleft(), by)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def rescore(run: Run, threshold: float) -> Iterator[Again]:
    """Hold the recorded scores against another threshold; no picture is needed.

    Rows hold six digits of a score. One that equals the threshold to these keeps its verdict if that was its threshold.
    """
    unsure_from = run.how.unsure_from if run.how else None
    for row in run.rows:
        if not math.isfinite(row.score):
            scoreless = dataclasses.replace(row, gone="not saved", why="it has no score")
            yield Again(scoreless, None, math.nan, threshold, None)
        elif row.score == threshold == row.threshold and row.verdict in DECIDED:
            yield Again(row, row.verdict, row.score, threshold, None)
        else:
            verdict, reason = conclude(row.score, threshold, unsure_from=unsure_from)
            yield Again(row, verdict, row.score, threshold, reason)


def _again(row: Recorded, decoded: Future[Frame | Unusable] | None, by: Rejudge) -> Again:
    if decoded is None:
        return Again(row, None, math.nan, by.threshold, None)
    judgement = by.judge(decoded.result())
    return Again(row, judgement.verdict, judgement.score, by.threshold, judgement.reason)
