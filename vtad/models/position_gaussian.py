"""Position Gaussian: one Gaussian of the features of a whole picture. A cell is as odd as its distance from what it should hold.

f = m + B z + e: the mean m of each position, a few principal directions of whole pictures, by whose coordinates z ~ N(0, I) good
pictures differ as wholes, and what is left, e, with a covariance for each position. Without directions this is PaDiM (Defard
et al., arXiv 2011.08785); with them it is a factor analysis (Tipping & Bishop, Probabilistic Principal Component Analysis,
1999) that knows what belongs together: which label goes with which juice, and that a part that lies further left does so as
a whole. What a cell should hold follows from all cells, so the heatmap shows the cells that do not go with the others.

PaDiM keeps a full covariance for each position, tens of millions of numbers from few images each. Here neighbouring positions
share one, up to a scale of their own: d = |L (f - m - B z)| / s with the scale s of the position, and L'L the inverse
covariance of its block of cells. Parts that turn or shift far make it useless: `vtad.calibration.score_fusion` finds out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4  # cells a side that share a covariance, and whose means say what picture this is
REACH = 2  # cells beyond the block that the covariance is estimated from as well
NOISE = 0.02  # variance added to every whitened feature
FARTHEST = 4.0  # standard deviations: a coordinate beyond is taken for this far, so that a defect cannot explain itself
CHUNK = 16  # pictures


class PositionGaussian(nn.Module):
    """Whitened features of D dimensions against those of their position; `fit` sets it, nothing is trained by gradients."""

    mean: Tensor
    factor: Tensor
    scale: Tensor
    directions: Tensor
    slopes: Tensor

    def __init__(self, dim: int, rows: int, columns: int, directions: int = 0) -> None:
        """`directions` of whole pictures, R below; 0: what belongs together is not known."""
        super().__init__()
        self.size = (rows, columns)
        self.blocks = (math.ceil(rows / BLOCK), math.ceil(columns / BLOCK))
        blocks = self.blocks[0] * self.blocks[1]
        self.register_buffer("mean", torch.zeros(1, dim, rows, columns))
        self.register_buffer("factor", torch.eye(dim).expand(blocks, dim, dim).clone())
        self.register_buffer("scale", torch.ones(rows, columns))
        self.follows_picture = directions > 0
        if self.follows_picture:
            self.register_buffer("directions", torch.zeros(blocks, directions, dim))  # coordinates from features
            self.register_buffer("slopes", torch.zeros(blocks, directions, dim * BLOCK**2))  # B, whitened by the factor

    def forward(self, y: Tensor) -> Tensor:
        """(B, D, rows, columns) -> distances (B, rows, columns) that are about sqrt(D) on good parts."""
        return torch.sqrt(self._square(y) + 1e-6) / self.scale

    def _square(self, y: Tensor) -> Tensor:
        batch, (rows, columns), (down, across) = y.shape[0], self.size, self.blocks
        square = self.whitened(self._in_blocks(y - self.mean)).square().sum(2)  # (B, blocks, 16)
        square = F.pixel_shuffle(square.transpose(1, 2).reshape(batch, BLOCK**2, down, across), BLOCK)
        return square[:, 0, :rows, :columns]

    def _in_blocks(self, x: Tensor) -> Tensor:
        """(B, D, rows, columns) -> (B, blocks, D, 16), zeros beyond the last row and column."""
        (rows, columns), (down, across) = self.size, self.blocks
        x = F.pad(x, (0, across * BLOCK - columns, 0, down * BLOCK - rows))
        x = F.pixel_unshuffle(x, BLOCK)  # (B, D * 16, down, across)
        return x.reshape(x.shape[0], -1, BLOCK**2, down * across).permute(0, 3, 1, 2)

    def whitened(self, x: Tensor) -> Tensor:
        """Features less their position's mean, (B, blocks, D, 16) -> what is left of them, in each block by its own factor."""
        left = torch.matmul(self.factor, x)
        if not self.follows_picture:
            return left
        z = self.coordinates(x)[:, None, None]  # (B, 1, 1, R)
        return left - torch.matmul(z, self.slopes).reshape(left.shape)

    def coordinates(self, x: Tensor) -> Tensor:
        """Features less their position's mean, (B, blocks, D, 16) -> coordinates of whole pictures (B, R), of variance 1."""
        return torch.matmul(self.directions, x).sum((1, 3)).clamp(-FARTHEST, FARTHEST)

    @torch.no_grad()
    def fit(self, y: Tensor) -> None:
        """From the features of good images (N, D, rows, columns), on the CPU: in float64 below, which Apple's GPUs lack."""
        known = F.avg_pool2d(y.mean(0, keepdim=True, dtype=torch.float32), 3, 1, 1, count_include_pad=False)
        self.mean.copy_(known)
        dim = y.shape[1]
        z, slopes = self._fit_picture(known, y) if self.follows_picture else (torch.zeros(len(y), 0), known[:0])
        for down in range(self.blocks[0]):
            rows = slice(max(0, BLOCK * down - REACH), BLOCK * (down + 1) + REACH)
            stripe = y[:, :, rows].float() - known[:, :, rows]  # of a row of blocks at once, since they overlap
            for across in range(self.blocks[1]):
                columns = slice(max(0, BLOCK * across - REACH), BLOCK * (across + 1) + REACH)
                near = stripe[..., columns] - torch.einsum("nr,rdij->ndij", z, slopes[:, :, rows, columns])
                x = near.permute(0, 2, 3, 1).reshape(-1, dim)
                covariance = (x.T @ x).double() / len(x) + NOISE * torch.eye(dim).double()
                factor = torch.linalg.inv(torch.linalg.cholesky(covariance))
                self.factor[down * self.blocks[1] + across] = factor.to(self.factor)
        if self.follows_picture:
            whitened = torch.matmul(self.factor, self._in_blocks(slopes).to(self.factor))  # (R, blocks, D, 16)
            self.slopes.copy_(whitened.flatten(2).transpose(0, 1))
        square = torch.stack([self._square(one[None].to(self.mean))[0] for one in y]).mean(0)  # (rows, columns)
        blurred = F.avg_pool2d(square[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
        self.scale.copy_(torch.sqrt(blurred / dim + NOISE))

    def _fit_picture(self, mean: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The principal directions of the blocks' means; the pictures' coordinates (N, R), and B, (R, D, rows, columns).

        Directions that so few pictures do not have are zeros, and so is what follows from them.
        """
        chunks = [slice(i, i + CHUNK) for i in range(0, len(y), CHUNK)]
        seen = torch.cat([self._in_blocks(y[part].float() - mean).mean(3).flatten(1) for part in chunks])
        values, vectors = torch.linalg.eigh((seen @ seen.T).double())  # (N, N), smaller than (blocks * D)^2
        count = min(self.directions.shape[1], len(y) - 1)
        values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
        there = values > 1e-6 * values.sum()
        inverse = torch.where(there, values.clamp_min(1e-30).reciprocal(), 0.0)
        unit = math.sqrt(len(y))  # coordinates of variance 1
        matrix = (seen.T.double() @ (vectors * inverse)) * unit  # (blocks * D, R)
        self.directions.zero_()
        blocks, _, dim = self.directions.shape
        by_block = matrix.float().reshape(blocks, dim, count).transpose(1, 2) / BLOCK**2
        self.directions[:, :count] = by_block.to(self.directions)
        z = torch.zeros(len(y), self.directions.shape[1])
        z[:, :count] = (seen.double() @ matrix).float().clamp(-FARTHEST, FARTHEST)
        slopes = torch.zeros(z.shape[1], *mean.shape[1:])
        for part in chunks:  # least squares, drawn a little to 0: the coordinates are uncorrelated, of variance 1
            slopes += torch.einsum("nr,ndij->rdij", z[part], y[part].float() - mean)
        return z, slopes / (len(y) + 1)
