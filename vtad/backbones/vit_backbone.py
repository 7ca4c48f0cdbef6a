"""A user's Vision Transformer as the frozen backbone (`vtad-train --backbone FILE`).

It sees one token for each 16 x 16 pixels, whatever the patch size in pretraining. Its maps come from four blocks spread over
the depth, each under the network's last layer norm. Class token and registers take part in every block and are in no map.

Maps of full width would be too wide for the statistics of their covariance. So they are reduced by random orthonormal
projections, which nearly keep distances (Johnson & Lindenstrauss, 1984): fixed, seeded, stored with the weights. The
segmentation head also sees detail finer than a token, by such projections of the pixels themselves.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.backbone import CHANNELS, MAP_CHANNELS
from vtad.backbones.layers import Block, Registers, to_tokens
from vtad.backbones.vit_checkpoint import TOKEN, VitCheckpoint, VitShape

EPS = 1e-6  # of every layer norm, in DINOv2 and timm
MAPS = 4
JOINED = 3  # of the maps, the deepest


class VitBackbone(nn.Module):
    """The frozen network. Input RGB in 0..1; outputs of the shapes of `vtad.backbones.efficientnet.EfficientNetLite0`."""

    position: Tensor
    joined: Tensor
    coarse: Tensor
    pixels2: Tensor
    pixels4: Tensor
    pixels8: Tensor

    def __init__(self, shape: VitShape, height: int, width: int) -> None:
        super().__init__()
        dim = shape.dim
        self.shape = shape
        self.grid = (height // TOKEN, width // TOKEN)
        self.taps = tuple(-(-shape.depth * (i + 1) // MAPS) - 1 for i in range(MAPS))  # blocks; 2, 5, 8, 11 of 12
        self.embed = nn.Linear(3 * TOKEN**2, dim)  # normalisation and patch size are folded in
        self.register_buffer("position", torch.zeros(1, self.grid[0] * self.grid[1], dim))
        self.extra = Registers(shape.class_token + shape.registers, dim)  # attention knows no order: they come last
        self.blocks = nn.ModuleList(Block(dim, shape.heads, shape.mlp_dim, EPS) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(dim, EPS)
        self.register_buffer("joined", projection(JOINED * dim, CHANNELS)[:, :, None, None])
        half, fine, middle, coarse = MAP_CHANNELS
        self.register_buffer("coarse", projection(MAPS * dim, coarse)[:, :, None, None])
        for channels, stride in ((half, 2), (fine, 4), (middle, 8)):
            kernel = projection(3 * stride**2, channels).reshape(channels, 3, stride, stride)
            self.register_buffer(f"pixels{stride}", kernel)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 3, H, W) in 0..1, of the height and width given -> as `EfficientNetLite0.forward`.

        The joined map (B, CHANNELS, H / 8, W / 8), and four maps of 16, 24, 40 and 112 channels at strides 2, 4, 8 and 8.
        """
        maps = self.maps(image)
        joined = F.conv2d(torch.cat(maps[-JOINED:], dim=1), self.joined)
        coarse = F.conv2d(torch.cat(maps, dim=1), self.coarse)
        joined, coarse = (F.interpolate(x, scale_factor=2, mode="nearest") for x in (joined, coarse))  # stride 16 -> 8
        kernels = (self.pixels2, self.pixels4, self.pixels8)
        finer = [F.conv2d(image, kernel, stride=kernel.shape[-1]) for kernel in kernels]
        return joined, (*finer, coarse)

    def maps(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0..1 -> MAPS maps (B, dim, H / 16, W / 16), the deepest last."""
        x: Tensor = self.embed(to_tokens(image, TOKEN)) + self.position
        x = self.extra.append(x)  # (B, N + 1 + R, dim)
        found = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                found[i] = self.norm(self.extra.drop(x)).transpose(1, 2).reshape(image.shape[0], -1, *self.grid)
        return [found[i] for i in self.taps]

    def load_pretrained(self, found: VitCheckpoint) -> None:
        """Fill in the weights of a file of this shape."""
        tensors = found.tensors | {"position": at_grid(found.tensors["position"], self.grid)}
        for name, target in self.state_dict().items():
            if name in tensors:  # the others are the projections
                target.copy_(tensors[name])


def at_grid(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1, dim, side, side) of a square of patches -> (1, N, dim) of a grid; bicubic, once."""
    if position.shape[2:] != grid:
        position = F.interpolate(position, size=grid, mode="bicubic", align_corners=False)
    return position.flatten(2).transpose(1, 2)


def projection(channels_in: int, channels_out: int) -> Tensor:
    """A fixed random matrix (out, in) whose rows are orthonormal, or its columns where there are more rows."""
    generator = torch.Generator().manual_seed(0)
    wide, narrow = max(channels_in, channels_out), min(channels_in, channels_out)
    q, _ = torch.linalg.qr(torch.randn(wide, narrow, generator=generator, dtype=torch.float64))
    matrix: Tensor = q if channels_out > channels_in else q.T
    return matrix.float().contiguous()
