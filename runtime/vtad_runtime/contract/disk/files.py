"""Files that are whole or not there: written beside their name, then renamed; or grown by whole lines.

What a process that was killed left beside is swept when the next one first writes into that folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path

LONGEST_NAME = 255  # bytes that file systems take
PART = re.compile(r"\.[0-9a-f]{12}(?:\.([0-9a-f]{6}))?\.(\d+)\.part")  # a name to write to: machine and process
OLD_S = 86400.0  # nobody writes to one file for so long
STARTED = time.time()  # what carries the number of this process and is older was left by another of that number


def try_writing(folder: Path) -> None:
    """Write a file without a name where `folder` is, or where it would be made; nothing stays. Raises OSError."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"vtad")


def sha256_of(path: Path) -> bytes:
    """The digest of a file. Raises OSError: it cannot be read, or is a pipe or a device, whose end might never come."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no plain file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, and goes when not.

    The folder is made where there is none. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = beside_of(path)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def beside_of(path: Path) -> Path:
    """A name of this process beside `path`, to write to and then rename; short, however long the name is."""
    _swept_once(str(path.parent.absolute()))
    return path.with_name(f".{_short_hash(path.name)}.{_machine()}.{os.getpid()}.part")


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left half written in a folder; what they were replacing comes back."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if (found := PART.fullmatch(name)) and _is_stale(folder / name, *found.groups()):
                _remove(folder / name)


def sweep_below(folder: Path) -> None:
    """`sweep` of a folder and all below it."""
    for below, _, _ in os.walk(folder):
        sweep(Path(below))


@lru_cache(maxsize=1024)
def _swept_once(folder: str) -> None:
    sweep(Path(folder))


def _is_stale(part: Path, machine: str | None, process: str) -> bool:
    """Whether its writer is gone. On another machine, or where processes cannot be asked, its age says so."""
    written, number = part.stat().st_mtime, int(process)
    if time.time() - written > OLD_S:
        return True
    if machine != _machine() or sys.platform == "win32":
        return False
    if number == os.getpid():
        return written < STARTED
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _remove(part: Path) -> None:
    if not part.is_dir() or part.is_symlink():
        part.unlink()
        return
    new = [name for name in os.listdir(part) if name != "old"]
    if (part / "old").exists() and new and not (part.parent / new[0]).exists():
        (part / "old").rename(part.parent / new[0])  # killed between the two renames of `replacing_folder`
    shutil.rmtree(part)


@cache
def _machine() -> str:
    return _short_hash(platform.node())[:6]


def fitting_name(name: str, suffix: str = "") -> str:
    """`name` and `suffix` as a file name of at most LONGEST_NAME bytes: a longer one is cut and gets a hash of its own."""
    whole = os.fsencode(name + suffix)
    if len(whole) <= LONGEST_NAME:
        return name + suffix
    end = f"~{_short_hash(name)}{suffix}"
    return os.fsencode(name)[: LONGEST_NAME - len(os.fsencode(end))].decode("utf-8", "ignore") + end


def _short_hash(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


@contextmanager
def room_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to work in, which goes with the block. Raises OSError."""
    room = beside_of(path)
    try:
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir()
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A path to write a folder to; it takes the place of `path` when the block ends well, and goes when not. Raises OSError.

    Two renames, not one: a folder cannot be renamed over another.
    """
    with room_beside(path) as room:
        beside, old = room / path.name, room / "old"
        yield beside
        try:
            if path.exists():
                path.rename(old)
            beside.rename(path)
        except BaseException:  # a signal's too, which can come between the two
            if old.exists() and not path.exists():
                old.rename(path)
            raise


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
    """A text file that grows by whole lines, also where two processes add to it.

    What the disk takes of a line only in part is cut off again; a line that a power cut tore is ended, so that it does not
    swallow the next one.
    """

    def __init__(self, path: Path, *, new: bool = True) -> None:
        """Open `path`, a new file or one to add to. Raises OSError, FileExistsError where a new one is there."""
        torn = not new and _ends_in_half_a_line(path)
        as_they_are = getattr(os, "O_BINARY", 0)  # Windows makes CR LF of each line break otherwise
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | as_they_are | (os.O_EXCL if new else 0)
        self._file = os.open(path, flags, 0o666)
        if torn:
            self.write("\n")

    def write(self, line: str) -> None:
        """Add one line, which ends in a line break, by one write call. Raises OSError, also where the file was removed."""
        if os.fstat(self._file).st_nlink == 0:  # what is written then is gone when the file is closed
            raise FileNotFoundError(errno.ENOENT, "the file was removed while it was written")
        data = line.encode("utf-8", "backslashreplace")  # file names need not be valid text
        written = os.write(self._file, data)
        if written < len(data):
            start = os.fstat(self._file).st_size - written
            try:
                while written < len(data):
                    written += os.write(self._file, data[written:])
            except OSError:
                with suppress(OSError):  # the first error is the one to tell
                    os.ftruncate(self._file, start)
                raise

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _ends_in_half_a_line(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"  # one byte: another process may add lines meanwhile
