"""Messages that wait in a spool of vtad before SQLite: taken over once, then its files go.

The folder held segments (00000001.jsonl, ...: one message a line, each behind its CRC-32) and `delivered`: the number of a
segment and how many bytes of it were delivered.
"""

from __future__ import annotations

import zlib
from pathlib import Path

CURSOR = "delivered"


def old_files(folder: Path) -> list[Path]:
    """The files of such a spool, segments first, oldest first; none where there is no such spool."""
    segments = [path for path in folder.glob("*.jsonl") if path.stem.isdecimal()]
    cursor = folder / CURSOR
    return sorted(segments, key=lambda path: int(path.stem)) + ([cursor] if cursor.is_file() else [])


def old_messages(files: list[Path]) -> tuple[list[bytes], int]:
    """The messages not delivered yet, oldest first, and how many lines are damaged. Raises OSError.

    Where `delivered` is damaged, messages come twice rather than not at all.
    """
    cursor = next((path.read_bytes() for path in files if path.name == CURSOR), b"")
    number, _, end = cursor.strip().partition(b" ")
    segment, offset = (int(number), int(end)) if number.isdigit() and end.isdigit() else (-1, 0)
    messages: list[bytes] = []
    damaged = 0
    for path in files:
        if path.name == CURSOR:
            continue
        data = path.read_bytes()
        # A true mark lies at the end of a line. Segments before the marked one were deleted when they were delivered.
        if int(path.stem) == segment and data[:offset].endswith(b"\n") and offset <= len(data):
            data = data[offset:]
        *lines, torn = data.split(b"\n")
        found = [message for line in lines if (message := _checked(line)) is not None]
        messages += found
        damaged += len(lines) - len(found) + bool(torn)
    return messages, damaged


def _checked(line: bytes) -> bytes | None:
    """The message in a line, or None when it is not what was written."""
    crc, _, message = line.partition(b" ")
    return message if crc == b"%08x" % zlib.crc32(message) else None
