"""A lock file: as long as it is held, no other process (and no other object of this one) can hold it.

The operating system frees it when the process ends, however it ends; the file itself stays. Where there is no fcntl
(Windows), nothing is locked and `LOCKS` is False.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCKS = sys.platform != "win32"


class Locked(OSError):
    """The lock is held by somebody else. The message names the process."""


FOLDER_LOCK = ".vtad-watch.lock"


def hold_folder(folder: Path) -> Lock | None:
    """A lock for a folder that nobody owns: a file in it, else the folder itself; None where neither can be locked.

    Whoever comes by another path, from another machine or with another folder for results meets the same one. Raises Locked.
    """
    for path in (folder / FOLDER_LOCK, folder):
        try:
            return Lock(path) if folder.is_dir() else None
        except Locked:
            raise
        except OSError:  # a folder that cannot be written to; a file system without locks
            continue
    return None


class Lock:
    """Held from construction until `close`."""

    def __init__(self, path: Path) -> None:
        """Take the lock, making the file if there is none. Raises Locked, or OSError where it cannot be made.

        One that may only be read, and a folder, serve too; they do not say who holds them.
        """
        try:
            self._file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            self._file = os.open(path, os.O_RDONLY)
        try:
            self._take(path)
        except OSError:
            self.close()
            raise

    def _take(self, path: Path) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            owner = b""
            with suppress(OSError):  # a folder; or a share on which a lock keeps others from reading
                owner = os.read(self._file, 20)
            raise Locked(f"{path} is held by process {owner.decode('ascii', 'replace').strip() or 'unknown'}") from e
        with suppress(OSError):  # opened to be read only; or a full disk
            os.ftruncate(self._file, 0)
            os.write(self._file, str(os.getpid()).encode())

    def close(self) -> None:
        """Free the lock. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
