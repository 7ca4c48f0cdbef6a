"""VT-ADL as published (Mishra et al., arXiv 2104.10036): preset `paper`.

512 px images in 64 px patches, six encoder blocks, Gaussian noise on the encoding, a deconvolution decoder, and one mixture
density over the encodings themselves. Its faults are not copied: the routing layer that does nothing is left out, registers
(0 by default) are learned, log standard deviations are bounded instead of passed through softplus, and the density term is
a mean over dimensions so that it does not drown the reconstruction. The encodings are trainable, as published.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vtad.backbones.layers import Block, Registers, to_tokens
from vtad.config import Config
from vtad.models.autoencoder import Prediction
from vtad.models.context_density import floor_log_sigma, mixture_nll, published_mixture_term


def deconvolution_decoder(dim: int, doublings: int) -> nn.Sequential:
    """(B, E, rows, columns) -> (B, 3, rows 2^n, columns 2^n) in 0..1 by transposed convolutions."""
    layers: list[nn.Module] = []
    channels = dim
    for i in range(doublings - 1):
        narrower = max(16, dim >> (i + 2))
        layers += [nn.ConvTranspose2d(channels, narrower, 4, 2, 1), nn.BatchNorm2d(narrower), nn.ReLU()]
        channels = narrower
    layers += [nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Sigmoid()]
    return nn.Sequential(*layers)


class PaperAutoencoder(nn.Module):
    """The published autoencoder with a density over its own encodings."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, patch = config.embed_dim, config.patch_size
        self.grid = (config.image_height // patch, config.image_width // patch)
        self.patch = patch
        self.noise = config.noise
        self.density_dim = dim
        self.components = config.mixture_size
        self.term = published_mixture_term if config.published_mixture else mixture_nll
        self.embed = nn.Linear(3 * patch * patch, dim)
        self.position = nn.Parameter(torch.randn(1, self.grid[0] * self.grid[1], dim))
        self.registers = Registers(config.registers, dim)
        self.encoder = nn.ModuleList(Block(dim, config.heads, config.mlp_dim) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.decoder = deconvolution_decoder(dim, patch.bit_length() - 1)
        self.logits = nn.Linear(dim, config.mixture_size)
        self.mu = nn.Linear(dim, config.mixture_size * dim)
        self.log_sigma = nn.Linear(dim, config.mixture_size * dim)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, N + R, E)."""
        x: Tensor = self.embed(to_tokens(image, self.patch)) + self.position
        x = self.registers.append(x)
        for block in self.encoder:
            x = block(x)
        x = self.norm(x)
        return x

    def forward(self, image: Tensor) -> Prediction:
        """(B, 3, H, W) in 0..1."""
        x = self.registers.drop(self.encode(image))  # (B, N, E)
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        batch, tokens, dim = x.shape
        reconstruction = self.decoder(x.transpose(1, 2).reshape(batch, dim, *self.grid))
        shape = (batch, tokens, self.components, dim)
        log_pi = torch.log_softmax(self.logits(x).float(), dim=-1)
        log_sigma = floor_log_sigma(self.log_sigma(x).float()).reshape(shape)
        nll = self.term(log_pi, self.mu(x).float().reshape(shape), log_sigma, x.float())  # (B, N), nats
        return Prediction(reconstruction, nll.reshape(batch, *self.grid))

    def denoise(self, corrupted: Tensor, clean: Tensor, observed: Tensor | None = None) -> Prediction:
        """The published model knows no fixed features: it predicts from the (corrupted) image alone."""
        return cast(Prediction, self(corrupted))

    @torch.no_grad()
    def token_norms(self, image: Tensor) -> dict[str, float]:
        """Euclidean norms of the patch tokens after the encoder."""
        patches = self.registers.drop(self.encode(image)).float().norm(dim=-1)
        return {"token_norm_patch_median": patches.median().item(), "token_norm_patch_max": patches.max().item()}
