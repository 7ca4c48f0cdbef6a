"""Rows on disk: <out>/rows/<job>/<category>-<fingerprint>.json, a whole file a job, so that many machines add theirs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from vtad.run_folder import RunError, make_folder, write_text
from vtad_benchmark.results.row import Row
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed


def write_row(path: Path, row: Row) -> None:
    """Write a row whole. Raises RunError, WriteError."""
    make_folder(path.parent)
    write_text(path, json.dumps(dataclasses.asdict(row), indent=2, allow_nan=False) + "\n")


def read_row(path: Path) -> Row:
    """The row in a file. Raises RunError naming a file that holds none."""
    try:
        return typed(Row, parsed(path.read_bytes()), "row")
    except (OSError, WrongJson) as e:
        raise RunError(f"{path}: expected a row of vtad-bench, got {e}: remove that file, and it is made anew") from e


def read_rows(out: Path) -> list[Row]:
    """Every row below a folder of results, in order of category, method and seed. Raises RunError."""
    rows = [read_row(path) for path in (out / "rows").glob("*/*.json")]
    return sorted(rows, key=lambda row: (row.category, row.label, row.fingerprint, row.seed))
