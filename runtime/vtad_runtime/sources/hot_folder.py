"""A hot folder: every picture that is put into it, or into a folder below it, is handed on once.

The folder is looked through again and again, which works on every file system, shares included. A picture is handed on
when its size and time of change have stayed the same for `settle_s`; an empty one waits ten times as long. The
order is that of arrival: by time of change, then by name. Left out until they are renamed are pictures whose names begin
with ~, which is said once, hidden ones, and names without a suffix of pictures at their end: name.part, name.tmp and the
like. Also left out are folders of results, sorted files and hidden folders.

A file that was in hand when the process died is judged alone after the next start, so that a second death shows whether it
was to blame; then it is set aside: an ERROR row, without being opened.

A writer that pauses for longer than `settle_s` is read too early: its file is judged as it is then (ERROR when it is
not whole), and again when it has changed.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vtad_runtime.contract.card import FULL_SCALE
from vtad_runtime.contract.disk.lock import FOLDER_LOCK
from vtad_runtime.contract.disk.walking import walk
from vtad_runtime.contract.errors import one_line
from vtad_runtime.contract.image import is_image
from vtad_runtime.contract.log import event, warning
from vtad_runtime.sources.capture import FrameSource, Shot
from vtad_runtime.sources.files import hold, read_held
from vtad_runtime.sources.folder import RESULTS_FILE, SourceError
from vtad_runtime.sources.journal import Journal, JournalError, Stamp
from vtad_runtime.sources.room import Room
from vtad_runtime.sources.sorting import ASIDE, MARK, Sorter, SortError, put_back
from vtad_runtime.verdict.verdict import Verdict

EMPTY_SETTLES = 10  # times settle_s for an empty file: some writers make it long before they fill it
LOOK_AGAIN_S = 3.0  # after a file could not be read, until it is looked at once more: some writers rest in the middle
BEGUN_AT_ONCE = 32  # files noted in the journal by one write
MIN_WAIT_S, MAX_WAIT_S = 0.02, 0.5  # between two looks
MOST_CRASHES = 2  # of the process with a file in hand, the second time with that one alone
BUSY_SHARE = 4  # a look that took long is followed by a rest this many times as long


@dataclass(frozen=True)
class _Picture:
    path: Path
    name: str  # below the folder, with forward slashes
    stamp: Stamp


class HotFolder(FrameSource):
    """Hands on pictures by `files` and hears by `done` that they were judged; these may run in two threads."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        settle_s: float = 0.5,
        sorter: Sorter | None = None,
        full_scale: int = FULL_SCALE,
        room: Room | None = None,
    ) -> None:
        """Watch `folder`. With a `sorter`, `done` also moves the file; `full_scale` is white in 16 bits; `read` waits for `room`.

        Raises SourceError: no folder, or of results.
        """
        if not folder.is_dir():
            got = "a file" if folder.exists() else "nothing there"
            raise SourceError(f"{folder}: expected a folder to watch, got {got}; check the path")
        if any((folder / name).exists() for name in (RESULTS_FILE, MARK)):
            raise SourceError(f"{folder}: expected a folder of new pictures, got one of results or of sorted files")
        self._folder = folder
        self._locked = (folder / FOLDER_LOCK).exists()  # else nothing can be written into it
        self._journal = journal
        self._settle_s = settle_s
        self._sorter, self._full_scale = sorter, full_scale
        self._room = room or Room()
        self._coming: Iterator[Path] | None = None  # what `read` reads
        self._mutex = threading.Lock()
        self._in_flight: dict[Path, _Picture] = {}
        self._waiting: dict[str, tuple[Stamp, float]] = {}  # by name: the stamp and since when it has been so
        self._doubted: dict[str, Stamp] = {}  # by name: that could not be read, and are looked at once more
        self._said_left_out = False
        self._unreadable: dict[str, str] = {}  # folder: reason, as it was said
        self._journal_error = ""  # the last one that was said
        self._to_sort: list[tuple[_Picture, str, int | None]] = []  # judged; moved when that is on disk
        self._ended = False  # no further file is handed on
        self._looked_into = set[Path]()  # folders in which what an earlier run did not get to sort was sorted

    def read(self, stop: Callable[[], bool]) -> Shot | None:
        """Wait for the next picture, whatever it takes; None when `stop()`. An unreadable one has an error."""
        self._coming = self._coming or self.files(stop)
        for path in self._coming:
            picture = self._in_flight[path]
            if (times := self._journal.crashes(picture.name, picture.stamp)) >= MOST_CRASHES:
                said = f"set aside: the process died {times} times with this file in hand; to try it again, copy it here anew"
                warning("hot_folder_set_aside", f"{path}: {said}", file=path.as_posix())
                return Shot(None, path.as_posix(), time.monotonic(), error=said)
            if not hold(path, self._room, stop):
                return None
            shot = read_held(path, self._full_scale, self._room)
            if shot.error is None or not self._later(picture):
                return shot
        return None

    def _later(self, picture: _Picture) -> bool:
        """Whether a picture that cannot be read is looked at once more after a while: its writer may only be resting."""
        if self._doubted.pop(picture.name, None) == picture.stamp:
            return False
        self._doubted[picture.name] = picture.stamp
        self._waiting[picture.name] = picture.stamp, time.monotonic() + LOOK_AGAIN_S - self._settle_s
        self._room.leave(picture.path.as_posix())
        with self._mutex:
            del self._in_flight[picture.path]
        return True

    def files(self, stop: Callable[[], bool]) -> Iterator[Path]:
        """Each new picture when it is whole, until `stop()`. Raises JournalError.

        A picture that was handed on is not handed on again before `done` was called on it.
        """
        try:
            yield from self._files(stop)
        finally:
            self._ended = True
            self._commit(at_once=True)

    def done(self, file: Path, verdict: str, frame: int | None = None) -> None:
        """Note that a picture handed on by `files` was judged; call it when its row, of number `frame`, is written.

        With a sorter the file is moved once that is on disk, unless it has changed since it was handed on. Raises
        JournalError, and KeyError for a file that is not being judged.
        """
        picture = self._in_flight[file]
        self._journal.done(picture.name, picture.stamp, verdict)
        with self._mutex:
            self._to_sort.append((picture, verdict, frame))
            del self._in_flight[file]
        self._commit(at_once=self._ended)

    def end_in_order(self) -> None:
        """The run is ending as it should: what is still in hand is not to blame. Raises JournalError."""
        self._journal.end_in_order()

    def _files(self, stop: Callable[[], bool]) -> Iterator[Path]:
        self._ended = False
        while not stop():
            start = time.monotonic()
            ready = self._look(start)
            self._commit(at_once=False)
            suspects = [p for p in ready if self._journal.crashes(p.name, p.stamp)]
            for suspect in suspects:
                self._wait_for_judgements(stop)
                yield from self._begin([suspect], stop)
                self._wait_for_judgements(stop)
            others = [p for p in ready if p not in suspects] if suspects else ready
            for first in range(0, len(others), BEGUN_AT_ONCE):
                yield from self._begin(others[first : first + BEGUN_AT_ONCE], stop)
            if not ready:
                took_s = time.monotonic() - start
                wait_s = min(max(self._settle_s / 2, MIN_WAIT_S), MAX_WAIT_S)
                _sleep(max(wait_s, BUSY_SHARE * took_s), stop)

    def _begin(self, pictures: list[_Picture], stop: Callable[[], bool]) -> Iterator[Path]:
        """Note in the journal that these are begun, and hand them on."""
        if stop():
            return
        self._journal.begin([(p.name, p.stamp, str(p.path)) for p in pictures])
        for picture in pictures:
            if stop():
                return
            if _stamp(picture.path) != picture.stamp:
                continue  # gone, or being written again
            with self._mutex:
                self._in_flight[picture.path] = picture
            yield picture.path

    def _wait_for_judgements(self, stop: Callable[[], bool]) -> None:
        """Wait until nothing is in hand."""
        while self._in_flight and not stop():
            _sleep(MIN_WAIT_S, stop)

    def _commit(self, at_once: bool) -> None:
        """Bring what was judged to disk if that is due, then move those files."""
        with self._mutex:  # so that nothing is added to the list that this commit does not cover
            if not self._journal.commit(at_once):
                return
            to_sort, self._to_sort = self._to_sort, []
        for judged in to_sort:
            self._sort(*judged)

    def _look(self, now: float) -> list[_Picture]:
        """Look through the folder once; the pictures that are new and whole, in order of arrival."""
        waiting: dict[str, tuple[Stamp, float]] = {}
        names: set[str] = set()
        ready: list[_Picture] = []
        for picture, at_first in self._pictures():
            name, stamp = picture.name, picture.stamp
            names.add(name)
            with self._mutex:  # asked before the journal: `done` writes there before it gives the file free
                in_flight = picture.path in self._in_flight
            verdict = self._journal.verdict(name, stamp)
            if verdict is not None and at_first and not in_flight:
                self._sort(picture, verdict, frame=None)
            if in_flight or verdict is not None:
                continue
            earlier, since = self._waiting.get(name, (None, now))
            since = since if earlier == stamp else now
            waiting[name] = stamp, since
            if now - since >= self._settle_s * (1 if stamp.size else EMPTY_SETTLES):
                ready.append(picture)
        self._waiting = waiting
        if not self._unreadable:  # else `names` may lack some
            self._forget(names)
        return sorted(ready, key=lambda p: (p.stamp.mtime_ns, p.name))

    def _pictures(self) -> Iterator[tuple[_Picture, bool]]:
        """Every picture in the folder and below, each folder once however it is linked; and whether this is its first look."""
        unreadable: dict[str, str] = {}
        left_out: list[Path] = []

        def refused(error: OSError) -> None:
            if error.filename == str(self._folder) or not isinstance(error, FileNotFoundError):  # else just removed
                unreadable[error.filename] = error.strerror or str(error)

        for folder, subfolders, names in walk(self._folder, refused):
            if folder == self._folder and self._locked and FOLDER_LOCK not in names:
                unreadable[str(folder)] = f"one without the {FOLDER_LOCK} of this run, as where a share is not mounted"
            if RESULTS_FILE in names or MARK in names:
                subfolders.clear()
                if folder == self._folder:
                    unreadable[str(folder)] = "it holds results or sorted files"
                continue
            at_first = folder not in self._looked_into
            if at_first:
                try:
                    self._take_up(folder)
                except OSError as e:
                    unreadable[str(folder)] = one_line(e)
                    continue
                self._looked_into.add(folder)
            subfolders[:] = [name for name in subfolders if not name.startswith("~")]
            for path in filter(is_image, (folder / name for name in names)):
                if path.name.startswith("~"):
                    left_out.append(path)
                elif (stamp := _stamp(path)) is not None:
                    yield _Picture(path, path.relative_to(self._folder).as_posix(), stamp), at_first
        self._report(unreadable)
        if left_out and not self._said_left_out:
            self._said_left_out = True
            said = f"{len(left_out)} left out until renamed, since their names begin with ~: {left_out[0].name}"
            more = ", ..." if len(left_out) > 1 else ""
            event("hot_folder_left_out", f"{self._folder}: {said}{more}", files=len(left_out))

    def _report(self, unreadable: dict[str, str]) -> None:
        """Say which folders became unreadable, and which are readable again; once each."""
        for folder, reason in unreadable.items():
            if self._unreadable.get(folder) != reason:
                warning("hot_folder", f"{folder}: expected a readable folder, got {reason}; it is tried again")
        for folder in self._unreadable.keys() - unreadable.keys():
            warning("hot_folder", f"{folder}: readable again")
        self._unreadable = unreadable

    def _sort(self, picture: _Picture, verdict: str, frame: int | None) -> None:
        """Move a picture that was judged; `frame` is the number of its row in this run."""
        if self._sorter is None:
            return
        about = {"frame": frame, **picture.stamp._asdict()}
        try:
            if self._sorter.move(picture.path, Verdict(verdict), lambda path: _stamp(path) == picture.stamp, about):
                self._journal.moved(picture.name, picture.stamp)
        except SortError as e:
            warning("hot_folder", str(e))

    def _take_up(self, folder: Path) -> None:
        """End the moves that a crash cut short in this folder; what was not judged as it is now gets its name again.

        Raises OSError: what is there cannot be listed.
        """
        try:
            names = os.listdir(folder / ASIDE)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # none, or what nobody may move
            return
        for aside in (folder / ASIDE / name for name in sorted(names)):
            file, stamp = folder / aside.name, _stamp(aside)
            if stamp is None:
                continue
            name = file.relative_to(self._folder).as_posix()
            verdict = self._journal.verdict(name, stamp)
            try:
                if self._sorter is not None and verdict is not None:
                    self._sorter.take_up(aside, file, Verdict(verdict))
                    self._journal.moved(name, stamp)
                else:
                    put_back(aside, file)
            except (OSError, SortError) as e:
                warning("hot_folder", str(e))
        with suppress(OSError):
            (folder / ASIDE).rmdir()

    def _forget(self, names: set[str]) -> None:
        try:
            self._journal.forget(names)
        except JournalError as e:
            if str(e) != self._journal_error:
                warning("hot_folder", str(e))
            self._journal_error = str(e)


def _stamp(file: Path) -> Stamp | None:
    """Size and time of change; None when there is no such regular file (any more)."""
    try:
        status = file.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    """Sleep; answer `stop()` soon."""
    until = time.monotonic() + seconds
    while not stop() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
