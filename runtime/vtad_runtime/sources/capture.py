"""Frames of any source, read in a thread of their own into a bounded queue; a lost camera or stream is opened again.

The thread never waits for inference unless nothing may be dropped: by default the newest frame of a live source wins.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.errors import VtadError, one_line, why
from vtad_runtime.contract.image import ImageError
from vtad_runtime.contract.log import event, warning
from vtad_runtime.sources.room import Room
from vtad_runtime.verdict.geometry import Geometry, Misfit
from vtad_runtime.verdict.judgement import Frame, Unusable

Drop = Literal["oldest", "newest", "none"]

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # between attempts to open a lost source again; doubles each time
SILENT_S = 3.0  # a live source that gives no frame for so long counts as gone, whatever its driver says
FRESH_S = 1.0  # so long may pass between opening a live source and reading it
FIRST_FRAME_S = 10.0  # cameras take longer to give the first one
JOIN_S = 4.0  # a driver may hang in a read; then its thread is left behind


class SourceLost(VtadError):
    """A live source that gives no further frame. One line."""


@dataclass(frozen=True, eq=False)
class Shot:
    """What one read of a source gives."""

    rgb: NDArray[np.uint8] | None  # (H, W, 3); None when this one cannot be used
    path: str | None = None  # of the file, where it is one
    captured: float | None = None  # time.monotonic() at which the pixels were there; None: when the read returned
    media_s: float | None = None  # its place in a recording, seconds; None: what the clock says
    error: str | None = None  # why there are no pixels
    doubt: str | None = None  # why they are not to be trusted


class FrameSource(Protocol):
    """Anything that gives frames: a camera, a video, a stream, a hot folder, a fake one. Used by one thread at a time."""

    def read(self, stop: Callable[[], bool]) -> Shot | None:
        """Wait for the next frame; None at the end, or when `stop()`. Raises SourceLost."""

    def close(self) -> None:
        """Free the device. By default there is none."""
        return


@dataclass(frozen=True)
class CaptureOptions:
    """Which frames are handed on."""

    drop: Drop = "oldest"  # when the queue is full: the oldest one in it, the new one, or none (the source waits)
    queue: int = 1  # frames that wait for inference, at most
    every_s: float | None = None  # hand on at most one frame per so many seconds; the others are skipped, not dropped
    geometry: Geometry = field(default_factory=Geometry)
    room: Room = field(default_factory=Room)  # of the frames that are on their way; whoever writes them lets them leave


class Capture:
    """Reads one source in a thread. Use as a context manager."""

    def __init__(
        self, name: str, source: FrameSource, options: CaptureOptions, reopen: Callable[[], FrameSource] | None = None
    ) -> None:
        """`source` is open already and is closed by the thread. `reopen` makes it a live one: called when it is lost."""
        self.name = name
        self.last_number = 0  # of the newest frame handed on
        self._source: FrameSource | None = source
        self._opened = time.monotonic()
        self._options, self._reopen = options, reopen
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Frame | Unusable]] = deque()  # frames dropped before it, and the frame
        self._dropped = 0  # since the last frame that was put into the queue
        self.last_read = 0  # of the newest one that the source gave
        self._due: float | None = None  # of the next frame that --every takes
        self._wait_s = FIRST_WAIT_S
        self._lost: str | None = None  # why, while it is being opened again
        self._silent = False
        self._seen = math.inf  # time.monotonic() of the last frame
        self._ended = False
        self._failure: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vtad-capture", daemon=True)

    def start(self) -> None:
        """Begin to read. What a live source sent since it was opened may be old, so it is opened again after a while.

        Raises SourceError: it does not open any more.
        """
        if self._reopen is not None and self._source is not None and time.monotonic() - self._opened > FRESH_S:
            self._source.close()
            self._source = None
            self._source = self._reopen()
        self._seen = time.monotonic() + FIRST_FRAME_S - SILENT_S
        self._thread.start()

    def __enter__(self) -> Capture:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def stop(self) -> None:
        """Ask the thread to stop reading."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop reading, wait for the thread. The frames not taken yet are let go. May be called twice, and before the start."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)
        elif self._thread.ident is None and self._source is not None:  # never started
            self._source.close()

    def next(self, timeout_s: float) -> Frame | Unusable | None:
        """The next frame in order, waiting at most `timeout_s`; None when there was none. Raises what broke the thread."""
        until = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended, timeout_s)
            if not self._waiting:
                if self._failure is not None:
                    raise self._failure
                return None
            size = _bytes(self._waiting[0][1])
        waits_here = self._options.drop != "none"  # else the thread has waited
        if waits_here and not self._options.room.wait(size, lambda: time.monotonic() >= until):
            return None  # a newer one may take its place meanwhile
        with self._changed:
            dropped, frame = self._waiting.popleft()
            self._changed.notify_all()
        if waits_here:
            self._options.room.hold(frame.number, _bytes(frame))
        self.last_number = frame.number
        return dataclasses.replace(frame, dropped=dropped) if dropped else frame

    @property
    def ended(self) -> bool:
        """Whether the source has ended and every frame of it was taken."""
        with self._changed:
            return self._ended and not self._waiting and self._failure is None

    def gone(self) -> str | None:
        """Why a live source gives no frames just now; None while it does. A finite source is never gone."""
        if self._reopen is None:
            return None
        with self._changed:
            if self._lost is not None:
                return self._lost
            seconds = time.monotonic() - self._seen
            if seconds < SILENT_S or self._ended:
                return None
            reason = f"no frame for {seconds:.0f} s"
            first, self._silent = not self._silent, True
        if first:
            warning("source_lost", f"{self.name}: {reason}", source=self.name, reason=reason)
        return reason

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self._step():
                pass
        except Exception as e:  # whatever it is, the waiting thread must hear of it
            self._failure = e
        self._let_go()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _step(self) -> bool:
        """Read one frame and hand it on, or open the source again; False at the end."""
        if self._source is None:
            return self._open_again()
        start = time.monotonic()
        try:
            shot = self._source.read(self._stopping.is_set)
        except Exception as e:  # a driver may raise anything
            if self._reopen is None:
                raise
            self._lose(one_line(e))
            return True
        if shot is None:
            if self._reopen is None or self._stopping.is_set():
                return False
            self._lose("no further frame")
            return True
        self._take(shot, start)
        return True

    def _take(self, shot: Shot, start: float) -> None:
        arrived = time.monotonic()
        captured = arrived if shot.captured is None else shot.captured
        self._back(arrived)
        self.last_read += 1
        if not self._is_due(captured if shot.media_s is None else shot.media_s):
            return
        begun = start if shot.captured is None else captured
        frame, room = as_frame(self.last_read, shot, self._options.geometry, begun, captured), self._options.room
        if self._options.drop == "none" and frame.path is None:  # a hot folder holds its files itself
            room.wait(_bytes(frame), self._stopping.is_set)
            room.hold(frame.number, _bytes(frame))
        self._put(frame)

    def _is_due(self, now: float) -> bool:
        every = self._options.every_s
        if every is None:
            return True
        if self._due is None or now > self._due + every or now < self._due - 2 * every:  # late, or the clock was reset
            self._due = now
        if now < self._due - 1e-6:
            return False
        self._due += every
        return True

    def _put(self, frame: Frame | Unusable) -> None:
        with self._changed:
            if len(self._waiting) >= self._options.queue:
                if self._options.drop == "newest":
                    self._dropped += 1
                    return
                if self._options.drop == "oldest":
                    before, _ = self._waiting.popleft()
                    if self._waiting:  # counted by the frame that follows it
                        following, kept = self._waiting[0]
                        self._waiting[0] = (following + before + 1, kept)
                    else:
                        self._dropped += before + 1
                else:
                    room = self._options.queue
                    self._changed.wait_for(lambda: len(self._waiting) < room or self._stopping.is_set())
            self._waiting.append((self._dropped, frame))
            self._dropped = 0
            self._changed.notify_all()

    def _back(self, now: float) -> None:
        """A frame came: whatever was wrong is over."""
        with self._changed:
            was_gone = self._lost is not None or self._silent
            seconds = now - self._seen
            self._lost, self._silent, self._seen = None, False, now
        self._wait_s = FIRST_WAIT_S
        if was_gone:
            event("source_back", f"{self.name}: frames again after {seconds:.1f} s", source=self.name)

    def _lose(self, reason: str) -> None:
        with self._changed:
            known = self._lost is not None or self._silent
            self._lost, self._silent = reason, False
            self._changed.notify_all()
        name = "source_retry" if known else "source_lost"
        warning(name, f"{self.name}: {reason}; opening it again in {self._wait_s:g} s", source=self.name, reason=reason)
        self._let_go()

    def _let_go(self) -> None:
        source, self._source = self._source, None
        try:
            if source is not None:
                source.close()
        except Exception as e:
            warning("source_close", f"{self.name}: closing failed: {one_line(e)}", source=self.name)

    def _open_again(self) -> bool:
        assert self._reopen is not None
        if self._stopping.wait(self._wait_s):
            return False
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        try:
            self._source = self._reopen()
        except Exception as e:  # SourceError as a rule; a driver may raise anything
            reason = why(e)
            with self._changed:
                self._lost = reason
            said = f"{reason}; opening it again in {self._wait_s:g} s"
            warning("source_retry", said, source=self.name, reason=reason)
        return True


def as_frame(number: int, shot: Shot, geometry: Geometry, begun: float, captured: float) -> Frame | Unusable:
    """A shot, cut and turned; reading began at `begun`, its pixels are of `captured` (monotonic)."""
    rgb, reason, misfit = shot.rgb, shot.error or "no pixels", False
    if rgb is not None:
        try:
            rgb = geometry.apply(_checked(rgb))
        except Exception as e:  # ImageError as a rule
            rgb, reason, misfit = None, why(e), isinstance(e, Misfit)
    done = time.monotonic()
    capture_ms, captured_at = 1000 * (done - begun), time.time() - (done - captured)
    if rgb is None:
        return Unusable(number, captured_at, captured, capture_ms, 0, reason, shot.path, misfit)
    return Frame(number, captured_at, captured, capture_ms, 0, rgb, shot.path, shot.doubt)


def _bytes(frame: Frame | Unusable) -> int:
    return frame.rgb.nbytes if isinstance(frame, Frame) else 0


def _checked(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 or ImageError: a driver may give anything."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.size == 0:
        got = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ImageError(f"expected a frame (H, W, 3) of uint8, got {got}")
    if frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 1):
        return np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ImageError(f"expected a frame (H, W, 3) of uint8, got {frame.shape}")
    return frame
