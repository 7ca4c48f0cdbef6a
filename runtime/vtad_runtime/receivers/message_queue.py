"""A bounded first-in-first-out queue of small messages: one SQLite file, which survives the program and a power cut."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from vtad_runtime.contract.disk.lock import Lock, Locked
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, disk_full, one_line
from vtad_runtime.receivers.message import OutputError
from vtad_runtime.receivers.old_spool import old_files, old_messages
from vtad_runtime.storage.database import is_damaged, open_database, readable, set_aside, wal_of

FILE = "messages.sqlite"
SCHEMA = "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY, crc INTEGER NOT NULL, message BLOB NOT NULL)"
BEHIND = "SELECT number, crc, message FROM messages WHERE number > {} ORDER BY number"
PAGE_BYTES = 512  # of the file; small, so that messages of some hundred bytes waste little
SPLIT_BYTES = 3 * PAGE_BYTES  # what a message may take beside itself

Say = Callable[[Literal["damaged", "taken_over"], str], None]


class DiskError(Exception):
    """The queue cannot be read or written just now. One line."""


class MessageQueue:
    """Used by one process at a time. Not thread-safe: its owner locks."""

    def __init__(self, folder: Path, max_bytes: int, say: Say) -> None:
        """Open the queue, or make it. `say` hears in one line of damage, and of an old spool that was taken over.

        Raises OutputError: no folder there to write to, or another process uses it.
        """
        self.folder, self.max_bytes, self._say = folder, max_bytes, say
        self.waiting = 0  # messages not taken yet
        self.damaged = 0  # messages that could not be read back
        self._path = folder / FILE
        self._newest = self._taken = 0  # numbers
        self._peeked: list[int] = []  # numbers
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(folder / "lock")
        except Locked as e:
            got = f"one in use: {e}; choose another folder"
            raise OutputError(f"{folder}: expected a spool of its own, got {got}") from e
        except OSError as e:
            raise _unusable(folder, e) from e
        try:
            self._open_or_mend()
            self._take_over()
        except (OSError, sqlite3.Error) as e:
            self._lock.close()
            raise _unusable(folder, e) from e

    @property
    def size(self) -> int:
        """Bytes of the file that are in use. Raises DiskError."""
        pages, free = self._do("PRAGMA page_count"), self._do("PRAGMA freelist_count")
        return int(pages[0][0] - free[0][0]) * PAGE_BYTES

    @property
    def unsynced(self) -> list[Path]:
        """What has to be synced so that a power cut loses no message."""
        return [wal_of(self._path), self.folder] if self.waiting else []

    def append(self, message: bytes) -> bool:
        """Add one message; False when there is no room. Handed to the operating system, not to the disk. Raises DiskError."""
        if self.size + len(message) + SPLIT_BYTES > self.max_bytes:
            return False
        self._do("INSERT INTO messages VALUES (?, ?, ?)", self._newest + 1, zlib.crc32(message), message)
        self._newest += 1
        self.waiting += 1
        return True

    def peek(self, count: int) -> list[bytes]:
        """Up to `count` of the oldest messages; they stay. Empty when nothing waits. Raises DiskError."""
        rows, before = self._do(BEHIND.format(self._taken) + " LIMIT ?", count), list[Any]()
        while damaged := [number for number, crc, message in rows if not _is_whole(crc, message)]:
            if damaged == before:  # they cannot even be deleted
                try:
                    self._database.close()
                    self._mend()
                except (OSError, sqlite3.Error) as e:
                    raise DiskError(one_line(e)) from e
            else:
                self._do(f"DELETE FROM messages WHERE number IN ({', '.join('?' * len(damaged))})", *damaged)
                self.waiting, self.damaged = self.waiting - len(damaged), self.damaged + len(damaged)
                self._say("damaged", f"{self._path}: {len(damaged)} damaged messages skipped")
            rows, before = self._do(BEHIND.format(self._taken) + " LIMIT ?", count), damaged
        self._peeked = [number for number, _, _ in rows]
        return [message for _, _, message in rows]

    def take(self, count: int) -> None:
        """Remove the first `count` of the messages last peeked at. Raises DiskError: a restart brings them again."""
        if count:
            self._taken, self._peeked = self._peeked[count - 1], self._peeked[count:]
            self.waiting -= count
            self._do("DELETE FROM messages WHERE number <= ?", self._taken)

    def close(self) -> None:
        """Free everything. What waits stays on disk."""
        with suppress(DiskError):
            if not self.waiting:
                self._do("VACUUM")  # gives back what an outage took
        self._database.close()
        self._lock.close()

    def _do(self, statement: str, *values: Any) -> list[Any]:
        """Execute it; where the file is damaged, mend it first. Raises DiskError."""
        try:
            try:
                return self._database.execute(statement, values).fetchall()
            except sqlite3.Error as e:
                if not is_damaged(e):
                    raise
                self._database.close()
                self._mend()
                return self._database.execute(statement, values).fetchall()
        except (OSError, sqlite3.Error) as e:
            raise DiskError(one_line(e)) from e

    def _open_or_mend(self) -> None:
        try:
            self._open()
        except sqlite3.Error as e:
            if not is_damaged(e):
                raise
            self._mend()

    def _open(self) -> None:
        database = open_database(self._path, SCHEMA, sync="NORMAL", page_bytes=PAGE_BYTES)
        try:
            ((self.waiting, newest),) = database.execute("SELECT count(*), max(number) FROM messages")
        except sqlite3.Error:
            database.close()
            raise
        self._newest, self._database = max(newest or 0, self._newest), database

    def _mend(self) -> None:
        """Set the damaged file, which must not be open, aside and go on with what can be read of it."""
        known, rows = self.waiting, list(readable(self._path, BEHIND.format(self._taken)))
        rows = [row for row in rows if isinstance(row[0], int) and _is_whole(*row[1:])]
        aside = set_aside(self._path)
        self._open()
        self._fill(rows)
        lost = max(known - len(rows), 1)  # when it is opened nobody knows how many there were
        self.damaged += lost
        kept = f"{len(rows)} messages kept, at least {lost} lost"
        self._say("damaged", f"{self._path} is damaged and was set aside as {aside.name}: {kept}")

    def _fill(self, rows: list[Any]) -> None:
        """Add all of them or none, on the disk itself."""
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO messages VALUES (?, ?, ?)", rows)
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._newest = max([self._newest, *(row[0] for row in rows)])
        self.waiting += len(rows)

    def _take_over(self) -> None:
        """Store what waits in a spool of an earlier vtad, then remove its files."""
        if files := old_files(self.folder):
            messages, damaged = old_messages(files)
            self._fill([(n, zlib.crc32(m), m) for n, m in enumerate(messages, self._newest + 1)])
            self.damaged += damaged
            for path in files:
                path.unlink(missing_ok=True)
            lost = f", {damaged} damaged ones skipped" if damaged else ""
            self._say("taken_over", f"{self.folder}: {len(messages)} messages of an earlier vtad were taken over{lost}")


def _unusable(folder: Path, error: Exception) -> OutputError:
    code = NOT_WRITTEN if disk_full(error) else USAGE
    return OutputError(f"{folder}: expected a folder to spool to, got {one_line(error)}; choose another", code)


def _is_whole(crc: object, message: object) -> bool:
    """Whether a message is what was stored; a damaged file may give anything."""
    return isinstance(message, bytes) and zlib.crc32(message) == crc
