"""Feature GMM: a Gaussian mixture over the fixed features, shared by all positions, each component with its own covariance.

p(f) = sum_k pi_k N(f; mu_k, S_k), fitted by expectation maximisation (Dempster et al., 1977). Whitened by the covariance that
the components have in common, S_k is a multiple of the identity plus a few directions that differ (after Tipping & Bishop,
Mixtures of Probabilistic Principal Component Analysers, 1999). So a component costs two thin matrix products.

Like the patch memory (vtad/models/patch_memory.py) it knows no positions. Unlike it, it weighs every direction by how little
good parts vary in it: it sees a slight change of colour, and takes what good parts show rarely for odd.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RANK = 24  # directions in which a component differs from what they have in common
NEAREST_STEPS = 10  # of k-means, which the components start from
STEPS = 4  # of expectation maximisation
SMALLEST_VARIANCE = 1e-2  # of a direction, as a share of what the components have in common
NOISE = 1e-2  # variance added to every feature, as in PaDiM (arXiv 2011.08785)


class FeatureGmm(nn.Module):
    """K Gaussians of C channels. `fit` sets them; nothing here is trained by gradients."""

    centres: Tensor
    curvature: Tensor
    precision: Tensor
    log_weight: Tensor

    def __init__(self, channels: int, components: int, rank: int = RANK) -> None:
        super().__init__()
        rank = min(rank, channels - 1)
        self.components, self.rank = components, rank
        self.whiten = nn.Conv2d(channels, channels, 1).requires_grad_(False)
        self.along = nn.Conv2d(channels, components * rank, 1).requires_grad_(False)  # the directions of each component
        self.register_buffer("centres", torch.zeros(components, channels))
        self.register_buffer("curvature", torch.zeros(components * rank, 1, 1, 1))  # what they add to the precision
        self.register_buffer("precision", torch.ones(components))  # of all other directions
        self.register_buffer("log_weight", torch.zeros(components))  # log pi_k - 0.5 log det S_k, whitened

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, rows, columns) -> NLL (B, rows, columns) in nats, up to a constant."""
        z = self.whiten(features)
        square = z.square().sum(1, keepdim=True) + self.centres.square().sum(1)[None, :, None, None]
        square = square - 2 * F.conv2d(z, self.centres[:, :, None, None])  # (B, K, rows, columns)
        curvature = self.curvature.reshape(self.components, self.rank, 1, 1)
        low_rank = F.conv2d(self.along(z).square(), curvature, groups=self.components)
        distance = square * self.precision[None, :, None, None] + low_rank
        return -torch.logsumexp(self.log_weight[None, :, None, None] - 0.5 * distance, dim=1)

    @torch.no_grad()
    def fit(self, samples: Tensor, seed: int = 0) -> None:
        """From features of good images (N, C), on the CPU. Components of few samples lean on what all have in common."""
        if self.centres.device.type != "cpu":
            on_cpu = FeatureGmm(self.centres.shape[1], self.components, self.rank)
            on_cpu.fit(samples, seed)
            self.load_state_dict(on_cpu.state_dict())
            return
        generator = torch.Generator().manual_seed(seed)
        x = samples.float().cpu()
        dim, k = x.shape[1], self.components
        mean = x.mean(0)
        x = x - mean
        nearest = _nearest(x, _overall_whitening(x), k, generator)
        within = (
            x
            - torch.stack([x[nearest == j].mean(0) if (nearest == j).any() else x[j % len(x)] for j in range(k)])[
                nearest
            ]
        )
        values, vectors = torch.linalg.eigh((within.T @ within).double() / len(x) + NOISE * torch.eye(dim).double())
        whiten = (vectors * values.rsqrt()).float().T  # (C, C)
        z = x @ whiten.T
        self.whiten.weight.copy_(whiten[:, :, None, None])
        self.whiten.bias.copy_(-(whiten @ mean))  # type: ignore[union-attr]
        share = F.one_hot(nearest, k).float()  # (N, K)
        for _ in range(STEPS):
            self._maximise(z, share)
            share = torch.softmax(self._log_density(z), dim=1)
        self._maximise(z, share)
        bias = -(self._directions() * self.centres[:, None]).sum(2)  # (K, R)
        self.along.bias.copy_(bias.flatten())  # type: ignore[union-attr]

    def _maximise(self, z: Tensor, share: Tensor) -> None:
        """Set the components from whitened samples (N, C) and the share (N, K) that each has in them."""
        dim = z.shape[1]
        counts = share.sum(0) + 1e-3
        centres = (share.T @ z) / counts[:, None]
        self.centres.copy_(centres)
        for k in range(self.components):
            mine = share[:, k] > 1e-3
            off = z[mine] - centres[k]
            trust = counts[k] / (counts[k] + dim)
            covariance = trust * (off * share[mine, k : k + 1]).T @ off / counts[k] + (1 - trust) * torch.eye(dim)
            variance, vectors = torch.linalg.eigh(covariance)
            variance = variance.clamp_min(SMALLEST_VARIANCE)
            order = variance.log().abs().argsort(descending=True)
            odd, rest = order[: self.rank], order[self.rank :]
            common = variance[rest].log().mean().exp()
            mine_rows = slice(k * self.rank, (k + 1) * self.rank)
            self.along.weight[mine_rows] = vectors[:, odd].T[:, :, None, None]
            self.curvature[mine_rows, 0, 0, 0] = 1 / variance[odd] - 1 / common
            self.precision[k] = 1 / common
            half_log_det = 0.5 * (variance[odd].log().sum() + len(rest) * common.log())
            self.log_weight[k] = (counts[k] / len(z)).log() - half_log_det

    def _log_density(self, z: Tensor) -> Tensor:
        """log pi_k + log N_k of whitened samples (N, C) -> (N, K), up to a constant."""
        square = torch.cdist(z, self.centres).square()
        out = self.log_weight - 0.5 * square * self.precision
        curvature = self.curvature.reshape(self.components, self.rank)
        for k, directions in enumerate(self._directions()):
            along = torch.addmm(-(directions @ self.centres[k]), z, directions.T)
            out[:, k] -= 0.5 * along.square() @ curvature[k]
        return out

    def _directions(self) -> Tensor:
        """(K, R, C)."""
        weight: Tensor = self.along.weight.detach()
        return weight.reshape(self.components, self.rank, -1)


def _overall_whitening(x: Tensor) -> Tensor:
    """(C, C): `x @ it` has about the same variance in every direction that matters."""
    values, vectors = torch.linalg.eigh((x.T @ x).double() / len(x))
    whitening: Tensor = vectors * torch.rsqrt(values.clamp_min(0) + 1e-2 * values[-1] + 1e-12)
    return whitening.float()


def _nearest(x: Tensor, whitening: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means on samples (N, C): the index (N,) of each sample's centre."""
    z = x @ whitening
    centres = z[torch.randperm(len(z), generator=generator)[:count]]
    if len(centres) < count:
        centres = centres.repeat(count // len(centres) + 1, 1)[:count]
    nearest = torch.cdist(z, centres).argmin(1)
    for _ in range(NEAREST_STEPS):
        for j in range(count):
            mine = nearest == j
            if mine.any():
                centres[j] = z[mine].mean(0)
            else:
                centres[j] = z[torch.randint(len(z), (1,), generator=generator)[0]]
        nearest = torch.cdist(z, centres).argmin(1)
    return nearest
