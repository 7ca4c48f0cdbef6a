"""Parts of the transformers: pre-norm blocks (Dosovitskiy et al., arXiv 2010.11929), patches and register tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention.

    `query_key_norm`: queries and keys go through a layer norm each, and queries have a learned gain (Dehghani et al., arXiv
    2302.05442). Without it logits grow into the hundreds, and which of two like tokens is attended to hangs on rounding.
    """

    def __init__(self, dim: int, heads: int, *, query_key_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.gain = nn.Parameter(torch.ones(heads, 1, dim // heads)) if query_key_norm else None
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, E / heads)
        if self.gain is not None:
            q, k = (F.layer_norm(x, x.shape[-1:]) for x in (q, k))
            q, k = (q * self.gain).to(v.dtype), k.to(v.dtype)
        x = _attend(q, k, v)
        out: Tensor = self.project(x.transpose(1, 2).reshape(batch, tokens, dim))
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, N, E / heads) each -> the same. On CPUs the way back is twice as fast in float32 as in bfloat16."""
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and around a residual."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, eps: float = 1e-5, *, query_key_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attention = Attention(dim, heads, query_key_norm=query_key_norm)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class Noise(nn.Module):
    """Dropout (Srivastava et al., JMLR 2014) that falls alike on a picture whoever else is in its batch's share.

    Where several processes share a batch, each draws the noise of the whole one and takes the rows of its own.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._share: tuple[Tensor, int] | None = None

    @contextmanager
    def on_share(self, rows: Tensor, pictures: int) -> Iterator[None]:
        """What is seen inside the block are these rows, (B,), of a batch of so many pictures."""
        self._share = rows, pictures
        try:
            yield
        finally:
            self._share = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same; in training a share of the numbers is 0, and the others grow by as much."""
        if not self.training or self.rate == 0:
            return x
        rows, pictures = self._share or (slice(None), len(x))
        kept = torch.rand((pictures, *x.shape[1:]), device=x.device) >= self.rate
        return x * kept[rows] / (1 - self.rate)


class Registers(nn.Module):
    """Learned tokens without a position that attention may use as scratch space (Darcet et al., arXiv 2309.16588)."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(0.02 * torch.randn(1, count, dim))

    def append(self, x: Tensor) -> Tensor:
        """(B, N, E) -> (B, N + R, E)."""
        return torch.cat([x, self.tokens.expand(x.shape[0], -1, -1)], dim=1) if self.tokens.shape[1] else x

    def drop(self, x: Tensor) -> Tensor:
        """(B, N + R, E) -> (B, N, E)."""
        return x[:, : x.shape[1] - self.tokens.shape[1]]


def to_tokens(maps: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, H W / patch^2, C patch^2), tokens row by row."""
    return F.pixel_unshuffle(maps, patch).flatten(2).transpose(1, 2)


def to_pixels(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """(B, N, C patch^2) -> (B, C, H, W): the inverse of `to_tokens`."""
    batch, _, channels = tokens.shape
    return F.pixel_shuffle(tokens.transpose(1, 2).reshape(batch, channels, *grid), patch)
