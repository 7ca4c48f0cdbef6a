"""Vision Transformer weights from a user's file: DINOv2 (Oquab et al., arXiv 2304.07193; registers 2309.16588) and timm layouts.

All sizes are read from the tensors' shapes, except the number of heads, which leaves no trace: dim / 64, as in every DINOv2
model. A tensor that would change the features and is not known here is refused. A mask token and classifier heads change
nothing and are ignored. Layer scale is folded into the layers before it, image normalisation and patch size into the
embedding: one linear layer on squares of 16 pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from vtad.backbones.backbone import BackboneError

TOKEN = 16  # pixels a side of the square that one token sees; resized to the checkpoint's patch size
HEAD_DIM = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB

_PARTS = ("weight", "bias")
_NESTS = ("model", "state_dict", "teacher")  # keys of files that others write, DINOv2's among them
_IGNORED = ("mask_token", "head.", "fc_norm.")
_KNOWN = re.compile(
    r"patch_embed\.proj\.(weight|bias)|cls_token|pos_embed|register_tokens|reg_token|norm\.(weight|bias)"
    r"|blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)|blocks\.\d+\.ls[12]\.gamma"
)
_ADVICE = "give --backbone the weights of a plain DINOv2 or timm ViT, or leave it out"


@dataclass(frozen=True)
class VitShape:
    """What it takes to build the network without its weights."""

    dim: int  # width of a token, a multiple of HEAD_DIM
    depth: int  # blocks
    patch: int  # pixels a side of a token in pretraining
    registers: int
    mlp_dim: int  # hidden width of a block's MLP
    class_token: int  # 1 or 0

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.dim // HEAD_DIM

    def text(self) -> str:
        """As a run's configuration keeps it."""
        return ",".join(f"{name}={value}" for name, value in dataclasses.asdict(self).items())

    @staticmethod
    def from_text(text: str) -> VitShape:
        """The inverse of `text`. Raises BackboneError."""
        names = [f.name for f in dataclasses.fields(VitShape)]
        pattern = ",".join(rf"{name}=(\d{{1,5}})" for name in names)
        found = re.fullmatch(pattern, text)
        shape = VitShape(*map(int, found.groups())) if found else None
        if shape is None or min(shape.dim, shape.depth, shape.patch, shape.mlp_dim) < 1 or shape.dim % HEAD_DIM:
            raise BackboneError(
                f"backbone_shape: expected {', '.join(names)} as training fills them in, got {text!r:.80}"
            )
        return shape


@dataclass(frozen=True)
class VitCheckpoint:
    """The weights of a file, under the names of `vtad.backbones.vit_backbone.VitBackbone`; positions as (1, dim, side, side)."""

    shape: VitShape
    tensors: dict[str, Tensor]  # float32
    sha256: str  # of the file


def read_checkpoint(path: Path) -> VitCheckpoint:
    """The weights in a torch file (a state dict) or a .safetensors file. Raises BackboneError."""
    loaded, digest = _load(path)
    left = _Tensors(path, _state(path, loaded))
    patch_weight = left.take("patch_embed.proj.weight")
    dim, patch = len(patch_weight), patch_weight.shape[-1]
    if patch_weight.shape[1:] != (3, patch, patch) or patch < 1:
        raise left.error(f"patches of RGB squares, (dim, 3, side, side), got {tuple(patch_weight.shape)}")
    if dim % HEAD_DIM or dim < 1:
        raise left.error(f"a width that is a multiple of {HEAD_DIM}, that of a head, got {dim}")
    depth = 1 + max((int(name.split(".")[1]) for name in left if name.startswith("blocks.")), default=0)
    mlp_dim = len(left.take("blocks.0.mlp.fc1.bias", keep=True))
    tensors = _embedding(patch_weight, left.take("patch_embed.proj.bias", dim))
    tensors |= {f"norm.{part}": left.take(f"norm.{part}", dim) for part in _PARTS}
    for i in range(depth):
        tensors |= {f"blocks.{i}.{name}": x for name, x in _block(left, f"blocks.{i}", dim, mlp_dim).items()}
    extra = _extra_tokens(left, dim)
    registers = sum(x.shape[1] for name, x in extra.items() if name != "cls_token")
    shape = VitShape(dim, depth, patch, registers, mlp_dim, int("cls_token" in extra))
    tokens = torch.cat([*extra.values(), torch.zeros(1, 0, dim)], dim=1)
    before, tensors["position"] = _positions(left, dim, int("cls_token" in extra), tokens.shape[1])
    tokens[:, : before.shape[1]] += before
    tensors["extra.tokens"] = tokens
    left.require_empty()
    return VitCheckpoint(shape, tensors, digest)


class _Tensors:
    """The tensors of a state dict, each taken once, in float32 and of the shape expected."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self._left = {k: v for k, v in tensors.items() if not k.startswith(_IGNORED)}
        if unknown := sorted(name for name in self._left if not _KNOWN.fullmatch(name)):
            raise self.error(
                f"the tensors of a plain ViT (no SwiGLU), got {unknown[0]!r:.80} and {len(unknown) - 1} more that it lacks"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._left)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def error(self, text: str) -> BackboneError:
        return BackboneError(f"{self.path}: expected {text}: {_ADVICE}")

    def take(self, name: str, *shape: int, keep: bool = False) -> Tensor:
        """The tensor of that name. Raises BackboneError: absent, of another shape, or not made of finite numbers."""
        if name not in self._left:
            raise self.error(f"a tensor {name}, got none of that name")
        x = self._left[name] if keep else self._left.pop(name)
        if (shape and tuple(x.shape) != shape) or x.ndim == 0:
            raise self.error(f"{name} of shape {shape or '(n, ...)'}, got {tuple(x.shape)}")
        if not x.is_floating_point() or not torch.isfinite(x.float()).all():
            raise self.error(f"finite numbers in {name}, got others")
        return x.detach().float()

    def require_empty(self) -> None:
        """Raises BackboneError when a tensor was not taken."""
        if self._left:
            raise self.error(f"every block to have the same parts, got {min(self._left)} beside them")


def _load(path: Path) -> tuple[object, str]:
    """What the file holds, and the sha256 of its bytes."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "something else"
            raise BackboneError(f"{path}: expected a file of weights, got {kind}: {_ADVICE}")
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content), digest
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what comes of them is checked
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), digest
    except BackboneError:
        raise
    except OSError as e:
        raise BackboneError(f"{path}: expected a file of weights, got {e.strerror or e}: {_ADVICE}") from e
    except Exception as e:  # bytes that are no checkpoint make an unpickler raise nearly anything
        raise BackboneError(
            f"{path}: expected a state dict that torch.load reads with weights_only=True, or .safetensors, got a file that "
            f"is neither ({type(e).__name__}): {_ADVICE}"
        ) from e


