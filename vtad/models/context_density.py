"""Gaussian mixture density of fixed features given their context (Bishop, Mixture Density Networks, 1994).

p(y | context) = sum_k pi_k N(y; m + s * e_k, (s * t_k)^2), all diagonal: the transformer predicts where the features lie (m)
and how likely each component is (pi); how widely they vary (s) is learned for each position, and the components' shape
(e_k, t_k) once for all. One component is a plain Gaussian; many cost two matrix products, not many maps of parameters.

The width does not depend on the rest of the picture, on purpose: a network that may widen the density where things look odd does
so exactly at a defect, and the NLL there grows by a logarithm instead of a square (docs/experiments.md).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
LOG_SIGMA_FLOOR = -2.5  # whitened features vary by 1 over the data set: no cell is trusted beyond 8 % of that


def floor_log_sigma(x: Tensor) -> Tensor:
    """A smooth lower bound of a log standard deviation; the identity far above it."""
    return LOG_SIGMA_FLOOR + F.softplus(x - LOG_SIGMA_FLOOR)


def mixture_nll(log_pi: Tensor, mu: Tensor, log_sigma: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood in nats, true log-sum-exp over the components.

    log_pi (..., K) normalised; mu, log_sigma (..., K, D); y (..., D) -> (...).
    """
    z = (y.unsqueeze(-2) - mu) * torch.exp(-log_sigma)
    log_p = -0.5 * (z.square() + 2 * log_sigma + LOG_2PI).sum(-1)  # (..., K), nats
    return -torch.logsumexp(log_pi + log_p, dim=-1)


def published_mixture_term(log_pi: Tensor, mu: Tensor, log_sigma: Tensor, y: Tensor) -> Tensor:
    """VT-ADL's term as its code has it: the components' NLLs weighted by pi. An upper bound of `mixture_nll` (Jensen)."""
    z = (y.unsqueeze(-2) - mu) * torch.exp(-log_sigma)
    log_p = -0.5 * (z.square() + 2 * log_sigma + LOG_2PI).sum(-1)  # (..., K), nats
    return -(log_pi.exp() * log_p).sum(-1)


class ContextDensity(nn.Module):
    """From decoder tokens to the likelihood of the features in the cells that each token covers."""

    base_location: Tensor
    base_log_sigma: Tensor

    def __init__(self, embed_dim: int, feature_dim: int, components: int, grid: tuple[int, int], cells: int) -> None:
        """`grid`: tokens (rows, columns); `cells`: a token covers cells x cells of them."""
        super().__init__()
        self.cells = cells
        self.components = components
        self.grid = grid
        rows, columns = grid[0] * cells, grid[1] * cells
        self.location = nn.Linear(embed_dim, cells * cells * feature_dim)
        nn.init.zeros_(self.location.weight)
        nn.init.zeros_(self.location.bias)
        self.log_sigma = nn.Parameter(torch.zeros(1, feature_dim, rows, columns))  # added to the base
        # The statistics of the training features at each position: where learning starts from.
        self.register_buffer("base_location", torch.zeros(1, feature_dim, rows, columns))
        self.register_buffer("base_log_sigma", torch.zeros(1, feature_dim, rows, columns))
        if components > 1:
            self.logits = nn.Linear(embed_dim, cells * cells * components)
            nn.init.zeros_(self.logits.weight)
            nn.init.zeros_(self.logits.bias)
            self.offset = nn.Parameter(0.3 * torch.randn(components, feature_dim))
            self.log_spread = nn.Parameter(torch.zeros(components, feature_dim))

    def to_cells(self, tokens: Tensor) -> Tensor:
        """(B, N, cells * cells * D) -> (B, D, rows, columns)."""
        batch = tokens.shape[0]
        x = tokens.transpose(1, 2).reshape(batch, tokens.shape[2], *self.grid)
        return F.pixel_shuffle(x, self.cells)

    def forward(self, tokens: Tensor, y: Tensor) -> Tensor:
        """Tokens (B, N, E) and observed features y (B, D, rows, columns) -> NLL (B, rows, columns), nats."""
        location = self.base_location + self.to_cells(self.location(tokens))
        log_sigma = floor_log_sigma(self.base_log_sigma + self.log_sigma)
        z = (y - location) * torch.exp(-log_sigma)  # (B, D, rows, columns)
        volume = log_sigma.sum(1) + 0.5 * y.shape[1] * LOG_2PI  # (B, rows, columns)
        if self.components == 1:
            return 0.5 * z.square().sum(1) + volume
        # -0.5 sum_d ((z_d - e_kd) / t_kd)^2 - log t_kd, expanded so that it is two matrix products.
        precision = torch.exp(-2 * self.log_spread)  # (K, D)
        square = F.conv2d(z.square(), precision[:, :, None, None])
        cross = F.conv2d(z, (self.offset * precision)[:, :, None, None])
        constant = (self.offset.square() * precision + 2 * self.log_spread).sum(1)[None, :, None, None]
        log_p = -0.5 * (square - 2 * cross + constant)  # (B, K, rows, columns)
        log_pi = torch.log_softmax(self.to_cells(self.logits(tokens)), dim=1)
        return volume - torch.logsumexp(log_pi + log_p, dim=1)
