"""Curves of a training, from metrics.jsonl."""

from __future__ import annotations

from typing import Any

from vtad.report.plots import Plot, lines
from vtad.run_folder import Run

LOSSES = {"mse": "squared error", "ssim": "1 - SSIM", "nll": "NLL", "segmentation_loss": "segmentation loss"}
TOKEN_NORMS = "token norms"
NORMS = {
    "token_norm_patch_median": "patches, median",
    "token_norm_patch_max": "patches, largest",
    "token_norm_register_mean": "registers, mean",
}


def training_plots(run: Run) -> dict[str, Plot]:
    """The loss and its parts, and the norms of the tokens, by title; none of what was not kept."""
    rows = run.epochs()
    shown = {"loss": {"training": _line(rows, "loss"), "validation": _line(rows, "val_loss")}}
    shown |= {title: {title: _line(rows, key)} for key, title in LOSSES.items() if any(_line(rows, key)[1])}
    shown[TOKEN_NORMS] = {name: _line(rows, key) for key, name in NORMS.items()}
    return {title: plot for title, named in shown.items() if (plot := lines(title, named))}


def _line(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values, where there is one."""
    there = [row for row in rows if isinstance(row.get(key), int | float) and isinstance(row.get("epoch"), int)]
    return [row["epoch"] for row in there], [row[key] for row in there]
