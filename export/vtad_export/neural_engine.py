"""The transformer laid out for the Neural Engine: (B, C, 1, S), 1x1 convolutions, attention one head at a time.

After Apple's reference (apple/ml-ane-transformers, "Deploying Transformers on the Apple Neural Engine", 2022). The weights
are the trained ones, rearranged:

standard                       here
linear W (O, I), b             1x1 convolution W (O, I, 1, 1), b
qkv (3E, E)                    three of them, that of q times 1 / sqrt(E / heads)
layer norm g, d, then W, b     layer norm without g and d over channels, then W diag(g), b + W d
position (1, N, E)             (1, E, 1, N); registers likewise

Nothing is divided by a weight, so small ones do no harm. The fixed features are convolutions already and stay as they are.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.density import MixtureHead
from vtad.layers import Attention, Block
from vtad.model import Autoencoder, Prediction


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


class ChannelMixtureHead(MixtureHead):
    """`MixtureHead` on tokens in channels; the likelihood itself is inherited."""

    def __init__(self, head: MixtureHead, norm: nn.LayerNorm) -> None:
        dims = head.location.in_features, head.base_location.shape[1]
        super().__init__(*dims, head.components, head.grid, head.cells)
        self.load_state_dict(head.state_dict())
        for name, layer in head.named_children():
            linear = cast(nn.Linear, layer)
            setattr(self, name, Project(linear.weight, linear.bias, norm))

    def to_cells(self, tokens: Tensor) -> Tensor:
        """(B, cells * cells * D, 1, N) -> (B, D, rows, columns)."""
        return F.pixel_shuffle(tokens.reshape(tokens.shape[0], tokens.shape[1], *self.grid), self.cells)


class ChannelAutoencoder(nn.Module):
    """`Autoencoder` in (B, C, 1, S), from a trained one; for inference only. Tokens first, registers after them."""

    position: Tensor
    registers: Tensor
    base_image: Tensor

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.grid, self.patch, self.cells = model.grid, model.patch, model.cells
        self.features, self.whitening = model.features, model.whitening
        self.embed = Project(model.embed.weight, model.embed.bias)
        self.register_buffer("position", model.position.detach().transpose(1, 2)[:, :, None])
        self.register_buffer("registers", model.registers.tokens.detach().transpose(1, 2)[:, :, None])
        self.register_buffer("base_image", model.base_image)
        self.encoder = nn.ModuleList(ChannelBlock(cast(Block, b)) for b in model.encoder)
        self.decoder = nn.ModuleList(ChannelBlock(cast(Block, b)) for b in model.decoder)
        self.norm = ChannelNorm(model.norm.eps)
        self.pixels = Project(model.pixels.weight, model.pixels.bias, model.norm)
        self.density = ChannelMixtureHead(model.density, model.norm)

    def forward(self, image: Tensor) -> Prediction:
        """(B, 3, H, W) in 0..1, as `Autoencoder.forward`."""
        y = self.whitening(self.features(image))
        x = F.pixel_unshuffle(y * self.whitening.context_scale, self.cells).flatten(2)[:, :, None]  # (B, C, 1, N)
        x = self.embed(x) + self.position
        tokens = x.shape[-1]
        if self.registers.shape[-1]:
            x = torch.cat([x, self.registers.expand(x.shape[0], -1, -1, -1)], dim=-1)  # (B, E, 1, N + R)
        for block in (*self.encoder, *self.decoder):
            x = block(x)
        x = self.norm(x[..., :tokens])
        pixels = self.pixels(x).reshape(x.shape[0], -1, *self.grid)
        return Prediction(self.base_image + F.pixel_shuffle(pixels, self.patch), self.density(x, y))
