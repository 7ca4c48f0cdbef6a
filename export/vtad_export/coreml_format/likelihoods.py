"""The scorers of a cell in float16, for the Neural Engine: as in `vtad.models`, arranged so that nothing overflows.

Each scorer gives its share of the fused score at once, w (x - m) with weight and mean of the score fusion. Distances are
computed at an eighth of their size, so their squares have room: float16 ends at 65504. A feature farther than REACH from its
mean counts as that far, which only pictures of nothing reach (a covered lens); so no sum of squares is infinite, and no
infinity is taken from another. At the other end, directions of whole pictures are sums over thousands of features, of weights
that float16 holds as subnormals, and the M1 takes those for 0 in products (sbryngelson/ane-guide, chapter 3): they are stored
larger by a power of two, and the coordinates are divided by it.

standard                        here
|z - c|^2 p + low rank          p |z|^2 - 2 p z . c + p |c|^2 as two convolutions of z / 8, likewise the low rank
log sum exp                     with its largest term taken out by hand: float16 has no exp(-20)
0.5 sum z^2 + log det           one convolution of (z / 8)^2 by ones, times 32; the constants of a position summed beforehand
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.models.context_density import LOG_2PI, ContextDensity, floor_log_sigma
from vtad.models.feature_gmm import FeatureGmm
from vtad.models.patch_memory import NEAREST, PatchMemory
from vtad.models.position_gaussian import FARTHEST as FARTHEST_COORDINATE
from vtad.models.position_gaussian import PositionGaussian
from vtad.models.score_fusion import ScoreFusion, ScorerMaps
from vtad_export.coreml_format.lint.generations import PRODUCT_LIMIT
from vtad_export.folding.scorers import Share

SCALE = 1 / 8  # of distances
REACH = 144.0  # standard deviations: 176 squares of REACH / 8 sum up to 57000
FARTHEST = 1800.0  # a squared distance, at SCALE squared: 115200, whose half float16 holds
MOST_ENLARGED = 256  # times, directions of whole pictures: a coordinate of 255 standard deviations is finite then
HIGHEST = 3e4  # z-score of a cell: upsampling and weights keep it finite


def _bounded(z: Tensor) -> Tensor:
    return torch.clamp(z, -REACH * SCALE, REACH * SCALE)


class EngineContextDensity(nn.Module):
    """The likelihood of `ContextDensity` with one component, from its location in (B, D, rows, columns)."""

    base: Tensor
    inverse: Tensor
    ones: Tensor
    constant: Tensor

    def __init__(self, density: ContextDensity, share: Share) -> None:
        super().__init__()
        log_sigma = floor_log_sigma(density.base_log_sigma + density.log_sigma).detach().double()
        dim = log_sigma.shape[1]
        volume = log_sigma.sum(1) + 0.5 * dim * LOG_2PI
        self.register_buffer("base", density.base_location.clone())
        self.register_buffer("inverse", (SCALE * torch.exp(-log_sigma)).float())
        self.register_buffer("ones", torch.full((1, dim, 1, 1), 0.5 * share.weight / SCALE**2))
        self.register_buffer("constant", (share.weight * (volume - share.mean)).float())  # (1, rows, columns)

    def forward(self, location: Tensor, y: Tensor) -> Tensor:
        """What the transformer adds to the base, and the observed features, (B, D, rows, columns) -> (B, rows, columns)."""
        z = _bounded((y - (self.base + location)) * self.inverse)
        return F.conv2d(z * z, self.ones)[:, 0] + self.constant


class EngineFeatureGmm(nn.Module):
    """`FeatureGmm`."""

    def __init__(self, gmm: FeatureGmm, share: Share) -> None:
        super().__init__()
        self.components, self.share = gmm.components, share
        precision, centres = gmm.precision.double(), gmm.centres.double() * SCALE
        self.whiten = _scaled(gmm.whiten, SCALE)
        along = gmm.along.weight.double()[:, :, 0, 0]
        assert gmm.along.bias is not None
        self.along = _conv(along, SCALE * gmm.along.bias.double())
        self.cross = _conv(-2 * precision[:, None] * centres, precision * centres.square().sum(1))
        self.square = _conv(precision[:, None].expand_as(centres), None)
        self.low_rank = nn.Conv2d(len(along), self.components, 1, groups=self.components, bias=False)
        self.low_rank.weight.data = gmm.curvature.reshape(self.components, -1, 1, 1).clone()
        self.log_weight = nn.Parameter(gmm.log_weight.clone()[None, :, None, None])

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, rows, columns) -> (B, rows, columns)."""
        z = _bounded(self.whiten(features))
        along = self.along(z)
        distance = self.cross(z) + self.square(z * z) + self.low_rank(along * along)
        logits = self.log_weight - 0.5 / SCALE**2 * torch.clamp(distance, max=FARTHEST)
        top = torch.amax(logits, dim=1, keepdim=True)
        log_sum = top + torch.log(torch.exp(logits - top).sum(1, keepdim=True))
        return (-self.share.weight * log_sum - self.share.weight * self.share.mean)[:, 0]


