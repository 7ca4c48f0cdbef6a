"""How much memory the pictures of a run may take between reading and writing: a bound in bytes, whatever their size."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from vtad_runtime.contract.image import ImageError, pixels_in

LIMIT_BYTES = 2**30
DECODING = 8  # bytes a pixel while a file is decoded: Pillow's own picture, turned upright, or beside it as RGB
POLL_S = 0.1  # how soon who waits sees that it should give up


class Room:
    """Pictures are held by the name of their file, or by their number, until they are written. Thread-safe.

    A picture that is larger than the bound has room when it is the only one.
    """

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        """`limit`: bytes that are held at once."""
        self._limit = limit
        self._changed = threading.Condition()
        self._held: dict[str | int, int] = {}  # bytes

    def wait(self, size: int, give_up: Callable[[], bool]) -> bool:
        """Wait until `size` more bytes have room; False when `give_up()` comes first."""
        with self._changed:
            while self._held and sum(self._held.values()) + size > self._limit:
                if give_up():
                    return False
                self._changed.wait(POLL_S)
        return True

    def hold(self, picture: str | int, size: int) -> None:
        """Count a picture, from now on with so many bytes."""
        with self._changed:
            self._held[picture] = size
            self._changed.notify_all()

    def leave(self, picture: str | int) -> None:
        """A picture is written, or was never held."""
        with self._changed:
            if self._held.pop(picture, None) is not None:
                self._changed.notify_all()


def decoding_bytes(path: Path) -> int:
    """What a file takes while it is decoded, by its header; 0 where that cannot be read, nor the file."""
    try:
        return DECODING * pixels_in(path)
    except ImageError:
        return 0
