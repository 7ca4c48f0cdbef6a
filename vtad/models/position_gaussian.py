"""Position Gaussian: a Gaussian of the features at each position, after PaDiM (Defard et al., arXiv 2011.08785).

PaDiM keeps a full covariance for each position, tens of millions of numbers from few images each. Here neighbouring positions
share one, up to a scale of their own: d = |L (y - m)| / s with the mean m and the scale s of the position, and L'L the inverse
covariance of its block of cells. Parts that turn or shift make it useless: `vtad.calibration.score_fusion` finds out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4  # cells a side that share a covariance
REACH = 2  # cells beyond the block that it is estimated from as well
NOISE = 0.02  # variance added to every whitened feature


class PositionGaussian(nn.Module):
    """Whitened features of D dimensions against those of their position; `fit` sets it, nothing is trained by gradients."""

    mean: Tensor
    factor: Tensor
    scale: Tensor

    def __init__(self, dim: int, rows: int, columns: int) -> None:
        super().__init__()
        self.size = (rows, columns)
        self.blocks = (math.ceil(rows / BLOCK), math.ceil(columns / BLOCK))
        self.register_buffer("mean", torch.zeros(1, dim, rows, columns))
        self.register_buffer("factor", torch.eye(dim).expand(self.blocks[0] * self.blocks[1], dim, dim).clone())
        self.register_buffer("scale", torch.ones(rows, columns))

    def forward(self, y: Tensor) -> Tensor:
        """(B, D, rows, columns) -> distances (B, rows, columns) that are about sqrt(D) on good parts."""
        return torch.sqrt(self._square(y) + 1e-6) / self.scale

    def _square(self, y: Tensor) -> Tensor:
        batch, dim = y.shape[:2]
        rows, columns = self.size
        down, across = self.blocks
        x = F.pad(y - self.mean, (0, across * BLOCK - columns, 0, down * BLOCK - rows))
        x = F.pixel_unshuffle(x, BLOCK)  # (B, D * 16, down, across)
        x = x.reshape(batch, dim, BLOCK**2, down * across).permute(0, 3, 1, 2)  # (B, blocks, D, 16)
        square = self.whitened(x).square().sum(2)  # (B, blocks, 16)
        square = F.pixel_shuffle(square.transpose(1, 2).reshape(batch, BLOCK**2, down, across), BLOCK)
        return square[:, 0, :rows, :columns]

    def whitened(self, x: Tensor) -> Tensor:
        """(B, blocks, D, 16) -> the same, in each block by its own factor."""
        return torch.matmul(self.factor, x)

    @torch.no_grad()
    def fit(self, mean: Tensor, y: Tensor) -> None:
        """From the positions' mean (1, D, rows, columns) and the features (N, D, rows, columns) of good images, on the CPU."""
        self.mean.copy_(mean)
        known = mean.float().cpu()  # in float64 below, which Apple's GPUs lack
        dim = y.shape[1]
        for block in range(len(self.factor)):
            top, left = BLOCK * (block // self.blocks[1]), BLOCK * (block % self.blocks[1])
            rows = slice(max(0, top - REACH), top + BLOCK + REACH)
            columns = slice(max(0, left - REACH), left + BLOCK + REACH)
            near = y[:, :, rows, columns].float() - known[:, :, rows, columns]
            x = near.permute(0, 2, 3, 1).reshape(-1, dim)
            covariance = (x.T @ x).double() / len(x) + NOISE * torch.eye(dim).double()
            self.factor[block] = torch.linalg.inv(torch.linalg.cholesky(covariance)).to(self.factor)
        square = torch.stack([self._square(one[None].to(self.mean))[0] for one in y]).mean(0)  # (rows, columns)
        blurred = F.avg_pool2d(square[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
        self.scale.copy_(torch.sqrt(blurred / dim + NOISE))
