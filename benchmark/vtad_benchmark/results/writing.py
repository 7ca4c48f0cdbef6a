"""All that a folder of results gets beside its rows: results.parquet, results.csv, tables.md, tables.tex, index.html."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vtad.run_folder import replacing, write_text
from vtad_benchmark.results.markup import latex, markdown
from vtad_benchmark.results.page import page
from vtad_benchmark.results.published import read_published
from vtad_benchmark.results.row import Row
from vtad_benchmark.results.tables import against_baselines, tables
from vtad_runtime.contract.errors import VtadError

NEEDED = ("pyarrow", "jinja2", "matplotlib")
TEXTS = ("export", "run", "trained_commit")  # columns that hold text where they hold anything


def require_packages() -> None:
    """Raise VtadError where a package of the extra is missing: it would be missed at the very end."""
    for name in NEEDED:
        if find_spec(name) is None:
            raise VtadError(f"vtad-bench: expected {name}, which is not installed; pip install 'vtad[benchmark]'")


def write_results(out: Path, rows: Sequence[Row], open_jobs: Sequence[str]) -> str:
    """Write all files; the Markdown is returned. `open_jobs`: a line each job that is not done. Raises WriteError."""
    columns = _columns(rows)
    _write_parquet(out / "results.parquet", columns)
    _write_csv(out / "results.csv", columns)
    found, lines = tables(rows, read_published().figures), against_baselines(rows)
    text = markdown(found, lines)
    write_text(out / "tables.md", text)
    write_text(out / "tables.tex", latex(found))
    write_text(out / "index.html", page(out, rows, found, lines, open_jobs))
    return text


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """By column, a value each row; None where it has none."""
    flat = [row.flat() for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in names}


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {}
    for name, values in columns.items():
        nothing = all(value is None for value in values)
        arrays[name] = pa.array(values, (pa.string() if name in TEXTS else pa.float64()) if nothing else None)
    with replacing(path) as beside:
        parquet.write_table(pa.table(arrays), beside)


def _write_csv(path: Path, columns: dict[str, list[Any]]) -> None:
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
