"""The memory of a hot folder: which files were judged, kept on disk through crashes and restarts.

A text file of JSON objects, one a line, that only grows; it is written anew (beside, then renamed) when it holds many
more lines than files. A file is known by its name below the folder, its size and its time of change (`Stamp`), so a new
file under an old name is judged again.

The order of writes, each step on disk (fsync) before the next begins:

1. journal: `begin`, with how long the results file is now
2. results: the row (written by the caller, brought to disk from here)
3. journal: `done`

After a crash between 2 and 3 the next start finds a `begin` without its `done`, reads the results file from that length
on, and where it finds the row completes the journal. So every file that was begun gets exactly one row, over any number
of crashes, as long as the results file named by `results` is still there; without it (`results=None`, or deleted) a file
may get a second row after a crash, and none is missed in any case.

A disk may take 50 ms to confirm a write, so several files share one: steps 2 and 3 follow within a second (`commit`).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from vtad_runtime.contract.errors import NOT_WRITTEN, VtadError
from vtad_runtime.contract.lock import Lock, Locked
from vtad_runtime.contract.log import warning

LONG = 10_000  # lines; a shorter journal is never rewritten
SYNC_SHARE = 0.1  # of the time may be spent waiting for the disk, as long as no commit is later than
MAX_DELAY_S = 1.0
KEEP_GONE_S = 7 * 86400.0  # a file that is gone is remembered this long: its share may be unmounted


class JournalError(VtadError):
    """A journal that cannot be used or written. One line."""

    exit_code = NOT_WRITTEN


class Stamp(NamedTuple):
    """Which content a file name stands for."""

    size: int  # bytes
    mtime_ns: int  # time of change, nanoseconds since the epoch


class _Done(NamedTuple):
    stamp: Stamp
    verdict: str
    judged_at: float  # seconds since the epoch


class _Begun(NamedTuple):
    stamp: Stamp
    file: str  # as its row will name it
    results: str | None  # the results file that its row goes to
    offset: int  # bytes; the row lies behind them


class Journal:
    """Opened by one process at a time. Safe to use from several threads."""

    def __init__(self, path: Path, results: Path | None = None) -> None:
        """Open or make the journal, repair a torn end, and complete it from the rows of a run that crashed.

        `results` is the JSON Lines file that the rows of this run go to. Raises JournalError: not writable, or in use.
        """
        self.path = path
        self._results = results
        self._results_file: int | None = None
        self._mutex = threading.RLock()
        self._done: dict[str, _Done] = {}
        self._begun: dict[str, _Begun] = {}
        self._unwritten: list[str] = []  # `done` lines whose rows may not be on disk yet
        self._uncommitted = False
        self._commit_due = 0.0  # time.monotonic()
        self._lines = 0
        self._end = 0  # bytes, after the last whole line
        self._file = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(path.with_name(path.name + ".lock"))
        except Locked as e:
            raise JournalError(
                f"{path}: expected a journal for this run alone, got one in use: {e}; "
                "stop the other vtad-run, or watch another folder"
            ) from e
        except OSError as e:
            raise self._failed(e) from e
        try:
            self._open()
        except OSError as e:
            self._lock.close()
            raise (e if isinstance(e, JournalError) else self._failed(e)) from e

    def verdict(self, name: str, stamp: Stamp) -> str | None:
        """The verdict on this content of the file; None when it was not judged yet."""
        done = self._done.get(name)
        return done.verdict if done is not None and done.stamp == stamp else None

    def begin(self, files: list[tuple[str, Stamp, str]]) -> None:
        """Note that these files are about to be judged: name, stamp, and `file` as the row will give it."""
        with self._mutex:
            results = str(self._results.resolve()) if self._results else None
            offset = _size(self._results)
            for name, stamp, file in files:
                self._begun[name] = _Begun(stamp, file, results, offset)
            self._write([_begin_line(name, self._begun[name]) for name, _, _ in files])
            self._sync()

    def done(self, name: str, stamp: Stamp, verdict: str) -> None:
        """Note that a file was judged; its row has been written. On disk after the next `commit`."""
        with self._mutex:
            done = _Done(stamp, verdict, time.time())
            self._done[name] = done
            self._begun.pop(name, None)
            self._unwritten.append(_done_line(name, done))
            self._uncommitted = True
            if self._results is None:  # no rows to wait for, and none to find out from after a crash
                self._write_done()

    def commit(self, at_once: bool = True) -> bool:
        """Bring rows and journal to disk; unless `at_once`, only if that is due. Whether all is on disk.

        Raises JournalError.
        """
        with self._mutex:
            if not self._uncommitted:
                return True
            start = time.monotonic()
            if not at_once and start < self._commit_due:
                return False
            try:
                self._sync_results()
            except OSError as e:
                raise JournalError(f"{self._results}: cannot bring rows to disk: {e.strerror or e}") from e
            self._write_done()
            self._sync()
            self._uncommitted = False
            now = time.monotonic()
            self._commit_due = now + min((now - start) / SYNC_SHARE, MAX_DELAY_S)
            return True

    def shorten(self, present: Collection[str]) -> None:
        """Write the journal anew if it has grown long. `present` are the names that the folder holds now.

        Forgets files that are gone and were judged more than a week ago. Raises JournalError; the old one stays then.
        """
        with self._mutex:
            if self._lines < max(LONG, 2 * (len(self._done) + len(self._begun))):
                return
            self.commit()
            forget_before = time.time() - KEEP_GONE_S
            kept = {n: d for n, d in self._done.items() if d.judged_at > forget_before or n in present}
            lines = [_done_line(name, done) for name, done in kept.items()]
            lines += [_begin_line(name, begun) for name, begun in self._begun.items()]
            part = self.path.with_name(self.path.name + ".part")
            try:
                with part.open("wb") as file:
                    file.write("".join(lines).encode())
                    file.flush()
                    os.fsync(file.fileno())
                    size = file.tell()
                os.close(self._file)  # Windows renames no file over an open one
                try:
                    part.replace(self.path)
                finally:
                    self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)
                _sync_folder(self.path.parent)
            except OSError as e:
                part.unlink(missing_ok=True)
                raise self._failed(e) from e
            self._done, self._lines, self._end = kept, len(lines), size

    def close(self) -> None:
        """Commit, and free the journal for others. Raises JournalError."""
        with self._mutex:
            try:
                self.commit()
            finally:
                os.close(self._file)
                if self._results_file is not None:
                    os.close(self._results_file)
                self._lock.close()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            self._read()
            os.ftruncate(self._file, self._end)  # a line that a crash tore
            _sync_folder(self.path.parent)
            rows = list(self._rows_of_begun())
            self._begun.clear()  # what has no row is judged again
            self._write([_done_line(name, done) for name, done in rows])
            self._sync()
            self._done.update(rows)
        except OSError:
            os.close(self._file)
            raise

    def _read(self) -> None:
        damaged = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._end += len(line)
                self._lines += 1
                damaged += not self._take(line)
        if damaged:
            warning("hot_folder", f"{self.path}: {damaged} damaged lines left out; their files may be judged once more")

    def _take(self, line: bytes) -> bool:
        """Apply one line; whether it is one of a journal."""
        try:
            entry = json.loads(line)
            name, stamp = entry["name"], Stamp(int(entry["size"]), int(entry["mtime_ns"]))
            if entry["state"] == "done":
                self._done[name] = _Done(stamp, str(entry["verdict"]), float(entry["judged_at"]))
                self._begun.pop(name, None)
                return True
            self._begun[name] = _Begun(stamp, entry["file"], entry["results"], int(entry["offset"]))
        except (ValueError, KeyError, TypeError):
            return False
        return True

    def _rows_of_begun(self) -> Iterator[tuple[str, _Done]]:
        """What was begun, not noted as done, and has its row in the results: a crash came between the two."""
        for results in {b.results for b in self._begun.values() if b.results}:
            begun = {_posix(b.file): (name, b) for name, b in self._begun.items() if b.results == results}
            start = min(b.offset for _, b in begun.values())
            for offset, row in _rows(Path(results), start):
                name, b = begun.get(_posix(row.get("file")), ("", None))
                if b is not None and offset >= b.offset:
                    yield name, _Done(b.stamp, str(row.get("verdict")), time.time())

    def _write_done(self) -> None:
        self._write(self._unwritten)
        self._unwritten = []

    def _write(self, lines: list[str]) -> None:
        """Append all lines or none of them."""
        data = "".join(lines).encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as e:
            with suppress(OSError):  # the first error is the one to tell
                os.ftruncate(self._file, self._end)
            raise self._failed(e) from e
        self._end += len(data)
        self._lines += len(lines)

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as e:
            raise self._failed(e) from e

    def _sync_results(self) -> None:
        if self._results is None:
            return
        if self._results_file is None:
            self._results_file = os.open(self._results, os.O_RDWR)
        os.fsync(self._results_file)

    def _failed(self, error: OSError) -> JournalError:
        return JournalError(
            f"{self.path}: expected a journal that can be written, got {error.strerror or error}; "
            "without it a restart would judge files twice"
        )


def _begin_line(name: str, begun: _Begun) -> str:
    values = {"file": begun.file, "results": begun.results, "offset": begun.offset}
    return _line(name, begun.stamp, "begin", values)


def _done_line(name: str, done: _Done) -> str:
    return _line(name, done.stamp, "done", {"verdict": done.verdict, "judged_at": round(done.judged_at, 3)})


def _line(name: str, stamp: Stamp, state: str, values: dict[str, Any]) -> str:
    return json.dumps({"state": state, "name": name, "size": stamp.size, "mtime_ns": stamp.mtime_ns, **values}) + "\n"


def _rows(results: Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole rows behind `start` bytes, each with where it begins; none when the file is gone."""
    try:
        with results.open("rb") as file:
            offset = file.seek(start)
            for line in file:
                with suppress(ValueError):
                    row = json.loads(line)
                    if line.endswith(b"\n") and isinstance(row, dict):
                        yield offset, row
                offset += len(line)
    except FileNotFoundError:
        return


def _posix(file: object) -> str:
    """A file name as results give it: with forward slashes everywhere."""
    return Path(str(file)).as_posix()


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except FileNotFoundError:
        return 0


def _sync_folder(folder: Path) -> None:
    """Bring a new or renamed file's entry in its folder to disk, where the system lets a folder be opened."""
    with suppress(PermissionError):  # Windows
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
