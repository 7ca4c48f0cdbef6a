"""How many good pictures does it take? Categories with few of them, to be trained and judged by vtad-bench.

`<out>/<category>-<count>-<draw>` links to the test pictures of a category and to so many of its good training pictures, drawn
by the number of the draw. `vtad-bench --data <out>` trains and judges them; `--table RESULTS` prints what it found, as means over
the draws, and `--plot` draws it. Rows of whole categories below RESULTS stand beside, as draws of all their pictures.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import click
import numpy as np

from vtad.data.layout import default_data_dir, find_category
from vtad_benchmark.results.row import Row
from vtad_benchmark.results.rows import read_rows
from vtad_runtime.contract.command_line.command import no_traceback

COUNTS = "12,20,31,60"
DRAWN = re.compile(r"(.+)-\d+-\d+")  # the name of a category that was drawn


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


Groups = dict[tuple[str, int], list[Row]]


def grouped(rows: Sequence[Row]) -> Groups:
    """By category and number of good pictures, ascending."""
    groups: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        found = DRAWN.fullmatch(row.category)
        groups[found[1] if found else row.category, row.pictures.train_good].append(row)
    drawn = {row.category.rsplit("-", 2)[0] for row in rows if DRAWN.fullmatch(row.category)}
    return {key: of for key, of in sorted(groups.items()) if key[0] in drawn}


def table(groups: Groups) -> str:
    """Markdown: a row a category and count, each figure as the mean over draws and its range."""
    names = list(_figures(next(iter(groups.values()))[0])) if groups else []
    lines = ["| good pictures | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for (category, count), found in groups.items():
        figures = [_figures(row) for row in found]
        cells = [_spread([f[name] for f in figures]) for name in names]
        lines.append(f"| {category}, {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(groups: Groups, file: Path) -> None:
    """One panel a figure, one line a category: means over draws, with the range of the draws."""
    from matplotlib import pyplot

    names = list(_figures(next(iter(groups.values()))[0]))
    figure, panels = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), layout="constrained")
    for panel, name in zip(panels, names, strict=True):
        for category in dict.fromkeys(category for category, _ in groups):
            counts = [count for of, count in groups if of == category]
            values = [[v for row in groups[category, n] if (v := _figures(row)[name]) is not None] for n in counts]
            means = [mean(of) if of else math.nan for of in values]
            ends = [[m - min(of, default=m) for m, of in zip(means, values, strict=True)]]
            ends += [[max(of, default=m) - m for m, of in zip(means, values, strict=True)]]
            panel.errorbar(counts, means, ends, marker="o", capsize=3, label=category)
        panel.set(title=name, xscale="log", xlabel="good pictures", ylim=(0, None if "AU" not in name else 1.02))
        counts = sorted({count for _, count in groups})
        ticks = [n for n, after in zip(counts, [*counts[1:], math.inf], strict=True) if after > 1.1 * n]
        panel.set_xticks(ticks, map(str, ticks))
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=90)


def _figures(row: Row) -> dict[str, float | None]:
    decision = row.estimated or row.guaranteed  # as vtad-train decides by default
    return {
        "image AUROC": row.ranking.image_auroc,
        "AUPRO": row.ranking.aupro,
        "false alarms": row.count(decision, "false_alarms").share,
        "missed": row.count(decision, "misses").share,
    }


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
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="With --table: draw it into this file.")
def few_pictures(
    data: Path | None, categories: str, counts: str, draws: int, out: Path, found: Path | None, picture: Path | None
) -> None:
    """Make categories of few good pictures, or print the table of their results."""
    with no_traceback():
        if found is not None:
            groups = grouped(read_rows(found))
            click.echo(table(groups))
            if picture is not None and groups:
                plot(groups, picture)
            return
        for category in categories.split(","):
            for count in map(int, counts.split(",")):
                for number in range(draws):
                    click.echo(draw(data or default_data_dir(), category, count, number, out))


if __name__ == "__main__":
    few_pictures()
