"""What survives a crash: a lock that one process holds, and a database that is opened, mended and set aside."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from vtad_runtime.contract.disk.lock import FOLDER_LOCK, LOCKS, Lock, Locked, hold_folder
from vtad_runtime.storage.database import is_damaged, open_database, readable, set_aside, well_typed

SCHEMA = "CREATE TABLE IF NOT EXISTS parts (name BLOB PRIMARY KEY, size)"


def test_a_lock_is_held_by_one_until_it_is_closed(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    with pytest.raises(Locked, match="is held by process"):
        Lock(tmp_path / "lock")
    lock.close()
    Lock(tmp_path / "lock").close()


def test_a_lock_of_a_process_that_ended_is_free(tmp_path: Path) -> None:
    code = "import sys, pathlib, vtad_runtime.contract.disk.lock as l; l.Lock(pathlib.Path(sys.argv[1])); print('held')"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, check=True)
    assert ended.stdout.strip() == b"held"
    Lock(tmp_path / "lock").close()


def test_what_was_stored_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    for expected in ([], [(b"a\xff", 3)]):
        database = open_database(tmp_path / "parts.sqlite", SCHEMA, sync="FULL")
        assert database.execute("SELECT * FROM parts").fetchall() == expected
        database.execute("INSERT OR REPLACE INTO parts VALUES (?, ?)", (b"a\xff", 3))
        database.close()
    assert list(readable(tmp_path / "parts.sqlite", "SELECT * FROM parts")) == [(b"a\xff", 3)]


def test_a_damaged_file_is_known_as_such_and_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "parts.sqlite"
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(sqlite3.Error) as error:
        open_database(path, SCHEMA, sync="NORMAL")
    assert is_damaged(error.value)
    assert not is_damaged(sqlite3.OperationalError("disk I/O error"))
    assert list(readable(path, "SELECT * FROM parts")) == []
    aside = set_aside(path)
    assert aside.name == "parts.sqlite.damaged"
    assert not path.exists()
    open_database(path, SCHEMA, sync="NORMAL").close()


def test_rows_whose_values_are_of_other_kinds_are_left_out() -> None:
    rows = [(b"a", 1), (b"b", "2"), ("c", 3), (b"d", None), (b"e",)]
    assert well_typed(rows, bytes, int) == [(b"a", 1)]


@pytest.mark.skipif(not LOCKS, reason="nothing is locked here")
@pytest.mark.parametrize("kind", ["writable", "somebody's file", "read only"])
def test_a_folder_is_held_by_one_whatever_path_they_come_by(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in", target_is_directory=True)
    real_open = os.open

    def refusing(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR and kind != "writable":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, flags, *mode)

    if kind == "somebody's file":
        (tmp_path / "in" / FOLDER_LOCK).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refusing)
        lock = hold_folder(tmp_path / "in")
        assert lock is not None
        with pytest.raises(Locked, match="is held by process"):
            hold_folder(tmp_path / "link")
        lock.close()
        lock.close()
        again = hold_folder(tmp_path / "link")
        assert again is not None
        again.close()


def test_a_folder_that_cannot_be_locked_is_not_held(tmp_path: Path) -> None:
    assert hold_folder(tmp_path / "none") is None
