"""How a score comes from a heatmap, by a card's rule: the mean of its highest cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import ScoreRule


def top_cells(heatmap: NDArray[np.float32], rule: ScoreRule) -> NDArray[np.float64]:
    """The highest cells (K,) of a heatmap (height, width), at least one, in no order."""
    cell = rule.cell
    rows, columns = heatmap.shape[0] // cell, heatmap.shape[1] // cell
    blocks = heatmap[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    cells = blocks.mean(axis=(1, 3), dtype=np.float64).ravel()  # (rows * columns,)
    top = max(1, round(rule.top_share * cells.size))
    highest: NDArray[np.float64] = np.partition(cells, cells.size - top)[cells.size - top :]
    return highest


def top_score(heatmap: NDArray[np.float32], rule: ScoreRule) -> float:
    """The score of a heatmap (height, width)."""
    return float(top_cells(heatmap, rule).mean())
