"""SQLite files of one process at a time: opened, read as far as damage allows, set aside.

With a write-ahead log (WAL): what is committed survives `kill -9` at once. It survives a power cut at once with `sync="FULL"`,
with "NORMAL" as soon as the log is synced (`wal_of`). The exclusive lock needs no shared memory, so network drives serve too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import UnionType
from typing import Any, Literal

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_database(
    path: Path, schema: str, *, sync: Literal["FULL", "NORMAL"], page_bytes: int = 4096
) -> sqlite3.Connection:
    """Open or make the file; each statement commits itself. For threads that take turns. Raises sqlite3.Error."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.text_factory = _as_text
    try:
        for pragma in (
            f"page_size={page_bytes}",
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            f"synchronous={sync}",
        ):
            database.execute(f"PRAGMA {pragma}")
        database.executescript(schema)
    except UnicodeDecodeError as e:  # SQLite's own words about a damaged schema need not be text
        database.close()
        damage = sqlite3.DatabaseError("the schema is damaged")
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage from e
    except sqlite3.Error:
        database.close()
        raise
    return database


def _as_text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def wal_of(path: Path) -> Path:
    """The write-ahead log of a database that is open."""
    return path.with_name(path.name + "-wal")


def is_damaged(error: BaseException) -> bool:
    """Whether the file's content is the cause, and not the disk or the system."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


def readable(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, up to where a damaged file cannot be read on. The file must not be open."""
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(sqlite3.connect(path)) as database:
        database.text_factory = _as_text
        yield from database.execute(query)


def well_typed(rows: Iterable[tuple[Any, ...]], *kinds: type | UnionType) -> list[tuple[Any, ...]]:
    """Those rows whose values are of these kinds: a damaged file may read as if it were whole."""
    return [r for r in rows if len(r) == len(kinds) and all(isinstance(v, k) for v, k in zip(r, kinds, strict=True))]


def set_aside(path: Path) -> Path:
    """Rename a damaged file, in place of one set aside earlier; its new path. It must not be open. Raises OSError."""
    aside = path.with_name(path.name + ".damaged")
    os.replace(path, aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
