"""Lines of CSV (RFC 4180) in the dialects of spreadsheets, which read a file on double click as their country writes numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

Dialect = Literal["excel", "excel-eu", "rfc4180"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a formula may begin with
BOM = "\ufeff"  # tells Excel that the text is UTF-8


class _Form(NamedTuple):
    delimiter: str
    decimal: str
    begin: str


FORMS: dict[Dialect, _Form] = {
    "excel": _Form(",", ".", BOM),
    "excel-eu": _Form(";", ",", BOM),
    "rfc4180": _Form(",", ".", ""),
}
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


def csv_line(values: Sequence[Any], dialect: Dialect = "excel", *, first: bool = False) -> str:
    """One line of CSV, with its end. Text that a spreadsheet would take for a formula gets a ' in front.

    `first`: it begins a file.
    """
    form = FORMS[dialect]
    text = io.StringIO()
    csv.writer(text, delimiter=form.delimiter).writerow([_cell(value, form.decimal) for value in values])
    return (form.begin if first else "") + text.getvalue()


def _cell(value: Any, decimal: str) -> Any:
    if isinstance(value, float):
        return repr(value).replace(".", decimal)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
