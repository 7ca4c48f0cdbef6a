"""The network laid out for the Neural Engine: tokens as (B, C, 1, S), 1x1 convolutions, attention one head at a time.

After Apple's reference (apple/ml-ane-transformers, "Deploying Transformers on the Apple Neural Engine", 2022). The weights
are the trained ones, rearranged:

standard                       here
linear W (O, I), b             1x1 convolution W (O, I, 1, 1), b
qkv (3E, E)                    three of them, that of q times 1 / sqrt(E / heads); after their layer norms, where they have such
attention of a head            two einsums, k transposed once for all heads; from iOS 18 on one operation for all heads
layer norm g, d, then W, b     layer norm without g and d over channels, then W diag(g), b + W d
position (1, N, E)             (1, E, 1, N); registers likewise
image / 255, then W, b         W / 255, b: the network takes levels of 0 to 255
backbone: 2 x - 1, then W, b   W times 2 / 255, b - sum of W; the border of zeros becomes one of 127.5
backbone: nearest upsampling   transposed convolution with ones
segmentation head: (x - m) s   W diag(s), b - W diag(s) m
scorers, and their fusion      vtad_export/coreml_format/likelihoods.py

Nothing is divided by a weight or by a standard deviation, so small ones do no harm. Tokens come first and registers last, so
that dropping the registers is a slice that starts at 0: a slice along the last axis that does not has been seen to lose
digits on the M1 (sbryngelson/ane-guide, chapter 35). The backbone's other layers are convolutions already and stay.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.efficientnet import TAPS, EfficientNetLite0, tapped
from vtad.backbones.layers import Attention, Block
from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.context_density import ContextDensity
from vtad.models.features import BackboneFeatures, PixelFeatures
from vtad.models.score_fusion import ScorerMaps
from vtad_export.coreml_format.likelihoods import (
    EngineContextDensity,
    EngineFeatureGmm,
    EngineFusion,
    EnginePatchMemory,
    EnginePositionGaussian,
)
from vtad_export.folding.detector import adopt
from vtad_export.folding.features import LEVELS
from vtad_export.folding.scorers import WHOLE, FoldedSegmentationHead, Share

HEAD_EPS = 1e-5  # of F.layer_norm


class Project(nn.Module):
    """A linear layer over channels, with the gain and shift of the layer norm before it, and with a factor."""

    def __init__(self, weight: Tensor, bias: Tensor, norm: nn.LayerNorm | None = None, factor: float = 1.0) -> None:
        super().__init__()
        weight, bias = weight.detach().double(), bias.detach().double()
        if norm is not None:
            bias = bias + weight @ norm.bias.detach().double()
            weight = weight * norm.weight.detach().double()
        self.weight = nn.Parameter((factor * weight).float()[:, :, None, None])
        self.bias = nn.Parameter((factor * bias).float())

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, 1, S) -> (B, O, 1, S)."""
        return F.conv2d(x, self.weight, self.bias)


class ChannelNorm(nn.Module):
    """Layer norm over channels, without gain and shift; written so that coremltools makes one `layer_norm` of it."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) -> (B, C, 1, S)."""
        centred = x - x.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps)


