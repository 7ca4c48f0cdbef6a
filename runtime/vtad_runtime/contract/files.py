"""Files that are whole or not there: written beside their name, then renamed; or grown by whole lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, and goes when not.

    The folder is made where there is none. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file whole or leave it as it is. Raises OSError."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def sync(path: Path) -> None:
    """Bring a file, or a folder's entries, to the disk. Raises OSError. What is gone meanwhile needs no syncing."""
    with suppress(FileNotFoundError, PermissionError):  # PermissionError: Windows opens no folder
        file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(file)
        finally:
            os.close(file)


class Lines:
    """A text file that grows by whole lines: what the disk takes of a line only in part is cut off again."""

    def __init__(self, path: Path, *, new: bool = True) -> None:
        """Open `path`, a new file or one to add to. Raises OSError, FileExistsError where a new one is there."""
        self._file = path.open("xb" if new else "ab", buffering=0)
        self._end = self._file.seek(0, os.SEEK_END)  # bytes, after the last whole line

    def write(self, line: str) -> None:
        """Add one line, which ends in a line break, by one write call. Raises OSError."""
        data = line.encode("utf-8", "backslashreplace")  # file names need not be valid text
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                self._file.truncate(self._end)
            raise
        self._end += len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
