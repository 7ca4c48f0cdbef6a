"""The one judge: frames of a source in, in order, one by one or in batches; judgements out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import cv2

from vtad_runtime.contract.errors import VtadError, why
from vtad_runtime.engine.model import ModelError
from vtad_runtime.verdict.alarm import Alarm, AlarmRule
from vtad_runtime.verdict.detector import Detector, Result, agreeing
from vtad_runtime.verdict.explanation import MapsError
from vtad_runtime.verdict.frame_check import FrameChecks
from vtad_runtime.verdict.geometry import Misfit
from vtad_runtime.verdict.judgement import Ahead, Frame, Judgement, Unusable
from vtad_runtime.verdict.mask import Mask
from vtad_runtime.verdict.verdict import Verdict, conclude


@dataclass(frozen=True)
class Rules:
    """What a verdict rests on besides the score."""

    threshold: float | None = None  # NG if and only if the score is above it; None: the card's
    unsure_from: float | None = None  # scores above it are UNSURE, up to the threshold
    max_age_s: float | None = None  # a frame whose result comes later than this after its capture is STALE
    checks: frozenset[str] = frozenset()  # of frames: frozen, black, saturated, focus
    alarm: AlarmRule | None = None
    mask: Mask | None = None


class _Ready(NamedTuple):
    """A frame that the model can take."""

    frame: Frame
    ahead: Ahead
    doubt: str | None  # why it is not to be trusted
    queue_age_ms: float
    prepare_ms: float


class Judge:
    """Turns the frames of one source into judgements. `prepare` and `gone` may run in any thread, the rest in one."""

    def __init__(self, name: str, detector: Detector, rules: Rules, *, explain: bool = False) -> None:
        """`name` is the source's. `explain`: every picture's maps and reconstruction will be looked at."""
        self._name, self._detector, self._rules, self._explain = name, detector, rules, explain
        self.threshold = detector.card.calibration.threshold if rules.threshold is None else rules.threshold
        self._checks = FrameChecks(rules.checks)
        self._alarm = Alarm(rules.alarm) if rules.alarm is not None else None

    def prepare(self, frame: Frame) -> Frame:
        """The frame with its pixels fitted to the model, and seen by it where that has several callers: work to be done ahead."""
        with suppress(Exception):  # the judge finds the same, and says it
            ahead = self._fitted(frame)
            if self._detector.callers > 1:
                start = time.monotonic()
                (result,) = self._detector.judge([ahead.prepared], explain=self._explain)
                times = 1000 * (start - frame.captured), 1000 * (time.monotonic() - start)
                ahead = Ahead(ahead.prepared, ahead.prepare_ms, result, *times)
            return dataclasses.replace(frame, ahead=ahead)
        return frame

    def judge(self, frames: Sequence[Frame | Unusable]) -> list[Judgement]:
        """The judgements on the next frames, in one run of the model. Raises ModelError.

        A picture that fails for any other reason is ERROR, and the others of its batch are judged without it.
        """
        taken = [self._ready(frame) for frame in frames]
        ready = [item for item in taken if isinstance(item, _Ready)]
        results = iter(self._seen(ready))
        done = time.monotonic()
        said = [self._said(item, *next(results), done) if isinstance(item, _Ready) else item for item in taken]
        if self._alarm is not None:
            said = [dataclasses.replace(j, alarm=self._alarm.add(j.verdict, j.score)) for j in said]
        return said

    def gone(self, number: int, reason: str | None) -> Judgement:
        """The judgement that there is no verdict: no frames, or no answer of the engine; `number` is the last frame's."""
        alarm = None if self._alarm is None else self._alarm.on
        at, changed = time.time(), ", ".join(self._detector.integrity.changed) or None
        return Judgement(
            self._name, number, at, Verdict.ERROR, reason, alarm, self.threshold, None, None, model_changed=changed
        )

    def _ready(self, frame: Frame | Unusable) -> _Ready | Judgement:
        """The frame fitted to the model and looked at, or the judgement where that cannot be."""
        if isinstance(frame, Unusable):
            return dataclasses.replace(self._error(frame, frame.reason), misfit=frame.misfit)
        start = time.monotonic()
        try:
            ahead = frame.ahead or self._fitted(frame)
            before = time.monotonic()
            planes = ahead.prepared.pixels[:, *ahead.prepared.placement.inside.slices]  # (3, h, w), no padding
            doubt = self._checks.look(frame.rgb, cv2.merge(list(planes)), frame.captured) or frame.doubt
        except Exception as e:  # whatever it is, it costs this picture alone
            return dataclasses.replace(self._error(frame, _failed(e)), frame=frame)
        age_ms = 1000 * (start - frame.captured) if ahead.result is None else ahead.queue_age_ms
        return _Ready(frame, ahead, doubt, age_ms, ahead.prepare_ms + 1000 * (time.monotonic() - before))

    def _fitted(self, frame: Frame) -> Ahead:
        """Raises ValueError, ImageError."""
        start = time.monotonic()
        prepared = self._detector.prepare(frame.rgb, frame.doubt)
        return Ahead(prepared, 1000 * (time.monotonic() - start))

    def _seen(self, ready: list[_Ready]) -> list[tuple[Result | str, float]]:
        """What the model says of each, or why that failed, and the milliseconds that it took. Raises ModelError."""
        start = time.monotonic()
        waiting = [item for item in ready if item.ahead.result is None]
        results = iter(self._results(waiting))
        share = 1000 * (time.monotonic() - start) / max(len(waiting), 1)
        ahead = [item.ahead for item in ready]
        return [(next(results), share) if a.result is None else (a.result, a.infer_ms) for a in ahead]

    def _results(self, ready: list[_Ready]) -> Sequence[Result | str]:
        """What the model says of each, or why that failed. Raises ModelError."""
        try:
            return self._detector.judge([item.ahead.prepared for item in ready], explain=self._explain)
        except ModelError:
            raise
        except Exception as e:
            return [_failed(e)] if len(ready) == 1 else [found for item in ready for found in self._results([item])]

    def _said(self, ready: _Ready, result: Result | str, infer_ms: float, done: float) -> Judgement:
        frame, misfit = ready.frame, False
        if isinstance(result, str):
            return dataclasses.replace(self._error(frame, result), frame=dataclasses.replace(frame, ahead=None))
        if self._rules.mask is not None:
            try:
                result = self._rules.mask.apply(result)
            except Exception as e:
                result, misfit = dataclasses.replace(result, error=_failed(e), regions=()), isinstance(e, Misfit)
        verdict, reason = conclude(
            result.score,
            self.threshold,
            error=result.error,
            late=self._late(done - frame.captured),
            doubt=ready.doubt,
            unsure_from=self._rules.unsure_from,
        )
        result = dataclasses.replace(result, verdict=verdict, threshold=self.threshold)
        try:
            result = agreeing(result, self._detector.card.score_rule, self._rules.unsure_from)
        except MapsError as e:
            verdict, reason = Verdict.ERROR, str(e)
            result = dataclasses.replace(result, verdict=verdict, error=reason)
        return dataclasses.replace(
            self._error(frame, reason),
            verdict=verdict,
            frame=dataclasses.replace(frame, ahead=None),
            result=result,
            queue_age_ms=ready.queue_age_ms,
            prepare_ms=ready.prepare_ms,
            infer_ms=infer_ms,
            misfit=misfit,
        )

    def _error(self, frame: Frame | Unusable, reason: str | None) -> Judgement:
        """What is known of a frame before it is judged: an ERROR, until there is a result."""
        return dataclasses.replace(
            self.gone(frame.number, reason),
            captured_at=frame.captured_at,
            dropped=frame.dropped,
            queue_age_ms=1000 * (time.monotonic() - frame.captured),
            capture_ms=frame.capture_ms,
            file=frame.path,
        )

    def _late(self, age_s: float) -> str | None:
        limit = self._rules.max_age_s
        if limit is None or age_s <= limit:
            return None
        return f"judged {1000 * age_s:.0f} ms after its capture, at most {1000 * limit:.0f} ms are allowed"


def _failed(error: Exception) -> str:
    return str(error) if isinstance(error, VtadError) else f"it cannot be judged: {why(error)}"
