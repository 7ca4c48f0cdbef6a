"""The loss of a training, and its validation, as small curves of text."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Sequence

from vtad.run_folder import Run
from vtad_runtime.contract.progress import has_blocks

ROWS = 3  # of a curve
WIDEST = 120  # characters
BLOCKS, ASCII = " ▁▂▃▄▅▆▇█", " .:|"  # how full a cell is


def curves(run: Run, columns: int | None = None, blocks: bool | None = None) -> list[str]:
    """Lines for a terminal of so many columns, by default this one's; none of a run of one epoch or less.

    `blocks`: in Unicode's; by default where stdout can show them.
    """
    rows = run.epochs()
    columns = min(WIDEST, columns or shutil.get_terminal_size().columns)
    levels = BLOCKS if (has_blocks(sys.stdout) if blocks is None else blocks) else ASCII
    loss = [(row["epoch"], row["loss"]) for row in rows]
    validation = [(row["epoch"], row["val_loss"]) for row in rows if "val_loss" in row]
    lines: list[str] = []
    for name, points in (("loss", loss), ("validation", validation)):
        if len(points) < 2:
            continue
        least, at = min((value, epoch) for epoch, value in points)
        values = [value for _, value in points]
        lines.append(f"{name}, epochs {points[0][0]} to {points[-1][0]}: {values[-1]:.4g}, least {least:.4g} in {at}")
        lines += curve(values, columns, levels)
    return lines


def curve(values: Sequence[float], columns: int, levels: str = BLOCKS) -> list[str]:
    """Values as a filled curve in `ROWS` lines of at most `columns` characters, between the numbers of its top and foot.

    `levels`: the characters from empty to full.
    """
    top, foot = max(values), min(values)
    names = [f"{top:.4g}", *[""] * (ROWS - 2), f"{foot:.4g}"]
    margin = max(map(len, names))
    width = max(1, columns - margin - 2)
    starts = [i * len(values) // width for i in range(width + 1)]
    parts = [values[start : max(start + 1, end)] for start, end in itertools.pairwise(starts)]
    means = [sum(part) / len(part) for part in parts]
    full = ROWS * (len(levels) - 1)
    heights = [1 + round((full - 1) * (mean - foot) / ((top - foot) or 1.0)) for mean in means]
    lines = []
    for row, name in enumerate(names):
        below = (ROWS - 1 - row) * (len(levels) - 1)
        filled = "".join(levels[min(max(height - below, 0), len(levels) - 1)] for height in heights)
        lines.append(f"{name:>{margin}}  {filled}".rstrip())
    return lines