def _state(path: Path, loaded: object) -> dict[str, Tensor]:
    """The state dict, however it is nested and prefixed."""
    while isinstance(loaded, Mapping) and (nest := next((n for n in _NESTS if isinstance(loaded.get(n), Mapping)), "")):
        loaded = loaded[nest]
    if not isinstance(loaded, Mapping) or not loaded:
        raise BackboneError(f"{path}: expected a state dict, got {type(loaded).__name__} without tensors: {_ADVICE}")
    if others := [k for k, v in loaded.items() if not isinstance(k, str) or not isinstance(v, Tensor)]:
        raise BackboneError(
            f"{path}: expected a state dict of tensors alone, got an entry {others[0]!r:.80}: {_ADVICE}"
        )
    state: dict[str, Tensor] = {k.removeprefix("module."): v for k, v in loaded.items()}
    if backbone := {k: v for k, v in state.items() if k.startswith("backbone.")}:
        state = backbone  # what lies beside it are the heads of its training
    return {k.removeprefix("backbone.").removeprefix("module."): v for k, v in state.items()}


def _embedding(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The convolution (dim, 3, patch, patch) on normalised pixels as a linear layer on squares of 16 x 16 pixels in 0..1.

    It is applied to each square resized bilinearly. Up to a patch of 16 pixels that is what resizing the whole picture gives,
    since no pixel there mixes two squares; above, a square's border stands in for its neighbour's.
    """
    patch = weight.shape[-1]
    resize = F.interpolate(torch.eye(TOKEN)[None], size=patch, mode="linear", align_corners=False)[0].T.double()
    mean, std = (torch.tensor(x).double()[None, :, None, None] for x in (MEAN, STD))
    weight = torch.einsum("dcij,ia,jb->dcab", weight.double(), resize, resize) / std  # (dim, 3, 16, 16)
    bias = bias.double() - (weight * mean).sum((1, 2, 3))
    return {"embed.weight": weight.flatten(1).float(), "embed.bias": bias.float()}


def _block(left: _Tensors, at: str, dim: int, mlp_dim: int) -> dict[str, Tensor]:
    """One block under the names of `vtad.backbones.layers.Block`, layer scale folded in."""
    out = {f"{norm}.{part}": left.take(f"{at}.{norm}.{part}", dim) for norm in ("norm1", "norm2") for part in _PARTS}
    out["attention.qkv.weight"] = left.take(f"{at}.attn.qkv.weight", 3 * dim, dim)
    bias = f"{at}.attn.qkv.bias"
    out["attention.qkv.bias"] = left.take(bias, 3 * dim) if bias in left else torch.zeros(3 * dim)
    out["mlp.0.weight"] = left.take(f"{at}.mlp.fc1.weight", mlp_dim, dim)
    out["mlp.0.bias"] = left.take(f"{at}.mlp.fc1.bias", mlp_dim)
    for name, theirs, width, gamma in (
        ("attention.project", "attn.proj", dim, "ls1"),
        ("mlp.2", "mlp.fc2", mlp_dim, "ls2"),
    ):
        scale = left.take(f"{at}.{gamma}.gamma", dim) if f"{at}.{gamma}.gamma" in left else torch.ones(dim)
        out[f"{name}.weight"] = left.take(f"{at}.{theirs}.weight", dim, width) * scale[:, None]
        out[f"{name}.bias"] = left.take(f"{at}.{theirs}.bias", dim) * scale
    return out


def _extra_tokens(left: _Tensors, dim: int) -> dict[str, Tensor]:
    """The class token, then the registers, those that there are: (1, count, dim) each."""
    found = {name: left.take(name) for name in ("cls_token", "register_tokens", "reg_token") if name in left}
    for name, x in found.items():
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (1, dim) or (name == "cls_token" and x.shape[1] != 1):
            raise left.error(f"{name} of shape (1, count, {dim}), got {tuple(x.shape)}")
    return found


def _positions(left: _Tensors, dim: int, class_token: int, extra: int) -> tuple[Tensor, Tensor]:
    """Positions of the extra tokens that have one (1, 0 to `extra`, dim), and of a square of patches (1, dim, side, side)."""
    x = left.take("pos_embed")
    if x.ndim == 3 and (x.shape[0], x.shape[2]) == (1, dim):
        for before in (0, class_token, extra):  # of all patches only; of the class token too; of the registers too
            side = math.isqrt(max(0, x.shape[1] - before))
            if side and side**2 + before == x.shape[1]:
                return x[:, :before], x[:, before:].transpose(1, 2).reshape(1, dim, side, side)
    raise left.error(
        f"pos_embed for a square of patches, (1, side * side or {class_token} or {extra} more, {dim}), got {tuple(x.shape)}"
    )
