"""What every baseline is: a module that learns from good images and gives a score and a map, its cost measured in one way."""

from __future__ import annotations

from abc import ABC, abstractmethod

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vtad.data.images import ImageCache

SMOOTHING = 4.0  # pixels of the model's input, standard deviation: PaDiM's and PatchCore's published value


class Baseline(nn.Module, ABC):
    """A detector to compare with. What it stores is in its parameters and buffers, so that `stored_numbers` finds it."""

    @abstractmethod
    def fit(self, images: ImageCache) -> None:
        """Learn from good images, (N, H, W, 3) uint8 RGB."""

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 RGB (B, 3, H, W) -> scores (B,) and maps (B, H, W), higher is odder."""


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first tensor lies."""
    first: Tensor = next(iter(module.state_dict().values()))
    return first.device


def smooth(maps: Tensor) -> Tensor:
    """Gaussian blur of (B, H, W) by SMOOTHING, cut at four standard deviations, mirrored at the border (SciPy's default)."""
    side = 2 * int(4 * SMOOTHING + 0.5) + 1
    blurred = [cv2.GaussianBlur(m, (side, side), SMOOTHING, borderType=cv2.BORDER_REFLECT) for m in maps.cpu().numpy()]
    return torch.from_numpy(np.stack(blurred)).to(maps.device)


def enlarge(cells: Tensor, height: int, width: int) -> Tensor:
    """(B, rows, columns) -> (B, height, width), bilinear, then smoothed."""
    return smooth(F.interpolate(cells[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0])


def stored_numbers(module: nn.Module) -> int:
    """Everything a detector must keep: weights, statistics, stored patches."""
    return sum(t.numel() for t in module.state_dict().values())


@torch.no_grad()
def gigaflop(module: nn.Module, height: int, width: int) -> float:
    """Of one forward pass of one image; FLOP = 2 x MAC, of matrix products and convolutions (element-wise work is left out).

    Attention is measured by its two products: torch's counter does not know the CPU's fused kernel and would leave it out.
    """
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device_of(module))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(image)
    return int(counter.get_total_flops()) / 1e9
