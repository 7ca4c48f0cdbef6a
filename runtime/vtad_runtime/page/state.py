"""What the live page knows: the newest judgement, the scores of the last frames, the last NG pictures, counts per hour.

The writing thread feeds it and never waits: nothing is encoded here, and nothing is queued for anyone. Who looks takes
the newest when ready for it. Everything kept is bounded.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.json_values import finite
from vtad_runtime.drawing.encoding import RGB, PictureError
from vtad_runtime.drawing.shrinking import shrink, shrink_judged
from vtad_runtime.engine.model import Integrity
from vtad_runtime.page.picture import LONGEST
from vtad_runtime.verdict.detector import Result
from vtad_runtime.verdict.explanation import Explanation, Maps
from vtad_runtime.verdict.judgement import Judgement
from vtad_runtime.verdict.verdict import Verdict

POINTS = 600  # scores kept for the chart
LAST_NG = 12  # NG pictures kept, at most 800 pixels a side: 2.2 MB each
LARGE_BYTES = 48 * 2**20  # of a frame that is shrunk before it is kept
HOURS = 24  # hours with counts kept
RATE_S = 60.0  # the rate is that of the last minute
OUTPUTS_S = 1.0  # how long the outputs' states are taken as they were

Outputs = Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True)
class Point:
    """One judgement in the chart."""

    seq: int  # counts judgements, from 1
    at: float  # seconds since the epoch
    arrived: float  # time.monotonic
    score: float  # NaN when not judged
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class KeptPicture:
    """One of the last NG pictures, small enough to keep."""

    seq: int
    number: int  # of the frame
    at: float  # seconds since the epoch
    rgb: RGB  # (h, w, 3), at most 800 pixels a side
    result: Result  # its heatmap and regions are those of `rgb`; it has no other maps


class PageState:
    """Takes judgements (an Output) and answers what to show. Safe to use from several threads."""

    def __init__(
        self,
        card: Card,
        source: str,
        model: str,
        quiet_s: float = 3.0,
        unsure_from: float | None = None,
        integrity: Integrity | None = None,
        oldest_s: float | None = None,
    ) -> None:
        """`source` and `model` as the user named them; after `quiet_s` without a frame no verdict is shown as current.

        `unsure_from`: the score above which a part is UNSURE, if it is not NG. `integrity`: of the model's file, where it is
        known. `oldest_s`: the age from which a frame's verdict is none of the present; None: frames may be of any age.
        """
        self._card, self._source, self._model, self._quiet_s = card, source, model, quiet_s
        self._unsure_from, self._integrity, self._oldest_s = unsure_from, integrity, oldest_s
        self._lock = threading.Lock()
        self.seq = 0  # how many judgements came
        self.closed = False  # whether the run has ended
        self.newest: tuple[int, Judgement] | None = None  # of those with a frame, and its number in the sequence
        self.outputs: Outputs = list  # gives their states to show
        self._dropped = 0
        self._latest: tuple[Judgement, str | None] | None = None  # and the size of its frame as it came
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._ng: deque[KeptPicture] = deque(maxlen=LAST_NG)
        self._hours: dict[int, Counter[Verdict]] = {}  # by seconds since the epoch at which the hour began
        self._totals: Counter[Verdict] = Counter()
        self._outputs_known: tuple[float, list[dict[str, Any]]] = (-math.inf, [])
        self._drift: str | None = None
        self._golden: tuple[str, bool] | None = None

    def write(self, judgement: Judgement) -> None:
        """Take one judgement. A picture is shrunk only if it is NG; nothing is encoded."""
        seq, arrived = self.seq + 1, time.monotonic()  # one thread writes
        small = _shrunk(judgement)
        kept = _keep(seq, judgement)
        hour = int(judgement.captured_at // 3600) * 3600
        with self._lock:
            self.seq, self._latest = seq, (small, _size(judgement))
            self._dropped += judgement.dropped
            if judgement.frame is not None:
                self.newest = (seq, small)
            self._points.append(Point(seq, judgement.captured_at, arrived, judgement.score, judgement.verdict))
            self._totals[judgement.verdict] += 1
            self._hours.setdefault(hour, Counter())[judgement.verdict] += 1
            while len(self._hours) > HOURS:
                del self._hours[min(self._hours)]
            if kept is not None:
                self._ng.append(kept)

    def close(self) -> None:
        """Say that the run has ended; the page shows it instead of the last verdict."""
        self.closed = True

    def set_drift(self, text: str | None) -> None:
        """A warning that scores have drifted from the calibration; None: they have not."""
        self._drift = text

    def set_golden(self, text: str | None, ok: bool = True) -> None:
        """What the last check of the golden samples said, and whether it passed."""
        self._golden = None if text is None else (text, ok)

    def kept(self, seq: str) -> KeptPicture | None:
        """One of the last NG pictures, by its number as a browser writes it."""
        with self._lock:
            return next((k for k in self._ng if str(k.seq) == seq), None)

    def snapshot(self, since: int = 0) -> dict[str, Any]:
        """Everything to show, ready for JSON; of the points only those after `since`. Ages count from now."""
        outputs = self._outputs_now()
        with self._lock:
            now = time.monotonic()
            latest, framed = self._latest, self.newest
            frame = framed[1].frame if framed else None
            return {
                "seq": self.seq,
                "closed": self.closed,
                "now": time.time(),
                "quiet_s": self._quiet_s,
                "oldest_s": self._oldest_s,
                "frame_age_s": finite(now - frame.captured) if frame else None,
                "since_frame_s": finite(now - self._arrival(framed[0])) if framed else None,
                "latest": _latest(*latest) if latest else None,
                "points": [[p.seq, p.at, finite(p.score), str(p.verdict)] for p in self._points if p.seq > since],
                "ng": [
                    {"seq": k.seq, "frame": k.number, "at": k.at, "score": finite(k.result.score)}
                    for k in reversed(self._ng)
                ],
                "totals": _counts(self._totals),
                "hours": [{"start": h, **_counts(self._hours[h])} for h in sorted(self._hours, reverse=True)],
                "dropped": self._dropped,
                "per_s": self._rate(now),
                "outputs": outputs,
                "drift": self._drift,
                "golden": {"text": self._golden[0], "ok": self._golden[1]} if self._golden else None,
            }

    def facts(self) -> dict[str, Any]:
        """What does not change during a run, ready for JSON: source, model and what matters of its card."""
        card, calibration, parity = self._card, self._card.calibration, self._card.parity
        enough = calibration.achievable <= calibration.false_alarms
        vouch = "" if enough else f"; these images vouch for {calibration.achievable:.3g}"
        return {
            "source": self._source,
            "model": self._model,
            "category": card.identity.category,
            "threshold": finite(calibration.threshold),
            "pixel_threshold": finite(calibration.pixel_threshold),
            "points_kept": POINTS,
            "changed": str(self._integrity) if self._integrity and self._integrity.changed else None,
            "card": {
                "category": card.identity.category,
                "created": card.identity.created,
                "vtad version": card.identity.vtad_version,
                "git commit": card.identity.git_commit or "not recorded",
                "input": f"{card.input.width} × {card.input.height} px, {card.input.fit}",
                "threshold": f"{calibration.threshold:.4g}",
                "UNSURE": "by frame checks" if self._unsure_from is None else f"above {self._unsure_from:.4g}",
                "pixel threshold": f"{calibration.pixel_threshold:.3g} standard deviations",
                "false-alarm budget": f"{calibration.false_alarms:.3g}{vouch}",
                "calibration images": str(calibration.images),
                "parity": f"{parity.format} {parity.precision}, {parity.verdict_flips} verdict flips"
                if parity
                else "not proven",
                "training data": card.identity.data_fingerprint,
                "weights sha256": card.weights_sha256,
                "model file": self._model,
                "bytes": str(self._integrity) if self._integrity else "not compared",
            },
        }

    def _arrival(self, seq: int) -> float:
        """When the judgement came, by time.monotonic. Of one that has left the chart: before all that are in it."""
        oldest = self._points[0]
        return self._points[seq - oldest.seq].arrived if seq >= oldest.seq else oldest.arrived

    def _rate(self, now: float) -> float | None:
        """Judgements a second over the last minute."""
        recent = [p.arrived for p in self._points if now - p.arrived <= RATE_S]
        if len(recent) < 2 or recent[-1] == recent[0]:
            return None
        return float(f"{(len(recent) - 1) / (recent[-1] - recent[0]):.3g}")

    def _outputs_now(self) -> list[dict[str, Any]]:
        """The outputs' states, asked for at most once a second. An output that cannot say becomes the thing to show."""
        known_at, known = self._outputs_known
        if time.monotonic() - known_at < OUTPUTS_S:
            return known
        try:
            known = [{str(k): _plain(v) for k, v in state.items()} for state in self.outputs()]
        except Exception as e:  # whatever an output raises must not take the page away
            known = [{"name": "outputs", "last_error": f"no state: {type(e).__name__}: {e}"}]
        self._outputs_known = (time.monotonic(), known)
        return known


