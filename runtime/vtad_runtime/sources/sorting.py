"""Moves judged files into a folder by verdict: to/OK, to/NG, to/UNSURE, ..., each with the subfolders of the source.

A file first takes a name that nobody else uses, in the hidden folder `ASIDE` beside it: whoever writes the next part under
the old name from then on is in nobody's way. A crash leaves it there; `take_up` ends the move, and no second copy.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from types import MappingProxyType

from vtad_runtime.contract.disk.files import Lines, beside_of, sweep, sync
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full
from vtad_runtime.verdict.verdict import Verdict

MARK = ".vtad-sorted"  # a folder that holds this file is one of sorted files: a hot folder leaves it out
ASIDE = ".vtad-sorting"  # a folder in a watched one: files on their way out
NOTHING: Mapping[str, int | None] = MappingProxyType({})


class SortError(VtadError):
    """A file that could not be moved; it is where it was. One line."""


class Sorter:
    """Moves files; never overwrites one: the second part.png becomes part-2.png."""

    def __init__(self, to: Path, root: Path | None = None, log: Path | None = None) -> None:
        """Sort into `to`. Of files below `root` the subfolders are kept. Raises SortError: `to` cannot be written to.

        `log` is a JSON Lines file that gets {"file", "to"} for every file, "to" null where it stayed, and what is said about
        it: with it vtad-replay finds the pictures again.
        """
        self.to = to
        self._root, self._log, self._mutex = root, log, threading.Lock()
        self._last: dict[Path, int] = {}  # of a name that was taken: its last number
        if root is not None and to.resolve() == root.resolve():
            raise SortError(f"{to}: expected another folder to sort into than the one that is watched")
        try:
            to.mkdir(parents=True, exist_ok=True)
            (to / MARK).touch()
            for verdict in Verdict:
                sweep(to / str(verdict))
        except OSError as e:
            got = "a file" if to.is_file() else e.strerror or e
            said = f"{to}: expected a folder to sort into, got {got}; choose another by --sort-to"
            raise SortError(said, NOT_WRITTEN if disk_full(e) else USAGE) from e

    def move(
        self,
        file: Path,
        verdict: Verdict,
        is_meant: Callable[[Path], bool] = lambda _: True,
        about: Mapping[str, int | None] = NOTHING,
    ) -> Path | None:
        """Move a file to <to>/<verdict>/ and say where it is now. Raises SortError: it is still where it was.

        Whole or not at all: across file systems it is copied beside its new name, renamed, and then deleted. None, and it
        stays, where it is no more the one that `is_meant`: its writer may replace it at any moment before. `about` is
        logged with it.
        """
        aside, moved = file.parent / ASIDE / file.name, None
        with self._mutex:
            try:
                if is_meant(file):
                    moved = self._moved_by_way_of(aside, file, verdict, is_meant)
            except OSError as e:
                raise self._failed(file, verdict, e) from e
            finally:
                self._note(file, moved, about)
        return moved

    def take_up(self, aside: Path, file: Path, verdict: Verdict) -> None:
        """End the move of a file that a crash left in ASIDE; `file` was its name. Raises SortError: it is back under that."""
        moved = None
        with self._mutex:
            try:
                moved = self._copy(aside, file, verdict)
                if moved is None:
                    moved = self._moved(aside, file, verdict)
                else:
                    aside.unlink()
            except OSError as e:
                raise self._failed(file, verdict, e) from e
            finally:
                self._note(file, moved, {"frame": None})

    def _moved_by_way_of(
        self, aside: Path, file: Path, verdict: Verdict, is_meant: Callable[[Path], bool]
    ) -> Path | None:
        try:
            aside.parent.mkdir(exist_ok=True)
            if aside.exists():
                raise FileExistsError(errno.EEXIST, f"{aside} is in the way")
            file.rename(aside)
            if is_meant(aside):
                return self._moved(aside, file, verdict)
            put_back(aside, file)
            return None
        finally:
            with suppress(OSError):
                aside.parent.rmdir()

    def _moved(self, aside: Path, file: Path, verdict: Verdict) -> Path:
        try:
            return self._move(aside, self.to / str(verdict) / self._below(file), verdict)
        except OSError:
            put_back(aside, file)
            raise

    def _failed(self, file: Path, verdict: Verdict, error: OSError) -> SortError:
        return SortError(f"{file}: cannot be moved to {self.to / str(verdict)}: {error.strerror or error}; left there")

    def _copy(self, aside: Path, file: Path, verdict: Verdict) -> Path | None:
        """Where it lies already, whole: the crash came after that, and before the original was deleted."""
        wanted = self.to / str(verdict) / self._below(file)
        name_or_numbered = re.compile(re.escape(wanted.stem) + r"(-\d+)?" + re.escape(wanted.suffix))
        for name in os.listdir(wanted.parent) if wanted.parent.is_dir() else ():
            there = wanted.with_name(name)
            if name_or_numbered.fullmatch(name) and (there.samefile(aside) or filecmp.cmp(aside, there, shallow=False)):
                return there
        return None

    def _below(self, file: Path) -> Path:
        """The path below the root, or the name alone."""
        if self._root is not None and file.is_relative_to(self._root):
            return file.relative_to(self._root)
        return Path(file.name)

    def _move(self, aside: Path, wanted: Path, verdict: Verdict) -> Path:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._to_free_name(aside, wanted)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
        part = beside_of(self.to / str(verdict) / aside.name)
        try:
            shutil.copyfile(aside, part)
            sync(part)
            with suppress(OSError):  # a share may let nobody set times and modes
                shutil.copystat(aside, part)
            moved = self._to_free_name(part, wanted)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        try:
            aside.unlink()
        except OSError:
            moved.unlink(missing_ok=True)  # one place for one file: the one it cannot be taken from
            raise
        return moved

    def _to_free_name(self, file: Path, wanted: Path) -> Path:
        """Rename to `wanted`, or where that is taken to a free name-2, name-3, ... after the last one that was taken."""
        with suppress(FileExistsError):
            _rename(file, wanted)
            self._last.pop(wanted, None)
            return wanted
        free, number = _rename_numbered(file, wanted, 1 + (self._last.get(wanted) or _last_number(wanted)))
        self._last[wanted] = number
        return free

    def _note(self, file: Path, moved: Path | None, about: Mapping[str, int | None]) -> None:
        if self._log is None:
            return
        to = str(moved.resolve()) if moved else None
        with (
            suppress(OSError),
            closing(Lines(self._log, new=False)) as log,
        ):  # a help for replay; the move itself counts
            log.write(json.dumps({"file": file.as_posix(), "to": to, **about}) + "\n")


def put_back(aside: Path, file: Path) -> None:
    """Give a file in ASIDE its name again, or the first free one like it: a new part may have that name now. Raises OSError."""
    try:
        _rename(aside, file)
    except FileExistsError:
        _rename_numbered(aside, file, 2)
    with suppress(OSError):
        aside.parent.rmdir()


def _rename_numbered(file: Path, wanted: Path, first: int) -> tuple[Path, int]:
    """Rename to the first free of name-`first`, and so on; its name and number."""
    for number in count(first):
        with suppress(FileExistsError):
            _rename(file, free := _numbered(wanted, number))
            return free, number
    raise AssertionError("unreachable")


def _last_number(wanted: Path) -> int:
    """A taken number whose next one is free, 1 being the name itself; found in steps that double, then by halves."""
    taken, free = 1, 2
    while os.path.lexists(_numbered(wanted, free)):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (middle, free) if os.path.lexists(_numbered(wanted, middle)) else (taken, middle)
    return taken


def _numbered(wanted: Path, number: int) -> Path:
    return wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")


def _rename(file: Path, to: Path) -> None:
    """Rename without overwriting. Raises FileExistsError when the name is taken."""
    try:
        os.link(file, to)
    except FileExistsError:
        if not to.samefile(file):
            raise  # else a crash came between link and unlink
    except OSError as e:
        if e.errno in (errno.EXDEV, errno.ENOENT):
            raise
        # This file system has no links, or they are not allowed: hold the name by an empty file of ours, then rename.
        os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            file.replace(to)
        except OSError:
            to.unlink(missing_ok=True)
            raise
        return
    try:
        file.unlink()
    except OSError:
        to.unlink(missing_ok=True)
        raise
