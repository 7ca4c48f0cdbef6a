"""The scorers of a cell in fewer operations: each gives its share of the fused score at once.

standard                        here
nearest of the patches          products with PATCHES of them at a time, whose results stay in a processor's cache; the largest
                                of a row, not of a column; -|c|^2 / 2 as one more row, for z is given a channel of ones
|z - c|^2 p + low rank          convolutions of z, of z^2, and of the squares along COMPONENTS components at a time
log pi - distance / 2           -1/2 in the weights, log pi in a bias
y - (base + location)           the bias of the location in the base, as in the tokens' layout
0.5 sum z^2 + log det           the constants of a position summed beforehand
blocks of cells (PaDiM)         laid out in one step, a convolution with a group a block
(x - mean) scale, then W, b     W diag(scale), b - W diag(scale) mean; the coarsest map enlarged after its convolution
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.models.context_density import LOG_2PI, ContextDensity, floor_log_sigma
from vtad.models.feature_gmm import FeatureGmm
from vtad.models.patch_memory import NEAREST, PatchMemory
from vtad.models.position_gaussian import BLOCK, FARTHEST, PositionGaussian
from vtad.models.segmentation_head import SegmentationHead
from vtad_export.folding.features import Features, Maps, convolution, matrix_of, twice

PATCHES = 256  # in one product
COMPONENTS = 16  # of a GMM, in one convolution


class Share(NamedTuple):
    """What the score fusion makes of a scorer: weight * (x - mean)."""

    weight: float
    mean: float

    def of(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.weight * x - self.weight * self.mean


WHOLE = Share(1.0, 0.0)


class FoldedPatchMemory(nn.Module):
    """`PatchMemory`."""

    def __init__(self, stored: PatchMemory, features: Features, share: Share) -> None:
        super().__init__()
        self.share = share
        self.principal = features.projection(*matrix_of(stored.principal))
        weight, bias = matrix_of(stored.nearest.patches)
        rows = torch.cat([weight.T, bias[None] + 0.5])  # the channel of ones is in |z|^2, too
        self.patches = nn.ParameterList(some.float().contiguous() for some in torch.split(rows, PATCHES, dim=1))

    def forward(self, seen: Maps) -> Tensor:
        """-> (B, rows, columns)."""
        z = self.principal(seen)
        rows, columns = z.shape[2:]
        z = F.pad(z.flatten(2), (0, 0, 0, 1), value=1.0).transpose(1, 2)  # (B, cells, R + 1)
        nearest = torch.cat([torch.amax(z @ patches, dim=2, keepdim=True) for patches in self.patches], dim=2)
        square = (z * z).sum(2) - 2 * torch.amax(nearest, dim=2)
        return self.share.of(torch.sqrt(square.clamp_min(NEAREST))).reshape(-1, rows, columns)


class FoldedFeatureGmm(nn.Module):
    """`FeatureGmm`."""

    def __init__(self, gmm: FeatureGmm, features: Features, share: Share) -> None:
        super().__init__()
        self.share = share
        precision, centres = gmm.precision.double(), gmm.centres.double()
        self.whiten = features.projection(*matrix_of(gmm.whiten))
        logits = gmm.log_weight.double() - 0.5 * precision * centres.square().sum(1)
        self.cross = convolution((precision[:, None] * centres)[:, :, None, None], logits)
        self.square = convolution(-0.5 * precision[:, None].expand_as(centres)[:, :, None, None])
        weight, bias = matrix_of(gmm.along)
        curvature = -0.5 * gmm.curvature.double().reshape(gmm.components, gmm.rank)
        self.along, self.curved = nn.ModuleList(), nn.ModuleList()
        for first in range(0, gmm.components, COMPONENTS):
            some = curvature[first : first + COMPONENTS]  # (k, rank)
            rows = slice(first * gmm.rank, (first + len(some)) * gmm.rank)
            self.along.append(convolution(weight[rows, :, None, None], bias[rows]))
            of_each = torch.eye(len(some), dtype=some.dtype)[:, :, None] * some  # (k, k, rank)
            self.curved.append(convolution(of_each.flatten(1)[:, :, None, None]))

    def forward(self, seen: Maps) -> Tensor:
        """-> (B, rows, columns)."""
        z = self.whiten(seen)
        curved = []
        for along, low_rank in zip(self.along, self.curved, strict=True):
            directions = along(z)
            curved.append(low_rank(directions * directions))
        logits = self.cross(z) + self.square(z * z) + torch.cat(curved, dim=1)
        return self.share.of(-torch.logsumexp(logits, dim=1))


class FoldedContextDensity(nn.Module):
    """`ContextDensity` with one component."""

    base: Tensor
    inverse_sigma: Tensor
    constant: Tensor

    def __init__(self, density: ContextDensity, share: Share) -> None:
        super().__init__()
        self.grid, self.cells, self.weight = density.grid, density.cells, 0.5 * share.weight
        self.location = nn.Parameter(density.location.weight.detach().clone())  # (cells * cells * D, E)
        log_sigma = floor_log_sigma(density.base_log_sigma + density.log_sigma).detach().double()
        volume = log_sigma.sum(1) + 0.5 * log_sigma.shape[1] * LOG_2PI
        bias = density.location.bias.detach().double()[None, :, None, None].expand(1, -1, *self.grid)
        self.register_buffer("base", (density.base_location.double() + F.pixel_shuffle(bias, self.cells)).float())
        self.register_buffer("inverse_sigma", torch.exp(-log_sigma).float())
        self.register_buffer("constant", share.of(volume).float())  # (1, rows, columns)

    def forward(self, tokens: Tensor, y: Tensor) -> Tensor:
        """Tokens (B, N, E) and observed features (B, D, rows, columns) -> (B, rows, columns)."""
        location = (self.location @ tokens.transpose(1, 2)).reshape(-1, len(self.location), *self.grid)
        z = (y - (self.base + F.pixel_shuffle(location, self.cells))) * self.inverse_sigma
        return self.weight * (z * z).sum(1) + self.constant


class WeightedContextDensity(nn.Module):
    """`ContextDensity` with any number of components, as it is."""

    def __init__(self, density: ContextDensity, share: Share) -> None:
        super().__init__()
        self.density, self.share = density, share

    def forward(self, tokens: Tensor, y: Tensor) -> Tensor:
        """As `FoldedContextDensity.forward`."""
        return self.share.of(self.density(tokens, y))


class FoldedPositionGaussian(nn.Module):
    """`PositionGaussian`: its scale and the weight in one map."""

    mean: Tensor
    gain: Tensor
    slopes: Tensor

    def __init__(self, gaussian: PositionGaussian, share: Share) -> None:
        super().__init__()
        self.size, self.blocks, self.shift = gaussian.size, gaussian.blocks, share.weight * share.mean
        self.factor = convolution(gaussian.factor.flatten(0, 1)[:, :, None, None], groups=len(gaussian.factor))
        self.register_buffer("mean", gaussian.mean.clone())
        self.register_buffer("gain", (share.weight / gaussian.scale.double()).float())
        self.directions: nn.Conv2d | None = None
        if gaussian.follows_picture:
            self.directions = convolution(gaussian.directions.transpose(0, 1).flatten(1)[:, :, None, None])
            self.register_buffer("slopes", gaussian.slopes.transpose(0, 1).flatten(1).contiguous())

    def forward(self, y: Tensor) -> Tensor:
        """(B, D, rows, columns) -> (B, rows, columns)."""
        (rows, columns), (down, across) = self.size, self.blocks
        dim = y.shape[1]
        x = F.pad(y - self.mean, (0, across * BLOCK - columns, 0, down * BLOCK - rows))
        x = x.reshape(-1, dim, down, BLOCK, across, BLOCK).permute(0, 2, 4, 1, 3, 5)
        x = x.flatten(1, 3)  # (B, blocks * D, BLOCK, BLOCK)
        z = self.factor(x)
        if self.directions is not None:
            coordinates = self.directions(x).sum((2, 3)).clamp(-FARTHEST, FARTHEST)  # (B, R)
            z = z - (coordinates @ self.slopes).reshape(z.shape)
        square = (z * z).reshape(-1, down, across, dim, BLOCK, BLOCK).sum(3)
        square = square.transpose(2, 3).flatten(3).flatten(1, 2)[:, :rows, :columns]
        return torch.sqrt(square + 1e-6) * self.gain - self.shift


class FoldedSegmentationHead(SegmentationHead):
    """`SegmentationHead`, weighted; its first convolutions, none of which pads, take the maps as they are.

    Without a backbone nothing is standardised: its means are 0 and its scales 1.
    """

    def __init__(self, head: SegmentationHead, share: Share = WHOLE) -> None:
        super().__init__()
        self.load_state_dict(head.state_dict())
        with torch.no_grad():
            for i, conv in enumerate((self.from_half, self.from_fine, self.from_middle, self.from_coarse)):
                mean, scale = (getattr(self, f"{name}{i}").double()[None, :, None, None] for name in ("mean", "scale"))
                assert conv.bias is not None
                weight = conv.weight.double() * scale
                conv.weight.copy_(weight)
                conv.bias.copy_(conv.bias.double() - (weight * mean).sum((1, 2, 3)))
                delattr(self, f"mean{i}")
                delattr(self, f"scale{i}")
            assert self.logits.bias is not None
            self.logits.bias.copy_(share.weight * (self.logits.bias.double() - share.mean))
            self.logits.weight.mul_(share.weight)

    def standard(self, maps: Maps) -> Maps:
        """Nothing to do."""
        return maps


class EarlySegmentationHead(FoldedSegmentationHead):
    """The same with its coarsest map at stride 16: enlarged after the convolution that takes it."""

    def forward(self, maps: Maps) -> Tensor:
        """Maps at strides 2, 4, 8 and 16 -> (B, H / 8, W / 8)."""
        layers = (self.from_half, self.from_fine, self.from_middle, self.from_coarse)
        half, fine, middle, coarse = (F.relu(layer(x)) for layer, x in zip(layers, maps, strict=True))
        return self.joined(torch.cat([half, fine, middle, twice(coarse)], dim=1))


def folded_density(density: ContextDensity, share: Share) -> FoldedContextDensity | WeightedContextDensity:
    """A context density, arranged where it has one component."""
    return FoldedContextDensity(density, share) if density.components == 1 else WeightedContextDensity(density, share)
