"""A memory of what features of good parts look like: a cell is as odd as its distance to the nearest stored patch.

After PatchCore (Roth et al., arXiv 2106.08265): patches are chosen greedily so that none is far from a stored one, which keeps
what is rare on good parts too. Distances are taken in the principal directions, most of the variance for a third of the
cost, and not whitened. It knows no positions, hence parts may turn and move; what belongs where is for `vtad.place` to say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIRECTIONS = 64  # principal directions of the features
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
        """Features (B, C, rows, columns) -> Euclidean distance to the nearest patch (B, rows, columns)."""
        z = self.principal(features)
        square = z.square().sum(1, keepdim=True) - 2 * self.nearest(z)
        return torch.sqrt(square.clamp_min(1e-6))[:, 0]

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
        chosen = spread_out(z, min(count, len(z)), seed)
        patches = z[chosen.repeat(-(-count // len(chosen)))[:count]]
        self.principal.weight.copy_(matrix[:, :, None, None])
        self.principal.bias.copy_(-(matrix @ mean))  # type: ignore[union-attr]
        self.nearest.patches.weight.copy_(patches[:, :, None, None])
        self.nearest.patches.bias.copy_(-0.5 * patches.square().sum(1))  # type: ignore[union-attr]


def spread_out(z: Tensor, count: int, seed: int) -> Tensor:
    """Indices (count,) of points (N, R), each the farthest from those before it: greedy k-centre (Gonzalez, 1985)."""
    generator = torch.Generator().manual_seed(seed)
    if z.shape[1] > CHOICE_DIRECTIONS:
        z = z @ torch.randn(z.shape[1], CHOICE_DIRECTIONS, generator=generator) / CHOICE_DIRECTIONS**0.5
    half = 0.5 * z.square().sum(1)
    farthest = int(torch.randint(len(z), (1,), generator=generator))
    distance = torch.full((len(z),), torch.inf)  # half the square of it, to the nearest of those chosen
    chosen = torch.zeros(count, dtype=torch.long)
    for i in range(count):
        chosen[i] = farthest
        torch.minimum(distance, half + half[farthest] - z @ z[farthest], out=distance)
        farthest = int(distance.argmax())
    return chosen
