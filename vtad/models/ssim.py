"""Structural similarity (Wang et al., IEEE TIP 2004): Gaussian window 11, sigma 1.5, data range 1, separable.

The window is applied by matrix products: on a CPU they are faster than convolutions, forward and backward, in torch and in
onnxruntime. Float32 always: the variances are differences of nearly equal numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2
BLOCK = 16  # rows of a blurred image that one product gives


def mirrored(places: Tensor, size: int) -> Tensor:
    """The places 0..size - 1 that lie at any integer places of a signal mirrored at both ends (no repeat)."""
    if size == 1:
        return torch.zeros_like(places)
    period = 2 * (size - 1)
    places = places.abs() % period
    return torch.where(places < size, places, period - places)


def gaussian_matrix(size: int, sigma: float, window: int) -> Tensor:
    """(size, size) matrix whose product with a signal blurs it: rows sum to 1, reflection at the border (no repeat)."""
    radius = window // 2
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.arange(size)[:, None].expand(size, window)
    columns = mirrored(rows + offsets, size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.index_put_((rows, columns), kernel.expand(size, window), accumulate=True)
    return matrix.float()


class Blur(nn.Module):
    """Gaussian blur of images of one fixed size, reflection at the border: products with `gaussian_matrix` without its zeros.

    All blocks of BLOCK rows are weighted sums, by one small matrix, of the rows that they reach. Gathering those costs less
    than multiplying by zeros, and less in a graph than a slice and a product for each block.
    """

    block: Tensor  # (BLOCK, reach)
    rows: Tensor  # (blocks x reach,) of the image, mirrored at its border
    columns: Tensor

    def __init__(self, height: int, width: int, sigma: float, window: int) -> None:
        super().__init__()
        self.radius = window // 2
        self.reach = BLOCK + 2 * self.radius
        block = gaussian_matrix(self.reach, sigma, window)[self.radius : self.radius + BLOCK]
        self.register_buffer("block", block.clone(), persistent=False)
        for name, size in (("rows", height), ("columns", width)):
            places = torch.arange(0, size, BLOCK)[:, None] + torch.arange(-self.radius, BLOCK + self.radius)
            self.register_buffer(name, mirrored(places, size).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W) -> (..., H, W)."""
        x = self._down(x, self.rows).mT.contiguous()  # rows of a transposed view are slow to gather
        return self._down(x, self.columns).mT

    def _down(self, x: Tensor, rows: Tensor) -> Tensor:
        *front, height, width = x.shape
        reached = x.index_select(-2, rows).reshape(*front, -1, self.reach, width)  # (..., blocks, reach, W)
        blurred = (self.block @ reached).flatten(-3, -2)
        return blurred[..., :height, :]  # the last block may reach beyond


class SSIM(nn.Module):
    """Local structural similarity of two images of one fixed size."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.blur = Blur(height, width, SIGMA, WINDOW)

    def dissimilarity(self, x: Tensor, y: Tensor) -> Tensor:
        """1 - SSIM of (B, C, H, W) twice, values in 0..1 -> (B, C, H, W) in 0..2, float32.

        With d = x - y, SSIM = (1 - mean(d)^2 / (mean(x)^2 + mean(y)^2 + C1)) (1 - var(d) / (var(x) + var(y) + C2)): the
        textbook form rearranged, so that alike images do not cancel, and with four blurs instead of five.
        """
        x, y = x.float() - 0.5, y.float() - 0.5  # smaller numbers to cancel in the variances
        d = x - y
        mean_x, mean_d = self.blur(x), self.blur(d)
        mean_y = mean_x - mean_d
        variances = self.blur(x * x + y * y) - (mean_x * mean_x + mean_y * mean_y)
        variance_d = self.blur(d * d) - mean_d * mean_d
        luminance = mean_d * mean_d / ((mean_x + 0.5).square() + (mean_y + 0.5).square() + C1)
        structure = variance_d / (variances + C2)
        dissimilarity: Tensor = luminance + structure - luminance * structure
        return dissimilarity

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) twice, values in 0..1 -> similarity (B, C, H, W) in -1..1, float32."""
        return 1 - self.dissimilarity(x, y)
