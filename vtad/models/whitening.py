"""PCA whitening of the fixed features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT_FLOOR = 1e-2  # of the largest variance: directions below it hardly reach the transformer


class Whitening(nn.Module):
    """Fixed features turned into uncorrelated ones of variance 1 over the training images (PCA whitening).

    The density is about all of them. The transformer sees those of small variance attenuated: they are mostly noise, would
    carry float32 rounding errors into the reconstruction, and invite copying.
    """

    mean: Tensor
    matrix: Tensor
    context_scale: Tensor

    def __init__(self, channels: int, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.zeros(feature_dim, channels))
        self.register_buffer("context_scale", torch.ones(1, feature_dim, 1, 1))

    def fit(self, mean: Tensor, covariance: Tensor, floor: float = 1e-6) -> None:
        """From the features' mean (C,) and covariance (C, C). `floor` bounds a variance from below, as a share of the largest."""
        variance, directions = torch.linalg.eigh(covariance.double())
        variance, directions = variance.flip(0), directions.flip(1)
        dim = self.matrix.shape[0]
        scale = torch.rsqrt(variance[:dim].clamp_min(0) + floor * variance[0] + 1e-12)
        self.matrix.copy_((directions[:, :dim] * scale).T)
        self.mean.copy_(mean)
        share = variance[:dim].clamp_min(0) / variance[0]
        self.context_scale.copy_((share / (share + CONTEXT_FLOOR)).sqrt()[None, :, None, None])

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, rows, columns) -> (B, D, rows, columns)."""
        bias = -(self.matrix @ self.mean)
        return F.conv2d(features, self.matrix[:, :, None, None], bias)

    def attenuated(self, y: Tensor) -> Tensor:
        """Whitened features (B, D, rows, columns) as the transformer sees them."""
        return y * self.context_scale
