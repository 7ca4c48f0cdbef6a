"""Structural similarity (Wang et al., IEEE TIP 2004): Gaussian window 11, sigma 1.5, data range 1, separable.

The window is applied as two products with constant banded matrices, reflection at the border folded in: on a CPU that is
several times faster than convolutions, forward and backward, and it exports as plain matrix products. Float32 always: the
variances are differences of nearly equal numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def gaussian_matrix(size: int, sigma: float, window: int) -> Tensor:
    """(size, size) matrix whose product with a signal blurs it: rows sum to 1, reflection at the border (no repeat)."""
    radius = window // 2
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.arange(size)[:, None].expand(size, window)
    columns = (rows + offsets).abs()
    if size > 1:
        period = 2 * (size - 1)
        columns = columns % period
        columns = torch.where(columns < size, columns, period - columns)
    else:
        columns = torch.zeros_like(columns)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.index_put_((rows, columns), kernel.expand(size, window), accumulate=True)
    return matrix.float()


class SSIM(nn.Module):
    """Local structural similarity of two images of one fixed size."""

    blur_rows: Tensor
    blur_columns: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("blur_rows", gaussian_matrix(height, SIGMA, WINDOW), persistent=False)
        self.register_buffer("blur_columns", gaussian_matrix(width, SIGMA, WINDOW).T.contiguous(), persistent=False)

    def blur(self, x: Tensor) -> Tensor:
        """(..., H, W) -> (..., H, W), Gaussian window."""
        return self.blur_rows @ x @ self.blur_columns

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
        return luminance + structure - luminance * structure

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) twice, values in 0..1 -> similarity (B, C, H, W) in -1..1, float32."""
        return 1 - self.dissimilarity(x, y)
