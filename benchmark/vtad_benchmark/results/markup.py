"""Tables as Markdown and as LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtad_benchmark.results.tables import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def markdown(tables: Sequence[Table], lines: Sequence[str] = ()) -> str:
    """A section a table; `lines` come after the first."""
    parts = []
    for i, table in enumerate(tables):
        part = [f"## {table.title}", "", _line(table.head), "|---" * len(table.head) + "|"]
        part += [_line(line) for line in table.lines]
        parts.append("\n".join([*part, "", table.note]))
        if i == 0 and lines:
            parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """A table environment each, to be input into a document that uses the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}."]
    for table in tables:
        label = re.sub(r"\W+", "-", table.title.lower()).strip("-")
        parts.append(
            "\n".join(
                [
                    "\\begin{table}",
                    f"\\caption{{{escaped(table.title)} {escaped(table.note)}}}",
                    f"\\label{{tab:{label}}}",
                    f"\\begin{{tabular}}{{{'l' * len(table.head)}}}",
                    "\\toprule",
                    _row(table.head),
                    "\\midrule",
                    *(_row(line) for line in table.lines),
                    "\\bottomrule",
                    "\\end{tabular}",
                    "\\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
