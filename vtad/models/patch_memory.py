"""Patch memory: a cell is as odd as the distance of its features to the nearest stored patch of a good part.

After PatchCore (Roth et al., arXiv 2106.08265): patches are chosen greedily so that none is far from a stored one, which keeps
what is rare on good parts too. Distances are taken in the principal directions, which hold most of the variance for a third of
the cost, and are not whitened. It knows no positions, hence parts may turn and shift. What belongs where is the task of
`vtad.models.position_gaussian`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIRECTIONS = 64  # principal directions of the features
NEAREST = (
    0.04  # squared distance below which all are alike: nearer, rounding would decide, and engines round differently
)
CHOICE_DIRECTIONS = 32  # random ones that the choice of patches is made in, for speed (Johnson and Lindenstrauss)


class NearestPatch(nn.Module):
    """The largest of z . c - |c|^2 / 2 over the stored patches c: the nearest one's, since |z|^2 is the same for all."""

    def __init__(self, dim: int, patches: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(dim, patches, 1).requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        """(B, R, rows, columns) -> (B, 1, rows, columns)."""
        return torch.amax(self.patches(z), dim=1, keepdim=True)


class PatchMemory(nn.Module):
    """Features of C channels against at most `patches` stored ones. `fit` sets it; nothing here is trained by gradients."""

    def __init__(self, channels: int, patches: int) -> None:
        super().__init__()
        dim = min(DIRECTIONS, channels)
        self.principal = nn.Conv2d(channels, dim, 1).requires_grad_(False)  # their summed variance is `dim`
        self.nearest = NearestPatch(dim, patches)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, rows, columns) -> Euclidean distance to the nearest patch, at least a fifth (B, rows, columns)."""
        z = self.principal(features)
        square = z.square().sum(1, keepdim=True) - 2 * self.nearest(z)
        return torch.sqrt(square.clamp_min(NEAREST))[:, 0]

    @torch.no_grad()
    def fit(self, samples: Tensor, seed: int = 0) -> None:
        """From features of good images (N, C), on the CPU. Where N is below the number of patches, some are stored twice."""
        x = samples.float().cpu()
        mean = x.mean(0)
        variance, directions = torch.linalg.eigh(torch.cov((x - mean).T).double())
        dim = len(self.principal.weight)
        scale = torch.sqrt(dim / variance[-dim:].sum().clamp_min(1e-12))
        matrix = (directions[:, -dim:].flip(1) * scale).float().T  # (R, C)
        z = (x - mean) @ matrix.T
        count = len(self.nearest.patches.weight)
        generator = torch.Generator().manual_seed(seed)
        seen = z
        if dim > CHOICE_DIRECTIONS:
            seen = z @ torch.randn(dim, CHOICE_DIRECTIONS, generator=generator) / CHOICE_DIRECTIONS**0.5
        chosen = greedy_coreset(seen, count, first=int(torch.randint(len(z), (1,), generator=generator)))
        patches = z[chosen.repeat(-(-count // len(chosen)))[:count]]
        self.principal.weight.copy_(matrix[:, :, None, None])
        self.principal.bias.copy_(-(matrix @ mean))  # type: ignore[union-attr]
        self.nearest.patches.weight.copy_(patches[:, :, None, None])
        self.nearest.patches.bias.copy_(-0.5 * patches.square().sum(1))  # type: ignore[union-attr]


def greedy_coreset(points: Tensor, count: int, first: int | None = None) -> Tensor:
    """Indices of `count` of the points (N, D), each the one farthest from those before (Gonzalez 1985); all when N <= count.

    `first` is the first of them; without it, the one farthest from the mean: a choice that needs no luck.
    """
    if len(points) <= count:
        return torch.arange(len(points), device=points.device)
    squares = points.square().sum(1)
    chosen = torch.empty(count, dtype=torch.long, device=points.device)
    chosen[0] = squares.addmv(points, points.mean(0), alpha=-2).argmax() if first is None else first
    uncovered = torch.full_like(squares, torch.inf)  # squared distance to the nearest chosen point
    for i in range(count - 1):
        last = chosen[i]
        to_last = torch.addmv(squares, points, points[last], alpha=-2).add_(squares[last])
        torch.minimum(uncovered, to_last, out=uncovered)
        uncovered[last] = -torch.inf  # rounding must not choose a point twice
        chosen[i + 1] = uncovered.argmax()
    return chosen
