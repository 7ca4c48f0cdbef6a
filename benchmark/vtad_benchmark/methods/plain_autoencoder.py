"""A plain convolutional autoencoder (Bergmann et al., arXiv 1807.02011), trained by and judged by L1 or SSIM.

As published: four strided stages, 32 to 128 channels, leaky ReLU of slope 0.2, a bottleneck of 100 numbers, its mirror as
decoder, weight decay 1e-5. Different: colour pictures; the bottleneck's kernel is the whole last grid, whatever its size (8 x 8
there); weights start as He et al. proposed; trained for a stated time by Adam with cosine decay from 1e-3, where 200 epochs at
2e-4 were published; batches of 8; the map is blurred like the other baselines', and its maximum is the score.
"""

from __future__ import annotations

import math
import time
from typing import Literal

import torch
from torch import Tensor, nn

from vtad.data.batches import BATCH
from vtad.data.images import ImageCache
from vtad.models.ssim import SSIM
from vtad_benchmark.methods.baseline import Baseline, device_of, smooth

Measure = Literal["l1", "ssim"]

BOTTLENECK = 100
SLOPE = 0.2  # of the leaky ReLUs
STRIDE = 16  # the sides of the image are multiples of it
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-5
# (kernel, stride, channels) of the encoder, as in the paper's table; the decoder mirrors it.
STAGES = ((4, 2, 32), (4, 2, 32), (3, 1, 32), (4, 2, 64), (3, 1, 64), (4, 2, 128), (3, 1, 64), (3, 1, 32))


class PlainAutoencoder(Baseline):
    """For images of one size. `seconds`: of training; `steps`, given, counts instead."""

    def __init__(
        self, height: int, width: int, measure: Measure, seconds: float, *, steps: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"expected sides that are multiples of {STRIDE} pixels, got {width}x{height}")
        self.measure, self.seconds, self.steps, self.seed = measure, seconds, steps, seed
        self.taken = 0  # steps of training
        self.epochs = 0.0  # passes over the images
        torch.manual_seed(seed)
        grid = (height // STRIDE, width // STRIDE)
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        before = 3
        for kernel, stride, channels in STAGES:
            padding = (kernel - 1) // 2
            encoder += [nn.Conv2d(before, channels, kernel, stride, padding), nn.LeakyReLU(SLOPE)]
            mirror = nn.ConvTranspose2d(channels, before, kernel, stride, padding)
            decoder = [mirror, nn.LeakyReLU(SLOPE), *decoder]
            before = channels
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(before, BOTTLENECK, grid))
        last = decoder[:-1]  # the reconstruction is linear
        self.decoder = nn.Sequential(nn.ConvTranspose2d(BOTTLENECK, before, grid), nn.LeakyReLU(SLOPE), *last)
        for layer in (*self.encoder, *self.decoder):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                _initialise(layer, from_one_cell=layer is self.decoder[0])
        self.ssim = SSIM(height, width)

    def unlike(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> how unlike the reconstruction each pixel is, (B, H, W)."""
        reconstruction = self.decoder(self.encoder(x))
        if self.measure == "l1":
            unlike: Tensor = (x - reconstruction).abs().mean(1)
            return unlike
        return self.ssim.dissimilarity(x, reconstruction).mean(1)

    def fit(self, images: ImageCache) -> None:
        """Minimise the mean of the map."""
        device = device_of(self)
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(self.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        start = time.perf_counter()
        order: list[int] = []
        while (done := self._fraction(time.perf_counter() - start)) < 1:
            if len(order) < min(BATCH, len(images)):
                order = torch.randperm(len(images), generator=generator).tolist()
            chosen, order = order[:BATCH], order[BATCH:]
            x = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).to(device).float() / 255
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad()
            self.unlike(x).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            optimizer.step()
            self.taken += 1
        self.epochs = self.taken * BATCH / len(images)
        self.eval()

    def _fraction(self, seconds: float) -> float:
        return self.taken / self.steps if self.steps is not None else seconds / self.seconds

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 (B, 3, H, W) -> scores (B,) and maps (B, H, W)."""
        maps = smooth(self.unlike(image.float() / 255))
        return maps.flatten(1).amax(1), maps


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d, from_one_cell: bool) -> None:
    """Variance kept from layer to layer (He et al., arXiv 1502.01852): torch's default shrinks it, and learning starts late."""
    reaching: float = 1 if from_one_cell else math.prod(layer.kernel_size)  # cells of the input that an output sees
    if isinstance(layer, nn.ConvTranspose2d) and not from_one_cell:
        reaching /= math.prod(layer.stride)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (1 + SLOPE**2) / (layer.in_channels * reaching)))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
