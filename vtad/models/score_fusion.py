"""Score fusion: the five scorers of a cell as one number."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ScorerMaps(NamedTuple):
    """How odd each cell of a batch is, by five scorers: (B, rows, columns) each; None of a scorer that is not there.

    The names are those of the autoencoder's modules.
    """

    patch_memory: Tensor | None  # distance to the nearest stored patch: are these features seen on good parts at all
    feature_gmm: Tensor | None  # NLL: likewise, also in the directions in which good parts vary little
    position_gaussian: Tensor | None  # distance from what this position shows: do they belong here
    context_density: Tensor | None  # NLL in nats: are they what this position, in this picture, should hold
    segmentation_head: Tensor | None  # logits of a defect: do they look like damage


class ScoreFusion(nn.Module):
    """The scorers' z-scores over good pictures, weighted and summed. `vtad.calibration.score_fusion` sets both buffers."""

    mean: Tensor
    weight: Tensor  # over the standard deviation

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(ScorerMaps._fields)))
        self.register_buffer("weight", torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))

    def forward(self, seen: ScorerMaps) -> Tensor:
        """-> (B, rows, columns)."""
        first, *others = (self.weight[i] * (x - self.mean[i]) for i, x in enumerate(seen) if x is not None)
        return sum(others, start=first)
