"""Segmentation head: logits, cell by cell, that features come from a damaged picture and not from a good one.

It is trained on good pictures with synthetic defects, as the discriminative half of DRAEM (Zavrtanik et al., arXiv
2108.07610); here it sees features of several depths. A classifier between data and noise learns the logarithm of their density
ratio (Gutmann & Hyvarinen, Noise-Contrastive Estimation, 2010), which is of the same kind as a negative log-likelihood.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.backbone import MAP_CHANNELS
from vtad.config import CELL

WIDTH = 64
RARE = -4.0  # logits of a defect before learning


class PatchConv(nn.Conv2d):
    """A convolution whose stride is its kernel's side; in bfloat16 written as a product over patches.

    oneDNN's bfloat16 kernel for CPUs with AMX returns something else altogether for side 4 and 16 channels (torch 2.13), so
    that the head would learn from one map and judge another.
    """

    def __init__(self, channels_in: int, channels_out: int, side: int) -> None:
        super().__init__(channels_in, channels_out, side, stride=side)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H / side, W / side)."""
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        # By hand, not by F.pixel_unshuffle, which takes four times as long to move the channels that lie last in memory.
        batch, channels, height, width = x.shape
        rows, columns = height // self.side, width // self.side
        x = x.permute(0, 2, 3, 1).reshape(batch, rows, self.side, columns, self.side, channels)
        x = x.transpose(2, 3).reshape(batch, rows, columns, -1)  # (B, rows, columns, side * side * I)
        return F.linear(x, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias).permute(0, 3, 1, 2)


class SegmentationHead(nn.Module):
    """Maps of four depths in, logits at stride 8 out. About 100,000 parameters; plain convolutions without normalisation."""

    def __init__(self) -> None:
        super().__init__()
        for i, channels in enumerate(MAP_CHANNELS):
            self.register_buffer(f"mean{i}", torch.zeros(channels))
            self.register_buffer(f"scale{i}", torch.ones(channels))
        half, fine, middle, coarse = MAP_CHANNELS
        self.from_half = PatchConv(half, WIDTH // 2, 4)
        self.from_fine = PatchConv(fine, WIDTH, 2)
        self.from_middle = nn.Conv2d(middle, WIDTH, 1)
        self.from_coarse = nn.Conv2d(coarse, WIDTH, 1)
        self.join = nn.Conv2d(WIDTH // 2 + 3 * WIDTH, WIDTH, 1)
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.logits = nn.Conv2d(WIDTH, 1, 1)
        for layer in (
            self.from_half,
            self.from_fine,
            self.from_middle,
            self.from_coarse,
            self.join,
            self.first,
            self.second,
        ):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.logits.weight)
        nn.init.constant_(self.logits.bias, RARE)  # type: ignore[arg-type]

    def fit(self, mean: list[Tensor], scale: list[Tensor]) -> None:
        """Mean and standard deviation (C,) of each of the four maps over the good images."""
        for i in range(len(MAP_CHANNELS)):
            getattr(self, f"mean{i}").copy_(mean[i])
            getattr(self, f"scale{i}").copy_(1 / scale[i].clamp_min(1e-4))

    def standard(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A backbone's four maps as z-scores over good images, in their own precision."""
        known = [(getattr(self, f"mean{i}"), getattr(self, f"scale{i}")) for i in range(len(MAP_CHANNELS))]
        if not torch.compiler.is_exporting() and not any(x.requires_grad for x in maps):
            with torch.autocast(maps[0].device.type, enabled=False):  # in one pass over each map
                return tuple(
                    F.batch_norm(x, mean, torch.ones_like(mean), weight=scale, bias=torch.zeros_like(mean), eps=0.0)
                    for x, (mean, scale) in zip(maps, known, strict=True)
                )
        return tuple(
            ((x - mean[None, :, None, None]) * scale[None, :, None, None]).to(x.dtype)
            for x, (mean, scale) in zip(maps, known, strict=True)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Four maps (B, C, H / stride, W / stride), a backbone's as `standard` gives them -> logits (B, H / 8, W / 8)."""
        half, fine, middle, coarse = maps
        x = torch.cat(
            [self.from_half(half), self.from_fine(fine), self.from_middle(middle), self.from_coarse(coarse)], dim=1
        )
        return self.joined(F.relu(x))

    def joined(self, x: Tensor) -> Tensor:
        """What the first convolutions give, side by side and rectified, (B, 224, H / 8, W / 8) -> logits (B, H / 8, W / 8)."""
        x = F.relu(self.join(x))
        x = x + F.relu(self.first(x))
        x = x + F.relu(self.second(x))
        logits: Tensor = self.logits(x)
        return logits[:, 0]


class LearnedPyramid(nn.Module):
    """Without a backbone: maps of the same sizes and widths of an image and its reconstruction, learned with the head."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 6
        for channels, stride in zip(MAP_CHANNELS, (2, 2, 2, 1), strict=True):
            layers.append(
                nn.Sequential(
                    nn.Conv2d(before, channels, 3, stride=stride, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 3, padding=1),
                    nn.ReLU(),
                )
            )
            before = channels
        self.stages = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image and reconstruction (B, 6, H, W) in 0..1 -> four maps at strides 2, 4, 8 and 8."""
        x, maps = image * 4 - 2, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


def damaged_share(damaged: Tensor) -> Tensor:
    """(B, H, W), 1 where a picture is damaged -> damaged share of each cell, (B, H / 8, W / 8)."""
    return F.avg_pool2d(damaged[:, None], CELL)[:, 0]


def segmentation_loss(logits: Tensor, share: Tensor, weight: float | None = None) -> Tensor:
    """How wrong logits (B, rows, columns) are about which cells are damaged; `share` (same shape) is the damaged share of each.

    Focal cross-entropy (Lin et al., arXiv 1708.02002) against cells of which more than a tenth is damaged, and the Dice
    loss, by which small defects weigh as much as large ones. A scalar: the sum over the pictures times `weight`, by default
    1 / B.
    """
    target = (share > 0.1).to(logits.dtype)
    p = torch.sigmoid(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (cross_entropy * torch.where(target > 0, 1 - p, p).square()).mean((1, 2))
    overlap = (2 * (p * target).sum((1, 2)) + 1) / (p.sum((1, 2)) + target.sum((1, 2)) + 1)
    return (8 * focal + 0.3 * (1 - overlap)).sum() * (1 / len(logits) if weight is None else weight)
