"""The detector's smoothing by convolutions: on Apple's chips, unlike in training, a full matrix product gains nothing.

Training smooths by products with constant banded matrices (vtad/ssim.py). `Window` stands where such a matrix stood, so that
the code around it is that of the detector itself; `ConvolutionSSIM` does the same for the window of SSIM. All of it is
float32, hence off the Neural Engine in any case: padding by reflection takes nothing off it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.ssim import SIGMA, SSIM, WINDOW


def gaussian_window(sigma: float, width: int) -> Tensor:
    """(width,) Gaussian of `sigma` pixels, summing to 1; the coefficients of `vtad.ssim.gaussian_matrix`."""
    offsets = torch.arange(width).double() - width // 2
    window = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return (window / window.sum()).float()


class Window(nn.Module):
    """What a square matrix of `gaussian_matrix` does: `window @ x` smooths the columns of x, `x @ window` its rows."""

    down: Tensor
    across: Tensor

    def __init__(self, sigma: float, width: int) -> None:
        super().__init__()
        window = gaussian_window(sigma, width)
        self.radius = width // 2
        self.register_buffer("down", window.reshape(1, 1, -1, 1), persistent=False)
        self.register_buffer("across", window.reshape(1, 1, 1, -1), persistent=False)

    def forward(self, x: Tensor, along: int) -> Tensor:
        """(B, H, W) -> (B, H, W), smoothed along axis -2 or -1, reflection at the border."""
        above, beside = (self.radius, 0) if along == -2 else (0, self.radius)
        padded = F.pad(x[:, None], (beside, beside, above, above), mode="reflect")
        return F.conv2d(padded, self.down if along == -2 else self.across)[:, 0]

    def __matmul__(self, x: Tensor) -> Tensor:
        smoothed: Tensor = self(x, -2)
        return smoothed

    def __rmatmul__(self, x: Tensor) -> Tensor:
        smoothed: Tensor = self(x, -1)
        return smoothed


class ConvolutionSSIM(SSIM):
    """`SSIM` whose window is two 1-D convolutions."""

    down: Tensor
    across: Tensor

    def __init__(self, ssim: SSIM) -> None:
        super().__init__(ssim.blur_rows.shape[0], ssim.blur_columns.shape[0])
        window = gaussian_window(SIGMA, WINDOW)
        self.register_buffer("down", window.reshape(1, 1, -1, 1).repeat(3, 1, 1, 1), persistent=False)
        self.register_buffer("across", window.reshape(1, 1, 1, -1).repeat(3, 1, 1, 1), persistent=False)

    def blur(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W), Gaussian window."""
        x = F.pad(x, [WINDOW // 2] * 4, mode="reflect")
        return F.conv2d(F.conv2d(x, self.down, groups=3), self.across, groups=3)
