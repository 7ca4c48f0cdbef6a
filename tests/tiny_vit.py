"""Random weights of a small Vision Transformer under the names that DINOv2 and timm give them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]

DIM = 64


def random_vit(
    layout: str = "dinov2",
    *,
    dim: int = DIM,
    depth: int = 4,
    patch: int = 14,
    registers: int = 4,
    side: int = 3,
    layer_scale: bool = True,
    qkv_bias: bool = True,
    class_token: bool = True,
    class_position: bool = True,
    seed: int = 0,
) -> State:
    """A state dict: `side` x `side` positions, with one for the class token or not."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return shift + scale * torch.randn(shape, generator=g)

    state = {
        "pos_embed": draw(1, side**2 + (class_token and class_position), dim),
        "patch_embed.proj.weight": draw(dim, 3, patch, patch, scale=0.1),
        "patch_embed.proj.bias": draw(dim),
        "norm.weight": draw(dim, shift=1.0, scale=0.3),
        "norm.bias": draw(dim, scale=0.3),
    }
    if class_token:
        state["cls_token"] = draw(1, 1, dim)
    if registers:
        state["register_tokens" if layout == "dinov2" else "reg_token"] = draw(1, registers, dim)
    state |= {"mask_token": draw(1, dim)} if layout == "dinov2" else {"head.weight": draw(5, dim), "head.bias": draw(5)}
    for i in range(depth):
        at = f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            state[f"{at}.{norm}.weight"] = draw(dim, shift=1.0, scale=0.3)
            state[f"{at}.{norm}.bias"] = draw(dim, scale=0.3)
        for name, rows, columns in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("mlp.fc1", 2 * dim, dim),
            ("mlp.fc2", dim, 2 * dim),
        ):
            state[f"{at}.{name}.weight"] = draw(rows, columns, scale=columns**-0.5)
            if qkv_bias or name != "attn.qkv":
                state[f"{at}.{name}.bias"] = draw(rows, scale=0.3)
        if layer_scale:
            state |= {f"{at}.ls{n}.gamma": draw(dim, shift=1.0, scale=0.3) for n in (1, 2)}
    return state


def write_vit(path: Path, **choices: int) -> Path:
    """Such weights in a file."""
    torch.save(random_vit(**choices), path)  # type: ignore[arg-type]
    return path
