"""The fixed features: of a frozen backbone, or the pixels themselves. Training does not change them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.backbone import CHANNELS
from vtad.backbones.efficientnet import EfficientNetLite0
from vtad.backbones.pretrained import Pretrained
from vtad.backbones.vit_backbone import VitBackbone
from vtad.backbones.vit_checkpoint import VitCheckpoint, VitShape
from vtad.config import CELL, Config
from vtad.models.segmentation_head import LearnedPyramid


class PixelFeatures(nn.Module):
    """Without a backbone the image itself is the feature: each cell's pixels, in order; the deeper maps are learned.

    They are of the image beside its reconstruction, as DRAEM's discriminator sees it (arXiv 2108.07610).
    """

    channels = 3 * CELL * CELL

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = LearnedPyramid()

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 3, H, W) -> (B, 192, H / 8, W / 8), and no maps: those need the reconstruction."""
        return F.pixel_unshuffle(image, CELL), ()

    def maps(self, image: Tensor, reconstruction: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) in 0..1 twice -> maps at strides 2, 4, 8 and 8."""
        maps: tuple[Tensor, ...] = self.pyramid(torch.cat([image, reconstruction], dim=1))
        return maps


class BackboneFeatures(nn.Module):
    """The backbone's maps, averaged over 3 x 3 cells so that a shift of a few pixels changes little."""

    channels = CHANNELS

    def __init__(self, config: Config | None = None) -> None:
        """The backbone of a configuration; EfficientNet-lite0 without one."""
        super().__init__()
        self.backbone: EfficientNetLite0 | VitBackbone
        if config is None or not config.backbone_file:
            self.backbone = EfficientNetLite0()
        else:
            shape = VitShape.from_text(config.backbone_shape)
            self.backbone = VitBackbone(shape, config.image_height, config.image_width)

    def load_pretrained(self, pretrained: Pretrained) -> None:
        """Fill in the backbone's weights, see `vtad.backbones.pretrained.read_pretrained`."""
        if isinstance(self.backbone, VitBackbone):
            assert isinstance(pretrained, VitCheckpoint)
            self.backbone.load_pretrained(pretrained)
        else:
            assert not isinstance(pretrained, VitCheckpoint)
            self.backbone.load_pretrained(pretrained)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 3, H, W) in 0..1 -> (B, 176, H / 8, W / 8), and the backbone's maps one by one, not averaged."""
        joined, maps = self.backbone(image)
        return F.avg_pool2d(joined, 3, stride=1, padding=1, count_include_pad=False), maps
