"""A disk that is full, and then is not: a small tmpfs where mounting is permitted, else a limit on the size of files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SIZE = "64m"
BALLAST = "ballast"  # what fills a tmpfs


class Disk:
    """A folder to write in. With `largest` no file in it may grow beyond so many bytes."""

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder, self.largest = folder, None
        self._mounted = mounted

    largest: int | None

    def fill(self, room: int) -> None:
        """Leave so many bytes."""
        if not self._mounted:
            self.largest = room
            return
        with (self.folder / BALLAST).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.folder).free - room)

    def make_room(self) -> None:
        """Make it a disk with much room again."""
        self.largest = None
        (self.folder / BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A small disk at `folder`, which is made."""
    folder.mkdir()
    if not can_mount():
        yield Disk(folder, mounted=False)
        return
    _mount(folder)
    try:
        yield Disk(folder, mounted=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@cache
def can_mount() -> bool:
    """Whether this process may mount a tmpfs."""
    if not sys.platform.startswith("linux"):
        return False
    with TemporaryDirectory() as folder:
        try:
            _mount(Path(folder))
        except (OSError, subprocess.CalledProcessError):
            return False
        subprocess.run(["umount", folder], check=True)
    return True


def _mount(folder: Path) -> None:
    options = ["-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
