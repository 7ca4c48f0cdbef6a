"""Picture files as frames; those of a folder are decoded ahead by several threads."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from vtad_runtime.contract.errors import why
from vtad_runtime.contract.image import read_picture
from vtad_runtime.sources.capture import Shot, as_frame
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
    ) -> None:
        """`full_scale` is white in 16 bits. `prepare` is done to each frame in the decoding threads.

        `ahead` files are decoded before they are asked for.
        """
        self.last_number = 0  # of the last frame handed on
        self._full_scale, self._geometry, self._prepare = full_scale, geometry, prepare
        threads = min(max((os.cpu_count() or 1) // 2, 1), 4)
        self._ahead = ahead + threads
        self._files = enumerate(files, start=1)
        self._left = len(files)
        self._pool = ThreadPoolExecutor(threads, "vtad-decode")
        self._window: deque[Future[Frame | Unusable]] = deque()

    def __enter__(self) -> FolderFrames:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def next(self, timeout_s: float) -> Frame | Unusable | None:
        """The next frame, waiting at most `timeout_s`; None when there is none yet. Raises what went wrong in a thread."""
        while len(self._window) < self._ahead and (item := next(self._files, None)) is not None:
            self._window.append(self._pool.submit(self._decode, *item))
        with suppress(TimeoutError):
            frame = self._window[0].result(timeout_s)
            self._window.popleft()
            self._left -= 1
            self.last_number = frame.number
            return frame
        return None

    @property
    def ended(self) -> bool:
        """Whether every frame was taken."""
        return self._left == 0

    def gone(self) -> str | None:
        """None: files are never gone for a while."""
        return None

    def _decode(self, number: int, path: Path) -> Frame | Unusable:
        start = time.monotonic()
        frame = as_frame(number, read_shot(path, self._full_scale), self._geometry, start, start)
        return self._prepare(frame) if isinstance(frame, Frame) else frame


def read_shot(path: Path, full_scale: int) -> Shot:
    """One file, `full_scale` being white in 16 bits; an unreadable one has an error."""
    start = time.monotonic()
    try:
        picture = read_picture(path, full_scale)
        return Shot(picture.rgb, path.as_posix(), start, doubt=picture.doubt)
    except Exception as e:  # ImageError as a rule
        return Shot(None, path.as_posix(), start, error=why(e))
