"""The memory of a hot folder: which files were judged, kept on disk through crashes and restarts.

An SQLite file. A picture is known by its name below the folder, its size and its time of change (`Stamp`), so a new file
under an old name is judged again; one that was moved away is forgotten. The order of writes, each step on the disk itself
before the next begins:

1. journal: `begin`, with how long the results file is now
2. results: the row (written by the caller, brought to disk from here)
3. journal: `done`

After a crash between 2 and 3 the next start finds a `begin` without its `done`, reads the results file from that length
on, and where it finds the row completes the journal. So every file that was begun gets exactly one row, over any number
of crashes, as long as the results file named by `results` is still there; without it (`results=None`, or deleted) a file
may get a second row after a crash, and none is missed in any case.

A file that is begun and has neither its row nor an orderly end of the run behind it was in hand when the process died.
`crashes` counts that, so that a file which takes the process with it every time can be set aside.

A disk may take 50 ms to confirm a write, so several files share one: steps 2 and 3 follow within a second (`commit`).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from vtad_runtime.contract.disk.files import replacing, sync
from vtad_runtime.contract.disk.lock import Lock, Locked
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full, one_line
from vtad_runtime.contract.log import warning
from vtad_runtime.sources.old_journal import old_entries
from vtad_runtime.storage.database import is_damaged, open_database, readable, set_aside, well_typed
from vtad_runtime.verdict.verdict import Verdict

LONG = 10_000  # files; a shorter journal forgets nothing
FORGET_EVERY_S = 3600.0
KEEP_GONE_S = 7 * 86400.0  # a file that is gone is remembered this long: its share may be unmounted
SYNC_SHARE = 0.1  # of the time may be spent waiting for the disk, as long as no commit is later than
MAX_DELAY_S = 1.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS done (name BLOB PRIMARY KEY, size, mtime_ns, verdict, judged_at);
CREATE TABLE IF NOT EXISTS begun (name BLOB PRIMARY KEY, size, mtime_ns, file, results, "offset");
CREATE TABLE IF NOT EXISTS crashed (name BLOB PRIMARY KEY, size, mtime_ns, times);
"""  # names, file and results are bytes, as file names are; judged_at in seconds since the epoch; offset in bytes
IN_ORDER = "user_version"  # the pragma; 1: the run was ending, so a file in hand has done no harm

ALL_DONE = "SELECT name, size, mtime_ns, verdict, judged_at FROM done"
ALL_BEGUN = 'SELECT name, size, mtime_ns, file, results, "offset" FROM begun'
ALL_CRASHED = "SELECT name, size, mtime_ns, times FROM crashed"
BLAME = """
INSERT OR REPLACE INTO crashed SELECT name, size, mtime_ns, 1 + coalesce((SELECT times FROM crashed
WHERE (name, size, mtime_ns) = (begun.name, begun.size, begun.mtime_ns)), 0) FROM begun
"""
DONE, BEGUN, CRASHED = (
    (bytes, int, int, str, float | int),
    (bytes, int, int, bytes, bytes | None, int),
    (bytes, int, int, int),
)  # the kinds of their values

VERDICTS = frozenset(str(verdict) for verdict in Verdict)
Entry = tuple[Any, ...]  # a row of one of the tables


class JournalError(VtadError):
    """A journal that cannot be used or written. One line."""

    exit_code = NOT_WRITTEN


class Stamp(NamedTuple):
    """Which content a file name stands for."""

    size: int  # bytes
    mtime_ns: int  # time of change, nanoseconds since the epoch


