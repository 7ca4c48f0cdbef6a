"""Picture files as frames; those of a folder are read ahead by several threads, and judged there where the model has callers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from vtad_runtime.contract.errors import why
from vtad_runtime.contract.image import read_picture
from vtad_runtime.sources.capture import Shot, as_frame
from vtad_runtime.sources.room import Room, decoding_bytes
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judgement import Frame, Unusable


class FolderFrames:
    """The frames of files, in their order; none is dropped. Use as a context manager."""

    def __init__(
        self,
        files: Sequence[Path],
        full_scale: int,
        geometry: Geometry,
        prepare: Callable[[Frame], Frame],
        ahead: int,
        room: Room,
        threads: int,
    ) -> None:
        """`full_scale` is white in 16 bits. `prepare` is done to each frame in the `threads` that decode.

        `ahead` files are decoded before they are asked for, none before it has `room`, where whoever writes it lets it leave.
        """
        self.last_number = self.last_read = 0  # of the last frame handed on
        self._full_scale, self._geometry, self._prepare, self._room = full_scale, geometry, prepare, room
        self._stopping, self._last_held = Event(), Event()
        self._last_held.set()
        self._ahead = ahead + threads
        self._files = enumerate(files, start=1)
        self._left = len(files)
        self._pool = ThreadPoolExecutor(threads, "vtad-decode")
        self._window: deque[Future[Frame | Unusable]] = deque()

    def start(self) -> None:
        """Nothing: files are decoded as they are asked for."""

    def __enter__(self) -> FolderFrames:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def stop(self) -> None:
        """Begin no further file."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Wait for those that were begun. May be called twice."""
        self.stop()
        self._pool.shutdown()

    def next(self, timeout_s: float) -> Frame | Unusable | None:
        """The next frame, waiting at most `timeout_s`; None when there is none yet. Raises what went wrong in a thread."""
        while len(self._window) < self._ahead and (item := next(self._files, None)) is not None:
            before, self._last_held = self._last_held, Event()
            self._window.append(self._pool.submit(self._decode, *item, before, self._last_held))
        if not wait([self._window[0]], timeout_s).done:
            return None
        frame = self._window.popleft().result()
        self._left -= 1
        self.last_number = self.last_read = frame.number
        return frame

    @property
    def ended(self) -> bool:
        """Whether every frame was taken."""
        return self._left == 0

    def gone(self) -> str | None:
        """None: files are never gone for a while."""
        return None

    def _decode(self, number: int, path: Path, before: Event, held: Event) -> Frame | Unusable:
        try:
            before.wait()  # in their order, for the first is written first and makes room for the next
            there_is = hold(path, self._room, self._stopping.is_set)
        finally:
            held.set()
        start = time.monotonic()
        if not there_is:  # nobody takes it any more
            return Unusable(number, time.time(), start, 0.0, 0, "stopped before it was read", path.as_posix())
        frame = as_frame(number, read_held(path, self._full_scale, self._room), self._geometry, start, start)
        return self._prepare(frame) if isinstance(frame, Frame) else frame


def hold(path: Path, room: Room, stop: Callable[[], bool]) -> bool:
    """Wait until a file may be decoded, and hold room for that; False where `stop()` comes first."""
    size = decoding_bytes(path)
    if not room.wait(size, stop):
        return False
    room.hold(path.as_posix(), size)
    return True


def read_held(path: Path, full_scale: int, room: Room) -> Shot:
    """One file that was held; from now on with the bytes of its pixels."""
    shot = read_shot(path, full_scale)
    room.hold(path.as_posix(), 0 if shot.rgb is None else shot.rgb.nbytes)
    return shot


def read_shot(path: Path, full_scale: int, refuse: Callable[[Exception], None] = lambda _: None) -> Shot:
    """One file, `full_scale` being white in 16 bits; an unreadable one has an error, unless `refuse` raises another for it."""
    start = time.monotonic()
    try:
        picture = read_picture(path, full_scale)
        return Shot(picture.rgb, path.as_posix(), start, doubt=picture.doubt)
    except Exception as e:  # ImageError as a rule
        refuse(e)
        return Shot(None, path.as_posix(), start, error=why(e))
