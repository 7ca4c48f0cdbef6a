"""Judges a source as its frames come: capture in one thread, inference in this one, writing in a third.

Between them are bounded queues. Capture never waits for the others unless nothing may be dropped (capture.py). When
writing is slower than inference, inference waits, frames are dropped at capture, and every drop is counted in the next row.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from vtad_runtime.contract.image import ImageError
from vtad_runtime.sources.capture import Capture, Unusable
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.verdict.alarm import Alarm
from vtad_runtime.verdict.detector import Detector, Prepared, Result
from vtad_runtime.verdict.frame_check import FrameChecks
from vtad_runtime.verdict.judgement import Frame, Judgement, Output
from vtad_runtime.verdict.mask import Mask
from vtad_runtime.verdict.verdict import Verdict, settle

POLL_S = 0.1  # how soon a signal is answered while no frame comes
GONE_EVERY_S = 3.0  # between two ERROR rows while the source is gone
WRITE_QUEUE = 8  # judgements that wait to be written, each with its frame


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a verdict rests on besides the score and the card."""

    max_age_s: float | None = None  # a frame whose result comes later than this after its capture is STALE
    unsure_from: float | None = None  # scores above it are UNSURE, up to the threshold
    checks: FrameChecks | None = None
    alarm: Alarm | None = None
    mask: Mask | None = None


class Judge:
    """Turns the frames of one source, in order, into judgements."""

    def __init__(self, name: str, detector: Detector, rules: Rules) -> None:
        """`name` is the source's."""
        self._name, self._detector, self._rules = name, detector, rules
        self._threshold = detector.card.calibration.threshold

    def judge(self, frame: Frame | Unusable) -> Judgement:
        """The judgement on the next frame. Raises ModelError."""
        if isinstance(frame, Unusable):
            return self._unjudged(frame, frame.reason, frame.path)
        start = time.monotonic()
        try:
            prepared = self._detector.prepare(frame.rgb)
        except ImageError as e:
            return dataclasses.replace(self._unjudged(frame, str(e), frame.path), frame=frame)
        doubt = self._doubt(frame, prepared)
        ready = time.monotonic()
        result = self._detector.judge([prepared])[0]
        if self._rules.mask is not None:
            result = self._rules.mask.apply(result)
        done = time.monotonic()
        verdict, reason = settle(
            result.verdict,
            result.score,
            late=self._late(done - frame.captured),
            doubt=doubt,
            unsure_from=self._rules.unsure_from,
        )
        return Judgement(
            source=self._name,
            number=frame.number,
            captured_at=frame.captured_at,
            verdict=verdict,
            reason=reason or result.error,
            alarm=self._alarm(verdict, result),
            threshold=self._threshold,
            frame=frame,
            result=dataclasses.replace(result, verdict=verdict),
            dropped=frame.dropped,
            queue_age_ms=1000 * (start - frame.captured),
            capture_ms=frame.capture_ms,
            prepare_ms=1000 * (ready - start),
            infer_ms=1000 * (done - ready),
        )

    def gone(self, number: int, reason: str) -> Judgement:
        """The news that the source gives no frames; `number` is that of the last one."""
        return Judgement(
            source=self._name,
            number=number,
            captured_at=time.time(),
            verdict=Verdict.ERROR,
            reason=reason,
            alarm=self._alarm(Verdict.ERROR, None),
            threshold=self._threshold,
            frame=None,
            result=None,
        )

    def _unjudged(self, frame: Frame | Unusable, reason: str, path: str | None) -> Judgement:
        return dataclasses.replace(
            self.gone(frame.number, reason),
            captured_at=frame.captured_at,
            dropped=frame.dropped,
            queue_age_ms=1000 * (time.monotonic() - frame.captured),
            capture_ms=frame.capture_ms,
            file=path,
        )

    def _doubt(self, frame: Frame, prepared: Prepared) -> str | None:
        if self._rules.checks is None:
            return None
        fitted = prepared.pixels[:, *prepared.placement.inside.slices]  # (3, h, w), without padding
        return self._rules.checks.look(frame.rgb, fitted.transpose(1, 2, 0), frame.captured)

    def _late(self, age_s: float) -> str | None:
        limit = self._rules.max_age_s
        if limit is None or age_s <= limit:
            return None
        return f"judged {1000 * age_s:.0f} ms after its capture, at most {1000 * limit:.0f} ms are allowed"

    def _alarm(self, verdict: Verdict, result: Result | None) -> bool | None:
        alarm = self._rules.alarm
        if alarm is None:
            return None
        return alarm.add(verdict, result.score) if result is not None else alarm.on


class Writer:
    """Hands judgements to the outputs in a thread of its own, in order. Use as a context manager."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        """The outputs are closed at the end, in this order, also after a failure."""
        self._outputs = outputs
        self._waiting: queue.Queue[Judgement | None] = queue.Queue(WRITE_QUEUE)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="vtad-write", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if error is None:
            self.check()

    def put(self, judgement: Judgement) -> None:
        """Queue one judgement; waits while the queue is full. Raises what an output raised before."""
        self.check()
        self._waiting.put(judgement)

    def check(self) -> None:
        """Raise what an output raised, if one did."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (judgement := self._waiting.get()) is not None:
            if self._failure is not None:
                continue  # taken out only, so that `put` never waits for ever
            try:
                for output in self._outputs:
                    output.write(judgement)
            except Exception as e:  # the main thread tells it
                self._failure = e
        for output in self._outputs:
            try:
                output.close()
            except Exception as e:
                self._failure = self._failure or e


def judge_source(
    capture: Capture,
    judge: Judge,
    writer: Writer,
    stop: Callable[[], bool],
    max_frames: int | None = None,
    every_turn: Sequence[Callable[[], None]] = (),
) -> None:
    """Judge frame after frame until the source ends, `stop()`, or `max_frames` rows.

    While a live source is gone an ERROR judgement is written at once and again every three seconds. `every_turn` is
    called between frames, at least ten times a second. Raises SourceError when the first frame does not fit what was asked
    for (--roi, --roi-mask), ModelError, and what an output raised.
    """
    rows, said_gone = 0, -GONE_EVERY_S
    while not stop() and not capture.ended and rows != max_frames:
        writer.check()
        for act in every_turn:
            act()
        frame = capture.next(POLL_S)
        if frame is not None:
            judgement = judge.judge(frame)
            if rows == 0 and frame.path is None and (judgement.reason or "").startswith("--roi"):
                raise SourceError(judgement.reason)
            writer.put(judgement)
            rows, said_gone = rows + 1, -GONE_EVERY_S
            continue
        reason, now = capture.gone(), time.monotonic()
        if reason is None:
            said_gone = -GONE_EVERY_S
        elif now - said_gone >= GONE_EVERY_S:
            writer.put(judge.gone(capture.last_number, reason))
            said_gone = now