class Journal:
    """Opened by one process at a time. Safe to use from several threads."""

    def __init__(self, path: Path, results: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Open or make the journal, and complete it from the rows of a run that crashed.

        `results` is the JSON Lines file that the rows of this run go to. A damaged journal is set aside, one of an earlier
        vtad is taken over; both are said. Raises JournalError: not writable, or in use.
        """
        self.path = path
        self._results, self._clock = results, clock
        self._mutex = threading.RLock()
        self._known: dict[str, tuple[Stamp, str]] = {}  # by name: content and verdict
        self._crashed: dict[str, tuple[Stamp, int]] = {}  # by name: content, and how often it was in hand at a crash
        self._unwritten: list[Entry] = []  # rows of `done` whose results may not be on disk yet
        self._moved: list[Entry] = []  # name, size, mtime_ns of rows of `done` to take out
        self._commit_due = 0.0  # time.monotonic()
        self._forget_due = 0.0  # by the clock
        with self._as_journal_error(USAGE):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(path.with_name(path.name + ".lock"))
            with ExitStack() as stack:
                stack.callback(self._lock.close)
                self._take_over()
                self._database = self._opened()
                stack.callback(self._database.close)
                self._complete()
                stack.pop_all()

    def verdict(self, name: str, stamp: Stamp) -> str | None:
        """The verdict on this content of the file; None when it was not judged yet."""
        known = self._known.get(name)
        return known[1] if known is not None and known[0] == stamp else None

    def crashes(self, name: str, stamp: Stamp) -> int:
        """How often a process died while it had this content of the file in hand, since it was last judged."""
        known = self._crashed.get(name)
        return known[1] if known is not None and known[0] == stamp else 0

    def begin(self, files: list[tuple[str, Stamp, str]]) -> None:
        """Note that these files are about to be judged: name, stamp, and `file` as the row will give it. Raises JournalError."""
        with self._mutex, self._as_journal_error():
            results = os.fsencode(self._results.resolve()) if self._results else None
            offset = self._results.stat().st_size if self._results and self._results.exists() else 0
            rows = [(os.fsencode(n), *stamp, os.fsencode(file), results, offset) for n, stamp, file in files]
            _store(self._database, begun=rows)

    def done(self, name: str, stamp: Stamp, verdict: str) -> None:
        """Note that a file was judged; its row has been written. On disk after the next `commit`."""
        with self._mutex:
            self._known[name] = stamp, verdict
            self._crashed.pop(name, None)
            self._unwritten.append((os.fsencode(name), *stamp, verdict, round(self._clock(), 3)))

    def moved(self, name: str, stamp: Stamp) -> None:
        """Note that a judged file was moved away: the next one of its name is new, also with its size and time of change.

        On disk after the next `commit`; until then a crash leaves it noted as judged.
        """
        with self._mutex:
            if self.verdict(name, stamp) is not None:
                del self._known[name]
            self._moved.append((os.fsencode(name), *stamp))

    def commit(self, at_once: bool = True) -> bool:
        """Bring rows and journal to disk; unless `at_once`, only if that is due. Whether all is on disk.

        Raises JournalError.
        """
        with self._mutex, self._as_journal_error():
            start = time.monotonic()
            if not (self._unwritten or self._moved) or (not at_once and start < self._commit_due):
                return not self._unwritten
            if self._unwritten and self._results is not None:
                sync(self._results)
            _store(self._database, done=self._unwritten, moved=self._moved)
            self._unwritten, self._moved = [], []
            now = time.monotonic()
            self._commit_due = now + min((now - start) / SYNC_SHARE, MAX_DELAY_S)
            return True

    def forget(self, present: Collection[str]) -> None:
        """Forget files that are gone and were judged more than a week ago, now and then, once there are many.

        `present` are the names that the folder holds now. Raises JournalError.
        """
        now = self._clock()
        with self._mutex, self._as_journal_error():
            if len(self._known) < LONG or now < self._forget_due:
                return
            self._forget_due = now + FORGET_EVERY_S
            self.commit()
            old = self._database.execute("SELECT name FROM done WHERE judged_at < ?", (now - KEEP_GONE_S,)).fetchall()
            gone = [name for name in old if os.fsdecode(name[0]) not in present]
            with self._database:
                self._database.execute("BEGIN")
                self._database.executemany("DELETE FROM done WHERE name = ?", gone)
            for name in gone:
                self._known.pop(os.fsdecode(name[0]), None)

    def end_in_order(self) -> None:
        """The run is ending as it should: from now on no file in hand is to blame. Raises JournalError."""
        with self._mutex, self._as_journal_error():
            self._database.execute(f"PRAGMA {IN_ORDER}=1")

    def close(self, *, in_order: bool = True) -> None:
        """Commit, and free the journal for others; files in hand are not to blame if the run ends `in_order`.

        Raises JournalError.
        """
        with self._mutex:
            try:
                self.commit()
                if in_order:
                    self.end_in_order()
            finally:
                self._database.close()
                self._lock.close()

    def _opened(self) -> sqlite3.Connection:
        """The database; where it is damaged, a new one with what could be read of it."""
        try:
            database = open_database(self.path, SCHEMA, sync="FULL")
            with suppress(sqlite3.Error, UnicodeDecodeError):
                if database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                    for table in (ALL_DONE, ALL_BEGUN, ALL_CRASHED):
                        database.execute(f"{table} LIMIT 0")
                    return database
            database.close()
        except sqlite3.Error as e:
            if not is_damaged(e):
                raise
        done = well_typed(readable(self.path, ALL_DONE), *DONE)
        begun = well_typed(readable(self.path, ALL_BEGUN), *BEGUN)
        kept = f"{len(done)} judged files are remembered, others may be judged once more"
        warning("hot_folder", f"{self.path} is damaged, set aside as {set_aside(self.path).name}: {kept}")
        return _filled(self.path, done, begun)

    def _take_over(self) -> None:
        """Put the entries of a journal of an earlier vtad into a database in its place."""
        if (entries := old_entries(self.path)) is not None:
            done, begun, damaged = entries
            with replacing(self.path) as beside:
                _filled(beside, done, begun).close()
            sync(self.path.parent)
            lost = f"; {damaged} damaged lines left out, their files may be judged once more" if damaged else ""
            warning("hot_folder", f"{self.path}: {len(done)} judged files of an earlier vtad taken over{lost}")

    def _complete(self) -> None:
        """Note as done what was begun and has its row: a crash came between the two. What has no row is judged again."""
        begun = well_typed(self._database.execute(ALL_BEGUN), *BEGUN)
        _store(self._database, done=list(_rows_of(begun, self._clock())))
        with self._database:
            self._database.execute("BEGIN")
            ((in_order,),) = self._database.execute(f"PRAGMA {IN_ORDER}")
            if not in_order:
                self._database.execute(BLAME)
            self._database.execute("DELETE FROM begun")
            self._database.execute(f"PRAGMA {IN_ORDER}=0")
        for name, size, mtime_ns, times in well_typed(self._database.execute(ALL_CRASHED), *CRASHED):
            self._crashed[os.fsdecode(name)] = Stamp(size, mtime_ns), times
        for name, size, mtime_ns, verdict, _ in well_typed(self._database.execute(ALL_DONE), *DONE):
            if verdict in VERDICTS:
                self._known[os.fsdecode(name)] = Stamp(size, mtime_ns), verdict

    @contextmanager
    def _as_journal_error(self, exit_code: int = NOT_WRITTEN) -> Iterator[None]:
        """What the disk refuses inside the block becomes a JournalError."""
        try:
            yield
        except Locked as e:
            got = f"one in use: {e}; stop the other vtad-run, or watch another folder"
            raise JournalError(f"{self.path}: expected a journal for this run alone, got {got}", USAGE) from e
        except (OSError, sqlite3.Error) as e:
            got = f"{one_line(e)}; without it a restart would judge files twice"
            code = NOT_WRITTEN if disk_full(e) else exit_code
            raise JournalError(f"{self.path}: expected a journal that can be written, got {got}", code) from e


def _filled(path: Path, done: Iterable[Entry], begun: Iterable[Entry]) -> sqlite3.Connection:
    database = open_database(path, SCHEMA, sync="FULL")
    _store(database, begun, done)
    return database


def _store(
    database: sqlite3.Connection, begun: Iterable[Entry] = (), done: Iterable[Entry] = (), moved: Iterable[Entry] = ()
) -> None:
    """All of it or nothing, on the disk itself."""
    with database:  # commits, or rolls back
        database.execute("BEGIN")
        database.executemany("INSERT OR REPLACE INTO begun VALUES (?, ?, ?, ?, ?, ?)", begun)
        database.executemany("DELETE FROM done WHERE (name, size, mtime_ns) = (?, ?, ?)", moved)
        for entry in done:
            database.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?)", entry)
            for table in ("begun", "crashed"):
                database.execute(f"DELETE FROM {table} WHERE name = ?", entry[:1])


def _rows_of(begun: list[tuple[Any, ...]], now: float) -> Iterator[tuple[Any, ...]]:
    """A row of `done` for each row of `begun` that the results file holds behind its offset."""
    for results in {results for *_, results, _ in begun if results}:
        mine = {_posix(os.fsdecode(row[3])): row for row in begun if row[4] == results}
        for offset, row in _results_behind(Path(os.fsdecode(results)), min(entry[5] for entry in mine.values())):
            name, size, mtime_ns, _, _, begun_at = mine.get(_posix(row.get("file")), (None,) * 5 + (0,))
            if name is not None and offset >= begun_at:
                yield name, size, mtime_ns, str(row.get("verdict")), now


def _results_behind(results: Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole rows behind `start` bytes, each with where it begins; none when the file is gone."""
    with suppress(FileNotFoundError), results.open("rb") as file:
        offset = file.seek(start)
        for line in file:
            with suppress(ValueError):
                row = json.loads(line)
                if line.endswith(b"\n") and isinstance(row, dict):
                    yield offset, row
            offset += len(line)


def _posix(file: object) -> str:
    """A file name as results give it: with forward slashes everywhere."""
    return Path(str(file)).as_posix()
