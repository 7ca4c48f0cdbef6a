"""The journal of a hot folder as vtad wrote it before SQLite: JSON objects, one a line. It is taken over once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Entries = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], int]


def old_entries(path: Path) -> Entries | None:
    """Rows for the tables `done` and `begun`, and how many lines are damaged; None: no such journal is there. Raises OSError."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(1) != b"{":
            return None
        file.seek(0)
        lines = [line for line in file if line.endswith(b"\n")]  # a crash may have torn the last one
    done: dict[bytes, tuple[Any, ...]] = {}
    begun: dict[bytes, tuple[Any, ...]] = {}
    damaged = 0
    for line in lines:
        try:
            entry = json.loads(line)
            name = os.fsencode(entry["name"])
            key = name, int(entry["size"]), int(entry["mtime_ns"])
            if entry["state"] == "done":
                done[name] = *key, str(entry["verdict"]), float(entry["judged_at"])
                begun.pop(name, None)
            else:
                results = None if entry["results"] is None else os.fsencode(entry["results"])
                begun[name] = *key, os.fsencode(entry["file"]), results, int(entry["offset"])
        except (ValueError, KeyError, TypeError):
            damaged += 1
    return list(done.values()), list(begun.values()), damaged
