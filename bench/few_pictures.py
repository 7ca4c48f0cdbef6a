"""How many good pictures does it take? Categories with few of them, to be trained and judged by vtad-bench.

`<out>/<category>-<count>-<draw>` links to the test pictures of a category and to so many of its good training pictures, drawn
by the number of the draw. `vtad-bench --data <out>` trains and judges them; `--table RESULTS` prints what it found, as means over
the draws.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from statistics import mean

import click
import numpy as np

from vtad.data.layout import default_data_dir, find_category
from vtad_benchmark.results.row import RULES, Row
from vtad_benchmark.results.rows import read_rows
from vtad_runtime.contract.command_line.command import no_traceback

COUNTS = "12,20,31,60"


def draw(data: Path, category: str, count: int, number: int, out: Path) -> Path:
    """The folder of the category `<category>-<count>-<number>` below `out`; what is there already stays."""
    folder = out / f"{category}-{count}-{number}"
    if folder.is_dir():
        return folder
    source = data / category
    good = find_category(data, category).train_good
    chosen = np.random.default_rng((number, count)).choice(len(good), count, replace=False)
    (folder / "train" / "good").mkdir(parents=True)
    for file in (good[i] for i in sorted(chosen)):
        os.symlink(file.resolve(), folder / "train" / "good" / file.name)
    for part in ("test", "ground_truth"):
        if (source / part).is_dir():
            os.symlink((source / part).resolve(), folder / part)
    return folder


def table(rows: list[Row]) -> str:
    """Markdown: a row a category and count, each figure as the mean over draws and its range."""
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        category, count, _ = row.category.rsplit("-", 2)
        groups[category, int(count)].append(row)
    names = list(_figures(rows[0])) if rows else []
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for (category, count), found in sorted(groups.items()):
        figures = [_figures(row) for row in found]
        cells = [_spread([f[name] for f in figures]) for name in names]
        lines.append(f"| {category}, {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figures(row: Row) -> dict[str, float | None]:
    found: dict[str, float | None] = {"image AUROC": row.ranking.image_auroc, "AUPRO": row.ranking.aupro}
    for rule in RULES:
        decision = row.decision(rule)
        for name in ("false_alarms", "misses", "good_with_region"):
            shown = f"{name.replace('_', ' ')}, {rule}"
            found[shown] = None if decision is None else row.count(decision, name).share
    return found


def _spread(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{mean(there):.3f} ({min(there):.3f} to {max(there):.3f})" if there else "-"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", type=click.Path(path_type=Path), help="Folder of categories.  [default: $VTAD_DATA, or data]")
@click.option("--categories", default="bottle,tire,tile", show_default=True, help="With commas.")
@click.option("--counts", default=COUNTS, show_default=True, help="Of good pictures.")
@click.option("--draws", type=click.IntRange(1), default=3, show_default=True, help="Of each count.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/few"), show_default=True)
@click.option("--table", "found", type=click.Path(exists=True, path_type=Path), help="Folder of results of vtad-bench.")
def few_pictures(data: Path | None, categories: str, counts: str, draws: int, out: Path, found: Path | None) -> None:
    """Make categories of few good pictures, or print the table of their results."""
    with no_traceback():
        if found is not None:
            click.echo(table(read_rows(found)))
            return
        for category in categories.split(","):
            for count in map(int, counts.split(",")):
                for number in range(draws):
                    click.echo(draw(data or default_data_dir(), category, count, number, out))


if __name__ == "__main__":
    few_pictures()
