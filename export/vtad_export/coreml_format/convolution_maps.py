"""The detector's smoothing by convolutions: on Apple's chips, unlike on CPUs (vtad/models/ssim.py), matrix products gain nothing.

All of it is float32, hence off the Neural Engine in any case: padding by reflection takes nothing off it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vtad.models.ssim import Blur


class ConvolutionBlur(nn.Module):
    """`Blur` as two 1-D convolutions a channel."""

    down: Tensor
    across: Tensor

    def __init__(self, blur: Blur, channels: int) -> None:
        super().__init__()
        self.radius, self.channels = blur.radius, channels
        window = blur.block[0, : 2 * blur.radius + 1]
        self.register_buffer("down", window.reshape(1, 1, -1, 1).repeat(channels, 1, 1, 1), persistent=False)
        self.register_buffer("across", window.reshape(1, 1, 1, -1).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = F.pad(x, [self.radius] * 4, mode="reflect")
        x = F.conv2d(x, self.down, groups=self.channels)
        return F.conv2d(x, self.across, groups=self.channels)
