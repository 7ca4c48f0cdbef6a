"""Reads the CSV files of vtad in every dialect, by looking at the file."""

from __future__ import annotations

import csv
from pathlib import Path


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows by their columns; a number as Python reads it."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        eu = ";" in text.readline()
        text.seek(0)
        rows = list(csv.DictReader(text, delimiter=";" if eu else ",", strict=True))
    return [{column: _number(cell) if eu else cell for column, cell in row.items()} for row in rows]


def _number(cell: str) -> str:
    try:
        float(pointed := cell.replace(",", "."))
    except ValueError:
        return cell
    return pointed
