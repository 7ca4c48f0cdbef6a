"""The rows of `make quality` as Markdown: a table for each category, one of the means over categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

Row = dict[str, Any]

BASELINES = ("padim", "patchcore", "l1", "ssim")
COMPARED = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}


def _three(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    *((field, title, _three) for field, title in COMPARED.items()),
    ("ssim_pixel_auroc", "SSIM alone: pixel AUROC", _three),
    ("ssim_aupro", "AUPRO", _three),
    ("density_pixel_auroc", "density alone: pixel AUROC", _three),
    ("density_aupro", "AUPRO", _three),
    ("context_image_auroc", "context alone: image AUROC", _three),
    ("context_pixel_auroc", "pixel AUROC", _three),
    ("context_aupro", "AUPRO", _three),
    ("missed", "missed", _percent),
    ("false_alarms", "false alarms", _percent),
    ("good_with_region", "good with a region", _percent),
    ("epochs", "epochs", lambda v: f"{v:.0f}"),
    ("last_mse", "last epoch: MSE", lambda v: f"{v:.4f}"),
    ("last_ssim", "1 - SSIM", _three),
    ("last_nll", "context NLL", _three),
    ("token_norm_patch_median", "token norms: patches, median", lambda v: f"{v:.1f}"),
    ("token_norm_patch_max", "largest", lambda v: f"{v:.1f}"),
    ("token_norm_register_mean", "registers", lambda v: f"{v:.1f}"),
    ("train_seconds", "training, min", lambda v: f"{v / 60:.1f}"),
    ("parameters", "parameters, M", lambda v: f"{v / 1e6:.2f}"),
    ("stored_numbers", "stored, M", lambda v: f"{v / 1e6:.2f}"),
    ("gflop", "GFLOP", lambda v: f"{v:.2f}"),
)


def markdown(rows: Sequence[Row]) -> str:
    """Means over seeds, in the order in which categories and methods first appear; the better baseline is bold.

    What was asked of a method beside its defaults makes a line of its own: unlike things are never averaged.
    """
    categories = list(dict.fromkeys(row["category"] for row in rows))
    parts = [_section(category, [r for r in rows if r["category"] == category]) for category in categories]
    if len(categories) > 1:
        parts.append(_section(f"Mean of {', '.join(categories)}", _over_categories(rows, categories)))
    parts.append(
        "Means over seeds. Bold: the better baseline. stored: numbers a detector keeps, weights and statistics. "
        "GFLOP: one forward pass of one image, matrix products and convolutions, FLOP = 2 x MAC. "
        f"Made at commit: {', '.join(dict.fromkeys(str(row['commit']) for row in rows))}."
    )
    return "\n\n".join(parts)


def label(row: Row) -> str:
    """The method, and what was asked of it beside its defaults."""
    return ", ".join([row["method"], *(f"{name} {value}" for name, value in row["asked"].items())])


def _section(title: str, rows: Sequence[Row]) -> str:
    lines = {name: [r for r in rows if label(r) == name] for name in dict.fromkeys(label(r) for r in rows)}
    means = {name: {field: _mean(group, field) for field, _, _ in _COLUMNS} for name, group in lines.items()}
    of_baselines = {name: mean for name, mean in means.items() if lines[name][0]["method"] in BASELINES}
    best = {field: _largest([mean[field] for mean in of_baselines.values()]) for field in COMPARED}
    text = [
        f"## {title}",
        "",
        "| method | seeds | input | " + " | ".join(name for _, name, _ in _COLUMNS) + " |",
        "|---" * (3 + len(_COLUMNS)) + "|",
    ]
    for name, group in lines.items():
        cells = []
        for field, _, shown in _COLUMNS:
            value = means[name][field]
            cell = "-" if value is None else shown(value)
            bold = name in of_baselines and field in COMPARED and value is not None and value == best[field]
            cells.append(f"**{cell}**" if bold else cell)
        seeds = ", ".join(str(seed) for seed in sorted({r["seed"] for r in group}))
        inputs = ", ".join(dict.fromkeys(r["input"] for r in group))
        text.append(f"| {name} | {seeds} | {inputs} | " + " | ".join(cells) + " |")
    for name, mean in means.items():
        if name in of_baselines:
            continue
        gaps = [
            f"{COMPARED[field]} {gap:+.3f}" for field in COMPARED if (gap := _gap(mean[field], best[field])) is not None
        ]
        if gaps:
            text += ["", f"{name} against the better baseline: {', '.join(gaps)}"]
    return "\n".join(text)


def _over_categories(rows: Sequence[Row], categories: Sequence[str]) -> list[Row]:
    """The rows of those methods and seeds that have been run on every category: a mean over fewer would mislead."""
    return [
        row
        for row in rows
        if {r["category"] for r in rows if label(r) == label(row) and r["seed"] == row["seed"]} == set(categories)
    ]


def _mean(rows: Sequence[Row], field: str) -> float | None:
    """None unless every row has the figure: a mean over some would pass for one over all."""
    values = [row[field] for row in rows if row.get(field) is not None]
    return fmean(values) if values and len(values) == len(rows) else None


def _largest(values: Sequence[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _gap(value: float | None, best: float | None) -> float | None:
    return None if value is None or best is None else value - best
