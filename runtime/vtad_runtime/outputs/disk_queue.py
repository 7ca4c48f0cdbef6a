"""A bounded first-in-first-out queue of small messages in a folder, which survives the program and a power cut.

The folder holds segments (00000001.jsonl, ...: one message a line, each behind its CRC-32), `delivered` (how far they
have been taken), and `lock`. A segment is deleted when all of it has been taken. Each start begins a new segment, so
nothing is ever appended to what a crash may have torn; a line whose CRC is wrong is skipped and counted.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path

from vtad_runtime.contract.lock import Lock, Locked
from vtad_runtime.outputs.message import OutputError

SEGMENT_BYTES = 2**20  # at most; a sixteenth of the bound where that is smaller
READ_BYTES = 2**18  # how much is read at once


@dataclass
class _Segment:
    """One file of the queue."""

    number: int
    path: Path
    size: int  # bytes of whole lines
    waiting: int  # lines not yet taken


class DiskQueue:
    """Used by one process at a time. Not thread-safe: its owner locks. Linux or macOS."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open the queue, or make it. Raises OutputError: no folder there to write to, or another process uses it."""
        self.folder, self.max_bytes = folder, max_bytes
        self.damaged = 0  # messages that could not be read back; or were cut off by a crash
        self._dirty: set[Path] = set()  # files with bytes that may not be on the disk itself yet
        self._tail = -1  # the segment that is open for appending, or -1
        self._peeked: list[int] = []  # where the lines last peeked at end
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(folder / "lock")
            self._cursor = os.open(folder / "delivered", os.O_RDWR | os.O_CREAT, 0o644)
            self._segments, self._offset, self._next = self._scan()
        except Locked as e:
            raise OutputError(
                f"{folder}: expected a spool of its own, got one in use: {e}; choose another folder"
            ) from e
        except OSError as e:
            raise OutputError(f"{folder}: expected a folder to spool to, got {e.strerror or e}; choose another") from e

    @property
    def waiting(self) -> int:
        """Messages not yet taken."""
        return sum(segment.waiting for segment in self._segments)

    @property
    def size(self) -> int:
        """On disk, messages of the oldest segment that are already taken included."""
        return sum(segment.size for segment in self._segments)

    def append(self, payload: bytes) -> bool:
        """Add one message, which holds no line break; False when there is no room. Raises OSError: not added.

        The bytes are handed to the operating system; `sync` brings them to the disk.
        """
        line = b"%08x %b\n" % (zlib.crc32(payload), payload)
        if self._tail >= 0 and self._segments[-1].size >= min(SEGMENT_BYTES, self.max_bytes // 16):
            self._end_tail()
            self._drop_taken()
        if self.size + len(line) > self.max_bytes:
            return False
        if self._tail < 0:
            self._begin_tail()
        tail = self._segments[-1]
        try:
            written = os.write(self._tail, line)
            while written < len(line):
                written += os.write(self._tail, line[written:])
        except OSError:
            self._cut_tail(tail.size)
            raise
        tail.size += len(line)
        tail.waiting += 1
        self._dirty.add(tail.path)
        return True

    def peek(self, count: int) -> list[bytes]:
        """Up to `count` of the oldest messages; they stay. Empty when nothing waits. Raises OSError."""
        while self._segments:
            head = self._segments[0]
            if self._offset >= head.size:
                if not self._drop_taken():
                    break
                continue
            try:
                lines = _lines(head.path, self._offset, head.size)
            except FileNotFoundError:
                lines = []
            if not lines:  # somebody deleted or cut the file
                self.damaged += head.waiting
                self._drop_head()
                continue
            messages = list(takewhile(lambda m: m is not None, map(_checked, lines[:count])))
            if messages:
                self._peeked = list(accumulate(map(len, lines[: len(messages)]), initial=self._offset))[1:]
                return [m for m in messages if m is not None]
            self.damaged += 1
            head.waiting -= 1
            self._offset += len(lines[0])
        return []

    def take(self, count: int) -> None:
        """Remove the first `count` of the messages last peeked at. Raises OSError: removed, but a restart brings them again."""
        if not count:
            return
        head = self._segments[0]
        head.waiting -= count
        self._offset = self._peeked[count - 1]
        self._peeked = self._peeked[count:]
        try:
            os.pwrite(self._cursor, b"%08d %012d\n" % (head.number, self._offset), 0)
        finally:
            self._drop_taken()

    def unsynced(self) -> list[Path]:
        """What `sync` has to bring to the disk; from now on that counts as done."""
        paths, self._dirty = sorted(self._dirty), set()
        return paths

    def close(self) -> None:
        """Free everything. What waits stays on disk."""
        self._end_tail()
        self._drop_taken()
        os.close(self._cursor)
        self._lock.close()

    def _scan(self) -> tuple[deque[_Segment], int, int]:
        """The segments there are, oldest first; the offset in the first of them; the number of the next one."""
        number, offset = _parse_cursor(os.pread(self._cursor, 64, 0))
        found = sorted((int(path.stem), path) for path in self.folder.glob("*.jsonl") if path.stem.isdecimal())
        segments: deque[_Segment] = deque()
        for n, path in found:
            data = path.read_bytes()
            size = data.rfind(b"\n") + 1
            start = min(offset, size) if n == number else 0
            if n < number or start == size:
                path.unlink()
                self.damaged += n > number and size < len(data)  # nothing in it but half a line
                continue
            segments.append(_Segment(n, path, size, data.count(b"\n", start)))
            self.damaged += size < len(data)
        at_cursor = segments and segments[0].number == number
        return segments, offset if at_cursor else 0, max([number, *(n for n, _ in found)]) + 1

    def _begin_tail(self) -> None:
        path = self.folder / f"{self._next:08d}.jsonl"
        self._tail = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._segments.append(_Segment(self._next, path, 0, 0))
        self._dirty.add(self.folder)
        self._next += 1

    def _end_tail(self) -> None:
        if self._tail >= 0:
            os.close(self._tail)
            self._tail = -1

    def _cut_tail(self, size: int) -> None:
        """Undo half a line; where even that fails, never append to this segment again: what is behind its end is not read."""
        try:
            os.ftruncate(self._tail, size)
        except OSError:
            self._end_tail()

    def _drop_taken(self) -> bool:
        """Delete the oldest segment if all of it was taken and none is appended to it any more; whether it was."""
        if (
            not self._segments
            or self._offset < self._segments[0].size
            or (len(self._segments) == 1 and self._tail >= 0)
        ):
            return False
        self._drop_head()
        return True

    def _drop_head(self) -> None:
        head = self._segments.popleft()
        if not self._segments:
            self._end_tail()
        self._offset = 0
        self._dirty.discard(head.path)
        with suppress(OSError):  # left behind, it is deleted at the next start: the cursor is at its end
            head.path.unlink()


def sync(paths: list[Path]) -> None:
    """Bring files and folders to the disk. Raises OSError. Files deleted meanwhile need no syncing."""
    for path in paths:
        with suppress(FileNotFoundError):
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)


def _lines(path: Path, offset: int, size: int) -> list[bytes]:
    """Whole lines of a segment from `offset`: at least one, unless `size` is reached."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(min(size - offset, READ_BYTES))
        if b"\n" not in data:
            data += file.read(size - offset - len(data))
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def _checked(line: bytes) -> bytes | None:
    """The message in a line, or None when it is not what was written."""
    crc, _, payload = line.rstrip(b"\n").partition(b" ")
    return payload if crc == b"%08x" % zlib.crc32(payload) else None


def _parse_cursor(text: bytes) -> tuple[int, int]:
    """Number and offset; zeros when the text is damaged, so that messages come twice rather than not at all."""
    number, _, offset = text.strip().partition(b" ")
    return (int(number), int(offset)) if number.isdigit() and offset.isdigit() else (0, 0)
