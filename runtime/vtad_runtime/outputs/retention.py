"""How much room saved pictures may take: a limit in bytes, oldest deleted first, and a reserve on the disk.

What counts and what is ever deleted are files in `heatmaps/` and `originals/` of results folders that were written under
a Retention: this run's, and those of earlier runs beside it that have ended. Rows, summaries, results of vtad-run
--folder, other users' files and the pictures of runs that are still going are never touched.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path

from vtad_runtime.contract.disk.lock import LOCKS, Lock
from vtad_runtime.contract.log import warning

PICTURES = ("heatmaps", "originals")
LOCK_FILE = ".pictures.lock"  # in a results folder: a Retention looks after it; held as long as the run goes on
RESERVE_BYTES, RESERVE_SHARE = 10**9, 0.02  # of the disk that stays free: the smaller of both
HYSTERESIS = 1.1  # saving goes on when the reserve is free by this factor, so that it does not flicker


class Retention:
    """Says whether a picture may be saved, and deletes older ones so that it may. For one thread."""

    def __init__(self, folder: Path, keep_bytes: int | None, min_free_bytes: int | None = None) -> None:
        """Look after the pictures in the results folder `folder` of this run, and of ended runs beside it.

        `keep_bytes` bounds their sum (None: no bound); `min_free_bytes` stay free on the disk (None: 1 GB or 2 % of it,
        whichever is less). Raises OSError: `folder` cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._keep = keep_bytes
        self._lock = Lock(folder / LOCK_FILE)
        disk = shutil.disk_usage(folder).total
        self._min_free = round(min(RESERVE_BYTES, RESERVE_SHARE * disk)) if min_free_bytes is None else min_free_bytes
        self._oldest_first: deque[tuple[str, int]] = deque()
        self._total = 0  # bytes
        self._disk_full = False
        self._said: set[str] = set()
        if keep_bytes is not None:
            for _, size, path in sorted(found for run in self._runs() for found in _pictures(run)):
                self._oldest_first.append((path, size))
                self._total += size

    def room_for(self, size: int) -> bool:
        """Whether a picture of `size` bytes may be saved; deletes the oldest ones where the limit asks for it.

        Says so once when the disk becomes too full, and once when saving goes on.
        """
        if not self._disk_has(size):
            return False
        if self._keep is None:
            return True
        while self._total + size > self._keep and self._oldest_first:
            self._delete(*self._oldest_first.popleft())
        if self._total + size > self._keep:
            said = f"{self._folder}: {self._keep} bytes to keep leave no room for a picture of {size} bytes"
            self._once("too small", said)
            return False
        return True

    def added(self, path: Path) -> None:
        """Count a picture that was saved."""
        if self._keep is None:
            return
        size = path.stat().st_size
        self._oldest_first.append((str(path), size))
        self._total += size

    def close(self) -> None:
        """This run has ended: its pictures are now the earlier ones of later runs."""
        self._lock.close()

    def _disk_has(self, size: int) -> bool:
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:  # the folder is gone, or its drive: writing says so
            return True
        needed = self._min_free * (HYSTERESIS if self._disk_full else 1) + size
        full = free < needed
        if full and not self._disk_full:
            warning(
                "pictures",
                f"{self._folder}: {free / 1e9:.2f} GB free, {self._min_free / 1e9:.2f} GB stay free: "
                "pictures are no longer saved; judging goes on",
            )
        elif self._disk_full and not full:
            warning("pictures", f"{self._folder}: {free / 1e9:.2f} GB free: pictures are saved again")
        self._disk_full = full
        return not full

    def _delete(self, path: str, size: int) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # somebody else made the room
        except OSError as e:
            self._once("stuck", f"{path}: cannot be deleted to make room: {e.strerror or e}; it keeps its share")
            return
        self._total -= size

    def _once(self, kind: str, line: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warning("pictures", line)

    def _runs(self) -> list[Path]:
        """This run's folder, and those beside it that a Retention looked after and that have ended."""
        ended = [lock.parent for lock in self._folder.parent.glob(f"*/{LOCK_FILE}") if _is_free(lock)]
        return [self._folder, *(run for run in ended if run != self._folder)]


def _is_free(lock: Path) -> bool:
    """Whether the run that made this lock has ended; where nothing locks, that cannot be known."""
    if not LOCKS:
        return False
    try:
        Lock(lock).close()
    except OSError:  # locked, or not ours to delete from
        return False
    return True


def _pictures(run: Path) -> list[tuple[int, int, str]]:
    """Time of change, size and path of each saved picture."""
    found = []
    for kind in PICTURES:
        for folder, _, names in os.walk(run / kind):
            for path in (os.path.join(folder, name) for name in names):
                with suppress(FileNotFoundError):  # its user tidies up
                    status = os.stat(path, follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, path))
    return found
