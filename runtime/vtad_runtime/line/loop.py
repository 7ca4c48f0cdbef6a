"""The loop of every run: frames of a source through the judge to the writer.

Reading has threads of its own (`sources`), the model runs here or, where it has several callers, in those, writing has another
thread. Between them are bounded queues.
Reading never waits for the others unless nothing may be dropped. When writing is slower than the model, the model waits,
frames are dropped at capture, and every drop is counted in the next row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from vtad_runtime.line.silence import Silence
from vtad_runtime.line.writer import Writer
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.verdict.judge import Judge
from vtad_runtime.verdict.judgement import Frame, Unusable

POLL_S = 0.1  # how soon a signal is answered while no frame comes
GONE_EVERY_S = 3.0  # between two ERROR rows while the source is gone


class Frames(Protocol):
    """A source that is being read."""

    last_number: int  # of the newest frame handed on
    last_read: int  # of the newest one that the source gave, handed on or not

    def start(self) -> None:
        """Begin to read. Raises SourceError."""

    def next(self, timeout_s: float) -> Frame | Unusable | None:
        """The next frame in order, waiting at most `timeout_s`; None when there was none. Raises what broke the reading."""

    @property
    def ended(self) -> bool:
        """Whether the source has ended and every frame of it was taken."""

    def gone(self) -> str | None:
        """Why a live source gives no frames just now; None while it does."""


def judge_frames(
    frames: Frames,
    judge: Judge,
    writer: Writer,
    stop: Callable[[], bool],
    *,
    silence: Silence,
    batch: int = 1,
    max_frames: int | None = None,
    every_turn: Sequence[Callable[[], None]] = (),
) -> None:
    """Judge frames, `batch` of them in a run of the model, until the source ends, `stop()`, or `max_frames`.

    While a live source is gone an ERROR judgement is written at once and again every three seconds. `every_turn` is
    called between frames, at least ten times a second. `silence` knows when a judgement is due: while the model runs, and of
    files and videos from one frame to the next. Raises SourceError when the first frame does not fit what was asked
    for (--roi, --roi-mask), ModelError, and what an output raised.
    """
    taken: list[Frame | Unusable] = []
    done, said_gone, read = 0, -GONE_EVERY_S, 0

    def judge_taken() -> None:
        nonlocal done
        with silence.due():
            judged = judge.judge(taken)
        for judgement in judged:
            if done == 0 and judgement.misfit and judgement.file is None:  # files may be of several sizes
                raise SourceError(judgement.reason)
            writer.put(judgement)
            done += 1
        taken.clear()

    while not (stop() or frames.ended or done == max_frames):
        writer.check()
        for act in every_turn:
            act()
        frame = frames.next(POLL_S)
        if frames.last_read != read:  # --every hands on few
            read = frames.last_read
            silence.end()
        if frame is not None:
            said_gone = -GONE_EVERY_S
            taken.append(frame)
            frame = None  # a large one is not to be kept longer than it takes
            if len(taken) == batch or done + len(taken) == max_frames:
                judge_taken()
            continue
        silence.no_frame()
        if taken:  # the rest of the batch is not there yet, or has no room before these are written
            judge_taken()
        reason, now = frames.gone(), time.monotonic()
        if reason is None:
            said_gone = -GONE_EVERY_S
        elif now - said_gone >= GONE_EVERY_S:
            writer.put(judge.gone(frames.last_number, reason))
            said_gone = now
    judge_taken()
