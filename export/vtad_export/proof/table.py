"""The table of vtad-export --format all: a row for each format and precision, made or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vtad_export.proof.certificate import size
from vtad_export.proof.exporter import Export, Status

_HEAD = (
    "format",
    "precision",
    "MB",
    "operations",
    "score",
    "heatmap",
    "ssim",
    "density",
    "recon.",
    "flips",
    "near",
    "s",
    "status",
)
_MAPS = ("score", "heatmap", "ssim_map", "density_map", "reconstruction")


@dataclass(frozen=True)
class Row:
    """One artefact."""

    format: str
    precision: str
    seconds: float  # with proof
    status: Status | Literal["failed", "not made"]
    made: Export | None = None
    reason: str = ""  # why it failed or was not made, or which images it judges otherwise than torch

    def cells(self) -> tuple[str, ...]:
        """As many as the table has columns."""
        if self.made is None:
            return (self.format, self.precision, *["-"] * 9, f"{self.seconds:.0f}", self.status)
        parity = self.made.parity
        return (
            self.format,
            self.precision,
            f"{size(self.made.path) / 1e6:.1f}",
            str(self.made.operations),
            *(f"{parity.max_error[name]:.1e}" for name in _MAPS),
            str(parity.verdict_flips),
            f"{near.flips} of {near.below + near.above}" if (near := parity.near) else "-",
            f"{self.seconds:.0f}",
            self.status,
        )


def table(rows: Sequence[Row], folder: Path) -> str:
    """The table, and below it why a row failed, was not made, or judges otherwise."""
    cells = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEAD))]
    lines = ["  " + "  ".join(f"{v:<{w}}" for v, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    reasons = [f"  {row.format} {row.precision}: {row.reason}" for row in rows if row.reason]
    return "\n".join([f"{folder}: largest errors, in the units of the certificates", *lines, *reasons])
