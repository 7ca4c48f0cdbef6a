"""The network laid out for the Neural Engine: tokens as (B, C, 1, S), 1x1 convolutions, attention one head at a time.

After Apple's reference (apple/ml-ane-transformers, "Deploying Transformers on the Apple Neural Engine", 2022). The weights
are the trained ones, rearranged:

standard                       here
linear W (O, I), b             1x1 convolution W (O, I, 1, 1), b
qkv (3E, E)                    three of them, that of q times 1 / sqrt(E / heads)
layer norm g, d, then W, b     layer norm without g and d over channels, then W diag(g), b + W d
position (1, N, E)             (1, E, 1, N); registers likewise
backbone: 2 x - 1, then W, b   W times 2, b - sum of W; the border of zeros becomes one of 0.5
backbone: nearest upsampling   transposed convolution with ones
segmentation head: (x - m) s     W diag(s), b - W diag(s) m

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

from vtad.backbones.efficientnet import TAPS, EfficientNetLite0
from vtad.backbones.layers import Attention, Block
from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.context_density import ContextDensity
from vtad.models.score_fusion import ScorerMaps
from vtad.models.segmentation_head import SegmentationHead


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
    """Multi-head self-attention, each head a matrix product of its own."""

    def __init__(self, attention: Attention, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.width = attention.project.in_features // attention.heads
        weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        self.q = Project(weights[0], biases[0], norm, 1 / math.sqrt(self.width))
        self.k = Project(weights[1], biases[1], norm)
        self.v = Project(weights[2], biases[2], norm)
        self.project = Project(attention.project.weight, attention.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, E, 1, S) -> (B, E, 1, S)."""
        out = []
        for q, k, v in zip(self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x)), strict=True):
            weights = torch.softmax(k.transpose(-1, -2) @ q, dim=-2)  # (B, 1, keys, queries)
            out.append((v @ weights).transpose(1, 2))  # (B, E / heads, 1, S)
        joined: Tensor = self.project(torch.cat(out, dim=1))
        return joined

    def _heads(self, x: Tensor) -> list[Tensor]:
        """(B, E, 1, S) -> (B, 1, E / heads, S) for each head."""
        return [part.transpose(1, 2) for part in torch.split(x, self.width, dim=1)]


class ChannelBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and around a residual."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        first, act, second = cast(tuple[nn.Linear, nn.GELU, nn.Linear], tuple(block.mlp))
        self.norm1, self.norm2 = ChannelNorm(block.norm1.eps), ChannelNorm(block.norm2.eps)
        self.attention = ChannelAttention(block.attention, block.norm1)
        self.mlp = nn.Sequential(
            Project(first.weight, first.bias, block.norm2), act, Project(second.weight, second.bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, E, 1, S) -> (B, E, 1, S)."""
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class ChannelContextDensity(ContextDensity):
    """`ContextDensity` on tokens in channels; the likelihood itself is inherited."""

    def __init__(self, head: ContextDensity, norm: nn.LayerNorm) -> None:
        dims = head.location.in_features, head.base_location.shape[1]
        super().__init__(*dims, head.components, head.grid, head.cells)
        self.load_state_dict(head.state_dict())
        for name, layer in head.named_children():
            linear = cast(nn.Linear, layer)
            setattr(self, name, Project(linear.weight, linear.bias, norm))

    def to_cells(self, tokens: Tensor) -> Tensor:
        """(B, cells * cells * D, 1, N) -> (B, D, rows, columns)."""
        return F.pixel_shuffle(tokens.reshape(tokens.shape[0], tokens.shape[1], *self.grid), self.cells)


class EngineBackbone(nn.Module):
    """`EfficientNetLite0` with its normalisation in the first convolution, and no upsampling that older chips lack."""

    twice: Tensor

    def __init__(self, backbone: EfficientNetLite0) -> None:
        super().__init__()
        conv, pad = backbone.stem.conv, backbone.stem.pad
        assert conv.bias is not None
        assert pad is not None
        weight = conv.weight.detach().double()
        self.weight = nn.Parameter((2 * weight).float())
        self.bias = nn.Parameter((conv.bias.detach().double() - weight.sum((1, 2, 3))).float())
        self.pad, self.stride = pad, conv.stride
        self.blocks = backbone.blocks
        *_, coarse = TAPS.values()
        self.register_buffer("twice", torch.ones(coarse, 1, 2, 2), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 3, H, W) in 0..1, as `EfficientNetLite0.forward`."""
        x = F.pad(image, self.pad, value=0.5)  # 0 after normalisation
        x = F.relu6(F.conv2d(x, self.weight, self.bias, self.stride))
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                maps.append(x)
        half, fine, middle, coarse = maps
        coarse = F.conv_transpose2d(coarse, self.twice, stride=2, groups=coarse.shape[1])  # stride 16 -> 8
        return torch.cat([F.avg_pool2d(fine, 2), middle, coarse], dim=1), (half, fine, middle, coarse)


class FoldedSegmentationHead(SegmentationHead):
    """`SegmentationHead` whose first convolutions, none of which pads, take the maps as they are."""

    def __init__(self, head: SegmentationHead) -> None:
        super().__init__()
        self.load_state_dict(head.state_dict())
        with torch.no_grad():
            for i, conv in enumerate((self.from_half, self.from_fine, self.from_middle, self.from_coarse)):
                mean, scale = (getattr(self, f"{name}{i}").double()[None, :, None, None] for name in ("mean", "scale"))
                assert conv.bias is not None
                weight = conv.weight.double() * scale
                conv.weight.copy_(weight)
                conv.bias.copy_(conv.bias.double() - (weight * mean).sum((1, 2, 3)))

    def standard(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Nothing to do."""
        return maps


class ChannelTransformer(nn.Module):
    """What `Autoencoder.predict` does, in (B, C, 1, S). Tokens first, registers after them."""

    position: Tensor
    registers: Tensor
    base_image: Tensor

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.grid, self.patch, self.cells = model.grid, model.patch, model.cells
        self.embed = Project(model.embed.weight, model.embed.bias)
        self.register_buffer("position", model.position.detach().transpose(1, 2)[:, :, None])
        self.register_buffer("registers", model.registers.tokens.detach().transpose(1, 2)[:, :, None])
        self.register_buffer("base_image", model.base_image)
        self.encoder = nn.ModuleList(ChannelBlock(cast(Block, b)) for b in model.encoder)
        self.decoder = nn.ModuleList(ChannelBlock(cast(Block, b)) for b in model.decoder)
        self.norm = ChannelNorm(model.norm.eps)
        self.pixels = Project(model.pixels.weight, model.pixels.bias, model.norm)
        active = "context_density" in model.active
        self.context_density = ChannelContextDensity(model.context_density, model.norm) if active else None

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


_REARRANGED = {"embed", "registers", "encoder", "bottleneck", "decoder", "norm", "pixels", "context_density"}


class ChannelAutoencoder(Autoencoder):
    """`Autoencoder` for inference, from a trained one: its transformer rearranged, all else as it is."""

    def __init__(self, model: Autoencoder) -> None:
        nn.Module.__init__(self)
        for name, value in vars(model).items():
            if not name.startswith("_") and name != "training":
                setattr(self, name, value)
        for name, child in model.named_children():
            if name not in _REARRANGED:
                self.add_module(name, child)
        for name in set(ScorerMaps._fields) - set(model.active):
            setattr(self, name, None)
        self.channels = ChannelTransformer(model)
        self._active = model.active

    @property
    def active(self) -> tuple[str, ...]:
        """As of the trained one; its context density is here a part of `channels`."""
        return self._active

    def predict(self, context: Tensor, observed: Tensor | None) -> Prediction:
        """As `Autoencoder.predict`."""
        prediction: Prediction = self.channels(context, observed)
        return prediction
