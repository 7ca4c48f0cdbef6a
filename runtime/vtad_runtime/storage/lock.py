"""A lock file: as long as it is held, no other process (and no other object of this one) can hold it.

The operating system frees it when the process ends, however it ends; the file itself stays. Where there is no fcntl
(Windows), nothing is locked and `LOCKS` is False.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCKS = sys.platform != "win32"


class Locked(OSError):
    """The lock is held by somebody else. The message names the process."""


class Lock:
    """Held from construction until `close`."""

    def __init__(self, path: Path) -> None:
        """Take the lock, making the file if there is none. Raises Locked, or OSError where it cannot be made."""
        self._file = path.open("a+b", buffering=0)
        try:
            self._take(path)
        except OSError:
            self._file.close()
            raise

    def _take(self, path: Path) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.seek(0)
            owner = self._file.read(20).decode("ascii", "replace").strip()
            raise Locked(f"{path} is held by process {owner or 'unknown'}") from e
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode())

    def close(self) -> None:
        """Free the lock."""
        self._file.close()
