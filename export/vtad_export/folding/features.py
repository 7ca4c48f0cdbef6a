"""The fixed features of folded detectors, and 1x1 convolutions of them, moved to where they cost least.

The input is a picture of centred levels, c = 255 x - 127.5: exact in float32, and 0 where a normalised picture is 0, so that a
convolution may pad it with zeros. What is linear commutes: a 1x1 convolution of joined maps is a sum of one of each map, that of
a coarse map is computed before it is enlarged, and the mean of 3 x 3 cells is taken of what comes out.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.backbone import MAP_CHANNELS
from vtad.backbones.efficientnet import EfficientNetLite0, tapped
from vtad.config import CELL
from vtad.models.features import BackboneFeatures, PixelFeatures

LEVELS = 255.0  # the highest level of a pixel
CENTRE = LEVELS / 2

Maps = tuple[Tensor, ...]


class Features(Protocol):
    """What a folded detector sees of a picture."""

    def __call__(self, centred: Tensor) -> tuple[Maps, Maps]:
        """Centred levels (B, 3, H, W) -> what `projection` takes, and the maps that the segmentation head sees."""
        ...

    def projection(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """A 1x1 convolution (O, C) with bias (O,) of the fixed features, (B, C, rows, columns), as a module of the above."""
        ...


def picture(centred: Tensor) -> Tensor:
    """Centred levels -> 0..1."""
    return centred * (1 / LEVELS) + 0.5


def convolution(weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution by weights (O, I / groups, height, width) in place of random ones."""
    outputs, inputs, height, width = weight.shape
    made = nn.Conv2d(inputs * groups, outputs, (height, width), stride, groups=groups, bias=bias is not None)
    made.weight.data = weight.float().contiguous()
    if made.bias is not None and bias is not None:
        made.bias.data = bias.float()
    return made


class FoldedBackbone(nn.Module):
    """EfficientNet-lite0 with its normalisation in the first convolution, and its coarsest map at stride 16, as it comes."""

    def __init__(self, backbone: EfficientNetLite0) -> None:
        super().__init__()
        conv, pad = backbone.stem.conv, backbone.stem.pad
        assert conv.bias is not None
        assert pad is not None
        self.stem = convolution(conv.weight.detach().double() * (2 / LEVELS), conv.bias.detach(), stride=conv.stride[0])
        self.pad, self.blocks = pad, backbone.blocks

    def forward(self, centred: Tensor) -> tuple[Maps, Maps]:
        """As of `Features`; the maps are those at strides 2, 4, 8 and 16."""
        half, fine, middle, coarse = tapped(self.blocks, F.relu6(self.stem(F.pad(centred, self.pad))))
        return (F.avg_pool2d(fine, 2), middle, coarse), (half, fine, middle, coarse)

    def projection(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """As of `Features`."""
        return JoinedProjection(weight, bias)


class JoinedProjection(nn.Module):
    """A 1x1 convolution of the joined maps of EfficientNet-lite0, averaged over 3 x 3 cells."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        fine, middle, coarse = torch.split(weight[:, :, None, None], list(MAP_CHANNELS[1:]), dim=1)
        self.fine, self.middle, self.coarse = convolution(fine, bias), convolution(middle), convolution(coarse)

    def forward(self, seen: Maps) -> Tensor:
        """Maps at strides 8, 8 and 16 -> (B, O, H / 8, W / 8)."""
        fine, middle, coarse = seen
        x = self.fine(fine) + self.middle(middle) + twice(self.coarse(coarse))
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def twice(x: Tensor) -> Tensor:
    """A map enlarged from stride 16 to 8."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class TokenFeatures(nn.Module):
    """A Vision Transformer's features, as they are."""

    def __init__(self, features: BackboneFeatures) -> None:
        super().__init__()
        self.backbone_features = features

    def forward(self, centred: Tensor) -> tuple[Maps, Maps]:
        """As of `Features`; the maps are those at strides 2, 4, 8 and 8."""
        features, maps = self.backbone_features(picture(centred))
        return (features,), maps

    def projection(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """As of `Features`."""
        return FirstOf(convolution(weight[:, :, None, None], bias))


class CellPixels(nn.Module):
    """Without a backbone: the pixels of a cell, never laid out as channels."""

    def __init__(self, features: PixelFeatures) -> None:
        super().__init__()
        self.pyramid = features.pyramid

    def forward(self, centred: Tensor) -> tuple[Maps, Maps]:
        """As of `Features`; no maps, for those need the reconstruction."""
        return (centred,), ()

    def maps(self, centred: Tensor, reconstruction: Tensor) -> Maps:
        """As `PixelFeatures.maps`, of centred levels (B, 3, H, W)."""
        maps: Maps = self.pyramid(torch.cat([picture(centred), reconstruction], dim=1))
        return maps

    def projection(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """As of `Features`."""
        kernel, bias = of_pixels(weight, bias)
        return FirstOf(convolution(kernel, bias, stride=CELL))


def of_pixels(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (O, 3 side^2) of pixels 0..1 and a bias -> kernel (O, 3, side, side) and bias (O,) for centred levels."""
    weight, bias = weight.double(), bias.double()
    side = round((weight.shape[1] // 3) ** 0.5)
    return (weight / LEVELS).reshape(-1, 3, side, side), bias + 0.5 * weight.sum(1)


class FirstOf(nn.Module):
    """A convolution of the one map that is seen."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, seen: Maps) -> Tensor:
        """-> (B, O, rows, columns)."""
        x: Tensor = self.layer(seen[0])
        return x


def folded_features(features: BackboneFeatures | PixelFeatures) -> FoldedBackbone | TokenFeatures | CellPixels:
    """Those of a trained model, arranged."""
    if isinstance(features, PixelFeatures):
        return CellPixels(features)
    if isinstance(features.backbone, EfficientNetLite0):
        return FoldedBackbone(features.backbone)
    return TokenFeatures(features)


def matrix_of(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias (O,) of a 1x1 convolution, float64."""
    assert conv.bias is not None
    return conv.weight.detach().double()[:, :, 0, 0], conv.bias.detach().double()