def _keep(seq: int, judgement: Judgement) -> KeptPicture | None:
    """An NG picture with its heatmap, without holding on to the full frame or to the other maps of its batch.

    None for another verdict, or where the picture cannot be shrunk.
    """
    if judgement.verdict is not Verdict.NG or judgement.frame is None or judgement.result is None:
        return None
    try:
        rgb, result = shrink_judged(judgement.frame.rgb, judgement.result, LONGEST)
    except PictureError:
        return None
    heat = result.model_heatmap.copy()
    lean = dataclasses.replace(
        result,
        verdict=judgement.verdict,
        threshold=judgement.threshold,
        regions=result.regions[:100],
        model_heatmap=heat,
        explanation=Explanation.of(Maps(heat, heat, np.zeros((0, 0, 3), np.uint8))),
    )
    return KeptPicture(seq, judgement.number, judgement.captured_at, rgb, lean)


def _shrunk(judgement: Judgement) -> Judgement:
    """The judgement, its frame and result shrunk if that is large: the page may keep it for days."""
    frame, result = judgement.frame, judgement.result
    if frame is None or frame.rgb.nbytes <= LARGE_BYTES:
        return judgement
    try:
        if result is None:
            return dataclasses.replace(judgement, frame=dataclasses.replace(frame, rgb=shrink(frame.rgb, LONGEST)))
        rgb, result = shrink_judged(frame.rgb, result, LONGEST)
    except PictureError:
        return dataclasses.replace(judgement, frame=None)
    return dataclasses.replace(judgement, frame=dataclasses.replace(frame, rgb=rgb), result=result)


def _size(judgement: Judgement) -> str | None:
    return f"{judgement.frame.rgb.shape[1]} × {judgement.frame.rgb.shape[0]}" if judgement.frame else None


def _latest(judgement: Judgement, size: str | None) -> dict[str, Any]:
    """A judgement's row, its regions counted only, and the size of its picture."""
    row = judgement.row()
    return {**row, "regions": len(row["regions"]), "at": judgement.captured_at, "size": size}


def _counts(counter: Counter[Verdict]) -> dict[str, int]:
    return {str(v): counter[v] for v in Verdict}


def _plain(value: Any) -> Any:
    return finite(value) if isinstance(value, str | int | float | bool | None) else str(value)
