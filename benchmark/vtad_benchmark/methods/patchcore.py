"""PatchCore (Roth et al., arXiv 2106.08265): distance to the nearest of the stored patches of good images.

As published: features averaged over 3 x 3 cells, greedy k-centre coreset chosen in a random projection (128 dimensions), exact
nearest neighbour, bilinear upsampling, Gaussian blur of 4 pixels, score = the largest nearest distance, re-weighted by how
crowded the stored patches are around the neighbour (its equation 7, with the 9 nearest). Different: the features are the
detector's own; the greedy choice is among a random subset of about CANDIDATES patches, since its time grows with their number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtad.data.batches import batches
from vtad.data.images import ImageCache
from vtad.models.patch_memory import greedy_coreset
from vtad_benchmark.methods.baseline import Baseline, device_of, enlarge
from vtad_benchmark.methods.options import PATCHES

CANDIDATES = 60_000  # that the coreset is chosen from
PROJECTED = 128  # dimensions in which the coreset is chosen
NEIGHBOURS = 9  # of the re-weighting


class Patchcore(Baseline):
    """`features`: (B, 3, H, W) in 0..1 -> (B, C, rows, columns), fixed. `patches`: stored at most."""

    memory: Tensor

    def __init__(
        self, features: nn.Module, patches: int = PATCHES, candidates: int = CANDIDATES, seed: int = 0
    ) -> None:
        super().__init__()
        self.features = features
        self.patches, self.candidates, self.seed = patches, candidates, seed
        self.register_buffer("memory", torch.empty(0))  # (M, C)

    @torch.inference_mode()
    def fit(self, images: ImageCache) -> None:
        """The same number of candidates from each image, at random; then the coreset."""
        generator = torch.Generator().manual_seed(self.seed)
        share = -(-self.candidates // len(images))  # of each image, rounded up
        found = []
        for batch in batches(images, device_of(self)):
            for cells in self.features(batch.float() / 255).flatten(2).transpose(1, 2):  # (P, C)
                chosen = torch.randperm(len(cells), generator=generator)[:share]
                found.append(cells[chosen.to(cells.device)])
        candidates = torch.cat(found)
        projection = torch.randn(candidates.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
        chosen = greedy_coreset(candidates @ projection.to(candidates.device), self.patches)
        self.memory = candidates[chosen]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 (B, 3, H, W) -> scores (B,) and maps (B, H, W)."""
        f = self.features(image.float() / 255)
        rows, columns = f.shape[2:]
        cells, scores = [], []
        for patches in f.flatten(2).transpose(1, 2):  # one image at a time: its distances are 200 MB
            distance, nearest = squared_distances(patches, self.memory).min(1)
            distance = distance.sqrt()
            scores.append(self._reweighted(patches, distance, nearest))
            cells.append(distance.reshape(rows, columns))
        return torch.stack(scores), enlarge(torch.stack(cells), image.shape[2], image.shape[3])

    def _reweighted(self, patches: Tensor, distance: Tensor, nearest: Tensor) -> Tensor:
        odd = distance.argmax()
        neighbour = self.memory[nearest[odd]][None]
        count = min(NEIGHBOURS, len(self.memory))
        around = squared_distances(neighbour, self.memory)[0].topk(count, largest=False).indices
        to_around = squared_distances(patches[odd][None], self.memory[around])[0].sqrt()
        # exp(d*) / sum exp(d), as a difference of logarithms: distances of 100 would overflow.
        share = torch.exp(distance[odd] - torch.logsumexp(to_around, 0)).clamp_max(1)
        return distance[odd] * (1 - share) if count > 1 else distance[odd]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, C) and (M, C) -> (N, M). Around the mean of `b`: far from the origin the products would cancel."""
    origin = b.mean(0)
    a, b = a - origin, b - origin
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return squares.addmm(a, b.T, alpha=-2).clamp_min_(0)
