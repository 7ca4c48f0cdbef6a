"""One table of ratios: what was measured, its aim, and whether that is met; and its place in a document.

What cannot be measured on this machine has its row all the same, which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vtad_runtime.contract.disk.files import replacing
from vtad_runtime.contract.errors import VtadError, one_line

BEGIN, END = "<!-- written by make bench, to the line that ends it -->", "<!-- the end of what make bench writes -->"
HEAD = "| measured | ratio | aim | met |\n|---|---|---|---|"


class NotMeasured(VtadError):
    """Why something has no figure here. One line."""


@dataclass(frozen=True)
class Ratio:
    """Something that is measured as a ratio."""

    what: str
    at_most: float | None = None  # the aim
    at_least: float | None = None

    @property
    def aim(self) -> str:
        """In words."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {self.at_least:g}"

    def met(self, value: float) -> str:
        """Whether a value reaches the aim: yes, no, or nothing where there is none. What is read off the table counts."""
        if not self.aim:
            return ""
        shown = float(f"{value:.2f}")
        reached = shown <= self.at_most if self.at_most is not None else shown >= (self.at_least or 0.0)
        return "yes" if reached else "no"


class Part(NamedTuple):
    """Ratios that are measured together; `measure` gives each its value, or the reason why it has none here."""

    name: str
    ratios: tuple[Ratio, ...]
    measure: Callable[..., Iterator[tuple[Ratio, float | str]]]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    ratio: Ratio
    value: float | None = None
    why: str = ""  # there is none

    def __str__(self) -> str:
        if self.value is None:
            return f"| {self.ratio.what} | not measured: {self.why} | {self.ratio.aim} | |"
        return f"| {self.ratio.what} | {self.value:.2f} | {self.ratio.aim} | {self.ratio.met(self.value)} |"


def rows(part: Part, asked: object) -> list[Row]:
    """Every ratio of a part: those that `measure` gave before it ended, and of the others why not."""
    found, why = dict[Ratio, float | str](), "its part ended before"
    try:
        found.update(part.measure(asked))
    except (VtadError, ImportError, OSError) as e:
        why = one_line(e)
    return [_row(ratio, found.get(ratio, why)) for ratio in part.ratios]


def _row(ratio: Ratio, found: float | str) -> Row:
    return Row(ratio, why=found.replace("|", "/")) if isinstance(found, str) else Row(ratio, found)


def table(about: str, lines: Sequence[Row]) -> str:
    """Markdown: what all was measured with, then a line each."""
    return "\n".join([about, "", HEAD, *map(str, lines)])


def put(document: Path, text: str) -> None:
    """Write the table between the markers of a document, whose other words stay. Raises NotMeasured: it has not both; OSError."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise NotMeasured(f"{document}: expected the lines {BEGIN!r} and {END!r}, got not both; put them back")
    with replacing(document) as beside:
        beside.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
