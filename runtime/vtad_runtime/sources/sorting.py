"""Moves judged files into a folder by verdict: to/OK, to/NG, to/UNSURE, ..., each with the subfolders of the source."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.files import Lines, sync
from vtad_runtime.verdict.verdict import Verdict

MARK = ".vtad-sorted"  # a folder that holds this file is one of sorted files: a hot folder leaves it out


class SortError(VtadError):
    """A file that could not be moved; it is where it was. One line."""


class Sorter:
    """Moves files; never overwrites one: the second part.png becomes part-2.png."""

    def __init__(self, to: Path, root: Path | None = None, log: Path | None = None) -> None:
        """Sort into `to`. Of files below `root` the subfolders are kept. Raises SortError: `to` cannot be written to.

        `log` is a JSON Lines file that gets {"file", "to"} for every move, "to" null where it failed: with it
        vtad-replay finds the pictures again.
        """
        self.to = to
        self._root, self._log = root, log
        if root is not None and to.resolve() == root.resolve():
            raise SortError(f"{to}: expected another folder to sort into than the one that is watched")
        try:
            to.mkdir(parents=True, exist_ok=True)
            (to / MARK).touch()
        except OSError as e:
            got = "a file" if to.is_file() else e.strerror or e
            raise SortError(f"{to}: expected a folder to sort into, got {got}; choose another by --sort-to") from e

    def move(self, file: Path, verdict: Verdict) -> Path:
        """Move a file to <to>/<verdict>/ and say where it is now. Raises SortError: it is still where it was.

        Whole or not at all: across file systems it is copied beside its new name, renamed, and then deleted.
        """
        try:
            moved = self._move(file, self.to / str(verdict) / self._below(file))
        except OSError as e:
            self._note(file, None)
            wanted = self.to / str(verdict)
            raise SortError(f"{file}: cannot be moved to {wanted}: {e.strerror or e}; left there") from e
        self._note(file, moved)
        return moved

    def _below(self, file: Path) -> Path:
        """The path below the root, or the name alone."""
        if self._root is not None and file.is_relative_to(self._root):
            return file.relative_to(self._root)
        return Path(file.name)

    def _move(self, file: Path, wanted: Path) -> Path:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _rename_to_free_name(file, wanted)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
        part = wanted.with_name(f".{wanted.name}.{os.getpid()}.part")
        try:
            shutil.copy2(file, part)
            sync(part)
            moved = _rename_to_free_name(part, wanted)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        try:
            file.unlink()
        except OSError:
            moved.unlink(missing_ok=True)  # one place for one file: the one it cannot be taken from
            raise
        return moved

    def _note(self, file: Path, moved: Path | None) -> None:
        if self._log is None:
            return
        to = str(moved.resolve()) if moved else None
        with (
            suppress(OSError),
            closing(Lines(self._log, new=False)) as log,
        ):  # a help for replay; the move itself counts
            log.write(json.dumps({"file": file.as_posix(), "to": to}) + "\n")


def _rename_to_free_name(file: Path, wanted: Path) -> Path:
    """Rename to `wanted`, or where that is taken to the first free of name-2, name-3, ..."""
    for number in count(1):
        free = wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        try:
            _rename(file, free)
        except FileExistsError:
            continue
        return free
    raise AssertionError("unreachable")


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