class ChannelAttention(nn.Module):
    """Multi-head self-attention. `fused`: as the operation scaled_dot_product_attention, which iOS 18 has; else by head.

    By head as in Apple's reference: k transposed once, and equations that Core ML has an operation for.
    """

    gain: Tensor  # (1, E, 1, 1)

    def __init__(self, attention: Attention, norm: nn.LayerNorm, *, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.fused = attention.heads, fused
        self.width = attention.project.in_features // attention.heads
        weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        factor = 1.0 if fused else 1 / math.sqrt(self.width)  # the operation has its own
        self.head_norm: ChannelNorm | None = None
        if attention.gain is not None:  # a norm forgets a factor before it
            self.head_norm = ChannelNorm(HEAD_EPS)
            self.register_buffer("gain", factor * attention.gain.detach().reshape(1, -1, 1, 1))
        self.q = Project(weights[0], biases[0], norm, factor if self.head_norm is None else 1.0)
        self.k = Project(weights[1], biases[1], norm)
        self.v = Project(weights[2], biases[2], norm)
        self.project = Project(attention.project.weight, attention.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, E, 1, S) -> (B, E, 1, S)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.head_norm is not None:
            q, k = self._by_heads(q) * self.gain, self._by_heads(k)
        joined: Tensor = self.project(self._together(q, k, v) if self.fused else self._by_head(q, k, v))
        return joined

    def _by_heads(self, x: Tensor) -> Tensor:
        """(B, E, 1, S) -> (B, E, 1, S), the channels of each head normalised."""
        assert self.head_norm is not None
        return torch.cat([self.head_norm(head) for head in torch.split(x, self.width, dim=1)], dim=1)

    def _by_head(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = []
        keys = torch.split(k.transpose(1, 3), self.width, dim=3)  # (B, S, 1, E / heads)
        for query, key, value in zip(
            torch.split(q, self.width, dim=1), keys, torch.split(v, self.width, dim=1), strict=True
        ):
            weights = torch.softmax(torch.einsum("bchq,bkhc->bkhq", query, key), dim=1)  # (B, keys, 1, queries)
            out.append(torch.einsum("bkhq,bchk->bchq", weights, value))  # (B, E / heads, 1, S)
        return torch.cat(out, dim=1)

    def _together(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def by_head(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], self.heads, self.width, -1).transpose(2, 3)  # (B, heads, S, E / heads)

        return F.scaled_dot_product_attention(by_head(q), by_head(k), by_head(v)).transpose(2, 3).reshape(q.shape)


class ChannelBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and around a residual."""

    def __init__(self, block: Block, *, fused: bool = False) -> None:
        super().__init__()
        first, act, second = cast(tuple[nn.Linear, nn.GELU, nn.Linear], tuple(block.mlp))
        self.norm1, self.norm2 = ChannelNorm(block.norm1.eps), ChannelNorm(block.norm2.eps)
        self.attention = ChannelAttention(block.attention, block.norm1, fused=fused)
        self.mlp = nn.Sequential(
            Project(first.weight, first.bias, block.norm2), act, Project(second.weight, second.bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, E, 1, S) -> (B, E, 1, S)."""
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class ChannelContextDensity(ContextDensity):
    """`ContextDensity` on tokens in channels, as its share of the fused score; the likelihood itself is inherited."""

    def __init__(self, head: ContextDensity, norm: nn.LayerNorm, share: Share = WHOLE) -> None:
        dims = head.location.in_features, head.base_location.shape[1]
        super().__init__(*dims, head.components, head.grid, head.cells)
        self.load_state_dict(head.state_dict())
        self.share = share
        for name, layer in head.named_children():
            linear = cast(nn.Linear, layer)
            setattr(self, name, Project(linear.weight, linear.bias, norm))

    def to_cells(self, tokens: Tensor) -> Tensor:
        """(B, cells * cells * D, 1, N) -> (B, D, rows, columns)."""
        return _to_cells(tokens, self.grid, self.cells)

    def forward(self, tokens: Tensor, y: Tensor) -> Tensor:
        """As of `ContextDensity`, weighted."""
        return self.share.weight * (super().forward(tokens, y) - self.share.mean)


class EngineDensityHead(nn.Module):
    """The same in float16, for one component."""

    def __init__(self, head: ContextDensity, norm: nn.LayerNorm, share: Share) -> None:
        super().__init__()
        self.grid, self.cells = head.grid, head.cells
        self.location = Project(head.location.weight, head.location.bias, norm)
        self.likelihood = EngineContextDensity(head, share)

    def forward(self, tokens: Tensor, y: Tensor) -> Tensor:
        """(B, E, 1, N) and observed features (B, D, rows, columns) -> (B, rows, columns)."""
        nll: Tensor = self.likelihood(_to_cells(self.location(tokens), self.grid, self.cells), y)
        return nll


def _to_cells(tokens: Tensor, grid: tuple[int, int], cells: int) -> Tensor:
    """(B, cells * cells * D, 1, N) -> (B, D, rows, columns)."""
    return F.pixel_shuffle(tokens.reshape(tokens.shape[0], tokens.shape[1], *grid), cells)


class EngineBackbone(nn.Module):
    """`EfficientNetLite0` with its normalisation in the first convolution, and no upsampling that older chips lack."""

    twice: Tensor

    def __init__(self, backbone: EfficientNetLite0) -> None:
        super().__init__()
        conv, pad = backbone.stem.conv, backbone.stem.pad
        assert conv.bias is not None
        assert pad is not None
        weight = conv.weight.detach().double()
        self.weight = nn.Parameter((2 / LEVELS * weight).float())
        self.bias = nn.Parameter((conv.bias.detach().double() - weight.sum((1, 2, 3))).float())
        self.pad, self.stride = pad, conv.stride
        self.blocks = backbone.blocks
        *_, coarse = TAPS.values()
        self.register_buffer("twice", torch.ones(coarse, 1, 2, 2), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 3, H, W), levels of 0 to 255 -> as `EfficientNetLite0.forward`."""
        x = F.pad(image, self.pad, value=LEVELS / 2)  # 0 after normalisation
        x = F.relu6(F.conv2d(x, self.weight, self.bias, self.stride))
        half, fine, middle, coarse = tapped(self.blocks, x)
        coarse = F.conv_transpose2d(coarse, self.twice, stride=2, groups=coarse.shape[1])  # stride 16 -> 8
        return torch.cat([F.avg_pool2d(fine, 2), middle, coarse], dim=1), (half, fine, middle, coarse)


class ChannelTransformer(nn.Module):
    """What `Autoencoder.predict` does, in (B, C, 1, S). Tokens first, registers after them."""

    position: Tensor
    registers: Tensor
    base_image: Tensor

    def __init__(self, model: Autoencoder, share: Share, *, fused: bool, float16: bool) -> None:
        super().__init__()
        self.grid, self.patch, self.cells = model.grid, model.patch, model.cells
        self.embed = Project(model.embed.weight, model.embed.bias)
        self.register_buffer("position", model.position.detach().transpose(1, 2)[:, :, None])
        self.register_buffer("registers", model.registers.tokens.detach().transpose(1, 2)[:, :, None])
        self.register_buffer("base_image", model.base_image)
        self.encoder = nn.ModuleList(ChannelBlock(cast(Block, b), fused=fused) for b in model.encoder)
        self.decoder = nn.ModuleList(ChannelBlock(cast(Block, b), fused=fused) for b in model.decoder)
        self.norm = ChannelNorm(model.norm.eps)
        self.pixels = Project(model.pixels.weight, model.pixels.bias, model.norm)
        self.context_density: nn.Module | None = None
        if "context_density" in model.active:
            head = model.context_density
            kind = EngineDensityHead if float16 and head.components == 1 else ChannelContextDensity
            self.context_density = kind(head, model.norm, share)

    def forward(self, context: Tensor, observed: Tensor | None) -> Prediction:
        """(B, D', rows, columns) and (B, D, rows, columns), as `Autoencoder.predict`."""
        x = F.pixel_unshuffle(context, self.cells).flatten(2)[:, :, None]  # (B, C, 1, N)
        x = self.embed(x) + self.position
        tokens = x.shape[-1]
        if self.registers.shape[-1]:
            x = torch.cat([x, self.registers.expand(x.shape[0], -1, -1, -1)], dim=-1)  # (B, E, 1, N + R)
        for block in (*self.encoder, *self.decoder):
            x = block(x)
        x = self.norm(x[..., :tokens])
        pixels = self.pixels(x).reshape(x.shape[0], -1, *self.grid)
        reconstruction = self.base_image + F.pixel_shuffle(pixels, self.patch)
        if observed is None or self.context_density is None:
            return Prediction(reconstruction, torch.zeros_like(context[:, 0]))
        return Prediction(reconstruction, self.context_density(x, observed))


_REARRANGED = {
    *("embed", "position", "registers", "encoder", "bottleneck", "decoder", "norm", "pixels", "base_image"),
    "context_density",
}


class ChannelAutoencoder(Autoencoder):
    """`Autoencoder` for inference, from a trained one: its transformer rearranged, all else as it is.

    With a backbone it takes levels of 0 to 255, and its scorers compute in float16. `fused`: see `ChannelAttention`.
    """

    def __init__(self, model: Autoencoder, *, fused: bool = False) -> None:
        adopt(self, model, without=_REARRANGED)
        self._active, self.fused = model.active, fused
        for name in set(ScorerMaps._fields) - set(model.active):
            setattr(self, name, None)
        self.levels = not isinstance(model.features, PixelFeatures)
        shares = dict.fromkeys(ScorerMaps._fields, WHOLE)
        if self.levels:
            given = zip(model.score_fusion.weight.tolist(), model.score_fusion.mean.tolist(), strict=True)
            shares = {name: Share(*share) for name, share in zip(ScorerMaps._fields, given, strict=True)}
            self._arrange(shares)
        self.channels = ChannelTransformer(model, shares["context_density"], fused=fused, float16=self.levels)

    def _arrange(self, shares: dict[str, Share]) -> None:
        """The scorers in float16, and 1 / 255 folded into what sees pixels."""
        for name, kind in _IN_FLOAT16.items():
            if name in self._active:
                setattr(self, name, kind(getattr(self, name), shares[name]))
        if self.segmentation_head is not None:
            self.segmentation_head = FoldedSegmentationHead(self.segmentation_head, shares["segmentation_head"])
        self.score_fusion = EngineFusion()
        assert isinstance(self.features, BackboneFeatures)
        backbone = self.features.backbone
        if isinstance(backbone, EfficientNetLite0):
            setattr(self.features, "backbone", EngineBackbone(backbone))  # noqa: B010 - of another type
        else:
            for weight in (backbone.embed.weight, backbone.pixels2, backbone.pixels4, backbone.pixels8):
                weight.data = weight.data / LEVELS
        assert self.detail is not None
        self.detail.matrix, self.detail.mean = self.detail.matrix / LEVELS, self.detail.mean * LEVELS

    @property
    def active(self) -> tuple[str, ...]:
        """As of the trained one; its context density is here a part of `channels`."""
        return self._active

    def predict(self, context: Tensor, observed: Tensor | None) -> Prediction:
        """As `Autoencoder.predict`."""
        prediction: Prediction = self.channels(context, observed)
        return prediction


_IN_FLOAT16 = {
    "patch_memory": EnginePatchMemory,
    "feature_gmm": EngineFeatureGmm,
    "position_gaussian": EnginePositionGaussian,
}
