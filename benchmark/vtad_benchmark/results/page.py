"""The page of a benchmark: index.html in the folder of results, with its tables and links to every run's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from vtad_benchmark.results.row import Row
from vtad_benchmark.results.tables import Table

TEMPLATE = Path(__file__).with_name("page.html")
LINKED = {
    "report": "report.html",
    "metrics": "metrics.json",
    "card": "card.json",
    "certificate": "export/parity.json",
    "log": "metrics.jsonl",
}  # what a run folder may hold, by what the link says


@dataclass(frozen=True)
class RunLinks:
    """One row and where its files are."""

    row: Row
    links: tuple[tuple[str, str], ...]  # text and address, relative to the page


def page(
    out: Path, rows: Sequence[Row], tables: Sequence[Table], lines: Sequence[str], open_jobs: Sequence[str]
) -> str:
    """The page as HTML; it loads nothing from elsewhere. Links lead to what is there now."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    runs = [RunLinks(row, _links(out, row)) for row in rows]
    return template.render(tables=tables, lines=lines, runs=runs, open_jobs=open_jobs)


def _links(out: Path, row: Row) -> tuple[tuple[str, str], ...]:
    if row.run is None:
        return ()
    there = [(text, f"{row.run}/{name}") for text, name in LINKED.items() if (out / row.run / name).is_file()]
    return tuple((text, quote(address)) for text, address in there)