class EnginePatchMemory(nn.Module):
    """`PatchMemory`."""

    def __init__(self, memory: PatchMemory, share: Share) -> None:
        super().__init__()
        self.share = share
        self.principal = _scaled(memory.principal, SCALE)
        patches = memory.nearest.patches
        assert patches.bias is not None
        self.patches = _conv(-2 * SCALE * patches.weight.double()[:, :, 0, 0], -2 * SCALE**2 * patches.bias.double())

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, rows, columns) -> (B, rows, columns)."""
        z = _bounded(self.principal(features))
        square = (z * z).sum(1, keepdim=True) + torch.amin(self.patches(z), dim=1, keepdim=True)
        distance = torch.sqrt(square.clamp_min(NEAREST * SCALE**2))
        return (self.share.weight / SCALE * distance - self.share.weight * self.share.mean)[:, 0]


class EnginePositionGaussian(PositionGaussian):
    """`PositionGaussian`: its factor at SCALE, its directions enlarged, its scale and the weight in one map."""

    gain: Tensor

    def __init__(self, gaussian: PositionGaussian, share: Share) -> None:
        nn.Module.__init__(self)
        self.size, self.blocks, self.shift = gaussian.size, gaussian.blocks, share.weight * share.mean
        self.register_buffer("mean", gaussian.mean.clone())
        self.register_buffer("factor", gaussian.factor * SCALE)
        self.follows_picture = gaussian.follows_picture
        if self.follows_picture:
            self.enlarged = _room(gaussian.directions)
            self.register_buffer("directions", gaussian.directions * self.enlarged)
            self.register_buffer("slopes", gaussian.slopes * SCALE)
        self.register_buffer("gain", share.weight / SCALE / gaussian.scale)

    def whitened(self, x: Tensor) -> Tensor:
        """As of `PositionGaussian`, bounded."""
        return _bounded(super().whitened(x))

    def coordinates(self, x: Tensor) -> Tensor:
        """As of `PositionGaussian`, of bounded features."""
        most = FARTHEST_COORDINATE * self.enlarged
        z = torch.matmul(self.directions, torch.clamp(x, -REACH, REACH)).sum((1, 3))
        return z.clamp(-most, most) * (1 / self.enlarged)

    def forward(self, y: Tensor) -> Tensor:
        """(B, D, rows, columns) -> (B, rows, columns)."""
        return torch.sqrt(self._square(y) + 1e-6 * SCALE**2) * self.gain - self.shift


class EngineFusion(ScoreFusion):
    """The sum of what the scorers above give: they are weighted."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, seen: ScorerMaps) -> Tensor:
        """-> (B, rows, columns)."""
        first, *others = (x for x in seen if x is not None)
        return sum(others, start=first)


class EngineMaps(nn.Module):
    """The density map, and its share of the heatmap. To z-scores first, on the cells, for upsampling is a mean of them."""

    def __init__(self, rows: Tensor, columns: Tensor, mean: float, std: float, weight: float) -> None:
        super().__init__()
        self.mean, self.std, self.weight = mean, std, weight
        self.rows, self.columns = _conv(rows, None), _conv(columns.T, None)

    def forward(self, density: Tensor) -> tuple[Tensor, Tensor]:
        """Fused score (B, rows, columns) -> (B, H, W) twice, z-scores."""
        off = (density - self.mean)[:, :, None].transpose(1, 3)  # (B, columns, 1, rows)
        return self._upsampled(off * (1 / self.std)), self._upsampled(off * (self.weight / self.std))

    def _upsampled(self, z: Tensor) -> Tensor:
        """(B, columns, 1, rows) -> (B, H, W)."""
        wide = self.columns(torch.clamp(z, max=HIGHEST)).transpose(1, 3)  # (B, rows, 1, W)
        high: Tensor = self.rows(wide)  # (B, H, 1, W)
        return high[:, :, 0]


class EngineCells(nn.Module):
    """The means of the cells that the score is made of."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, heatmap: Tensor) -> Tensor:
        """(B, H, W) -> (B, cells)."""
        return F.avg_pool2d(heatmap[:, None], self.side).flatten(1)


def _room(directions: Tensor) -> float:
    """The power of two by which directions (blocks, R, D) can be larger, their products with bounded features still finite."""
    largest = REACH * float(directions.abs().sum(2).max())
    room = min(MOST_ENLARGED, PRODUCT_LIMIT / largest) if largest > 0 else 1.0
    return 2.0 ** math.floor(math.log2(room))


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1x1 convolution by a matrix (O, I)."""
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    made.weight.data = weight.float()[:, :, None, None]
    if made.bias is not None and bias is not None:
        made.bias.data = bias.float()
    return made


def _scaled(conv: nn.Conv2d, scale: float) -> nn.Conv2d:
    """A 1x1 convolution whose result is `scale` times as large."""
    assert conv.bias is not None
    return _conv(scale * conv.weight.double()[:, :, 0, 0], scale * conv.bias.double())
