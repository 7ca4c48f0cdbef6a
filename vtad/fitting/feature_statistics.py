"""What is known before learning: whitening, patch memory, feature GMM, and the features' mean and spread at each position."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vtad.config import CELL
from vtad.data.augmentation import shifted_and_zoomed
from vtad.data.batches import BATCH, Images, batches
from vtad.models.autoencoder import Autoencoder
from vtad.models.features import PixelFeatures
from vtad_runtime.contract.progress import Bar

SAMPLES = 60_000  # cells that the patches are chosen from and the feature GMM is fitted on
POSITION_VIEWS = 400  # at most, that the position Gaussian is fitted on, half of them shifted and zoomed
MAX_CACHED = 1 << 30  # bytes of observed features kept in memory during training; more are computed when needed


class Moments:
    """Mean and covariance of samples that come in parts."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = torch.zeros(channels).double()
        self.second = torch.zeros(channels, channels).double()

    def add(self, samples: Tensor) -> None:
        """Samples (N, C)."""
        x = samples.double()
        self.count += len(x)
        self.total += x.sum(0)
        self.second += x.T @ x

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """(C,) float32 and (C, C) float64."""
        mean = self.total / self.count
        return mean.float(), self.second / self.count - torch.outer(mean, mean)


class Samples(NamedTuple):
    """What patch memory, feature GMM and position Gaussian are fitted on, and of which image each is; on the CPU."""

    cells: Tensor  # (N, C) features
    cell_of: NDArray[np.int64]  # (N,)
    positions: Tensor  # whitened features (M, D, rows, columns), half
    position_of: NDArray[np.int64]  # (M,)


@torch.no_grad()
def samples_of(model: Autoencoder, images: Images, device: torch.device, shift: float) -> Samples:
    """Those of `fit_statistics`, with its whitening: in one pass."""
    generator, cells, positions = torch.Generator().manual_seed(0), _Kept(), _Kept()
    for i, batch in enumerate(batches(images, device, label="cross-fitting: features")):
        features = model.features(batch.float() / 255)[0]
        cells.add(*_cells_of(as_cells(features), i, len(batch), len(images), generator))
        positions.add(*_positions_of(model, batch, model.whitening(features), shift, i, len(images)))
    return Samples(*cells.joined(), *positions.joined())


@torch.no_grad()
def fit_statistics(
    model: Autoencoder, images: Images, device: torch.device, shift: float = 0.0, gmm_and_position: bool = True
) -> Samples | None:
    """Set what is known without learning from training images (N, H, W, 3), in two passes that keep samples only.

    That is the whitening, the patch memory, the mean image, the base of the context density and the segmentation head's input
    scale, and with `gmm_and_position` the feature GMM and the position Gaussian, which take the longest. The last one sees images
    as they are and shifted by up to the share `shift` of their sides. The samples; None without these two.
    """
    cells = _fit_features(model, images, device, gmm=gmm_and_position)
    positions = _fit_positions(model, images, device, shift, position_gaussian=gmm_and_position)
    return None if positions is None else Samples(*cells.joined(), *positions.joined())


class _Kept:
    """Samples that come in parts, and of which image each is."""

    def __init__(self) -> None:
        self.parts, self.of = list[Tensor](), list[NDArray[np.int64]]()

    def add(self, part: Tensor, of: NDArray[np.int64]) -> None:
        self.parts.append(part)
        self.of.append(of)

    def joined(self) -> tuple[Tensor, NDArray[np.int64]]:
        """All of them; the parts are let go, that they are not held twice."""
        if len(self.parts) > 1:
            self.parts, self.of = [torch.cat(self.parts)], [np.concatenate(self.of)]
        return self.parts[0], self.of[0]


def _fit_features(model: Autoencoder, images: Images, device: torch.device, gmm: bool) -> _Kept:
    """What features are anywhere: patch memory, feature GMM, the scale of the head's input, whitening."""
    channels = model.features.channels
    moments_of_features, moments_of_pixels = Moments(channels), Moments(PixelFeatures.channels)
    generator = torch.Generator().manual_seed(0)
    kept = _Kept()
    moments: list[list[Tensor]] = []  # of each batch, of each map: means and mean squares (2, C)
    for batch in batches(images, device, label="statistics: features"):
        features, maps = model.features(batch.float() / 255)
        f = as_cells(features)
        moments_of_features.add(f)
        if model.detail is not None:
            pixels = F.pixel_unshuffle(batch.float() / 255, CELL)
            moments_of_pixels.add(as_cells(pixels))
        kept.add(*_cells_of(f, len(moments), len(batch), len(images), generator))
        moments.append([torch.stack([m.mean((0, 2, 3)), m.square().mean((0, 2, 3))]).cpu() for m in maps])
    cells, _ = kept.joined()
    with Bar("statistics: patch memory"):
        model.patch_memory.fit(cells)
    if gmm:
        with Bar("statistics: feature GMM"):
            model.feature_gmm.fit(cells)
    if model.backbone_head is not None:
        each = [torch.stack(m).mean(0) for m in zip(*moments, strict=True)]  # (2, C) of each map
        model.backbone_head.fit([m[0] for m in each], [(m[1] - m[0].square()).clamp_min(0).sqrt() for m in each])
    model.whitening.fit(*moments_of_features.mean_and_covariance())
    if model.detail is not None:
        model.detail.fit(*moments_of_pixels.mean_and_covariance())
    return kept


def _fit_positions(
    model: Autoencoder, images: Images, device: torch.device, shift: float, position_gaussian: bool
) -> _Kept | None:
    """What pixels and whitened features are at each position: mean image, base of the density, position Gaussian."""
    first = torch.zeros_like(model.context_density.base_location)
    square = torch.zeros_like(first)
    pixels = torch.zeros_like(model.base_image)
    kept = _Kept()
    for i, batch in enumerate(batches(images, device, label="statistics: positions")):
        y = model.observe(batch.float() / 255)
        if position_gaussian:
            kept.add(*_positions_of(model, batch, y, shift, i, len(images)))
        pixels += batch.float().sum(0, keepdim=True)
        first += y.sum(0, keepdim=True)
        square += y.square().sum(0, keepdim=True)
    model.base_image.copy_(pixels / (255 * len(images)))
    location = first / len(images)
    variance = square / len(images) - location.square()
    # Neighbouring positions share their statistics: few images give noisy ones.
    blurred = smoothed_positions(location)
    spread = smoothed_positions(variance + (location - blurred).square()).clamp_min(0) + 1e-2
    model.context_density.base_location.copy_(blurred)
    model.context_density.base_log_sigma.copy_(0.5 * spread.log())
    if not position_gaussian:
        return None
    with Bar("statistics: position Gaussian"):
        model.position_gaussian.fit(kept.joined()[0])
    return kept


@torch.no_grad()
def observed_features(model: Autoencoder, images: Images, device: torch.device) -> Tensor | None:
    """Whitened features of all images (N, D, rows, columns) in CPU memory, or None when they take too much of it."""
    size = model.context_density.base_location.numel() * 4 * len(images)
    if size > MAX_CACHED:
        return None
    return torch.cat([model.observe(batch.float() / 255).cpu() for batch in batches(images, device, label="features")])


def as_cells(features: Tensor) -> Tensor:
    """(B, C, rows, columns) -> (B * rows * columns, C) on the CPU, image by image."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).cpu()


def _cells_of(
    cells: Tensor, number: int, pictures: int, images: int, generator: torch.Generator
) -> tuple[Tensor, NDArray[np.int64]]:
    """Of all cells of a batch of `pictures`, (n, C), so many that all images give about `SAMPLES`; and of which image each is."""
    taken = torch.rand(len(cells), generator=generator) < min(1.0, SAMPLES * pictures / (images * len(cells)))
    return cells[taken], number * BATCH + np.flatnonzero(taken.numpy()) // (len(cells) // pictures)


def _positions_of(
    model: Autoencoder, batch: Tensor, y: Tensor, shift: float, number: int, images: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """Of a batch (B, 3, H, W), whose whitened features are y, what the position Gaussian is fitted on; and of which image it is.

    The images kept as they are, at most `POSITION_VIEWS` / 2 of all, then each of them shifted and zoomed by up to `shift`: a
    scorer that has seen no such image would take a shift for damage.
    """
    step = -(-2 * images // POSITION_VIEWS)
    kept = slice(-number * BATCH % step, None, step)
    of = number * BATCH + np.arange(len(batch))[kept]
    pictures = np.ascontiguousarray(batch[kept].permute(0, 2, 3, 1).cpu().numpy())
    if not len(pictures):
        return y[kept].half().cpu(), of
    shifted = torch.from_numpy(shifted_and_zoomed(pictures, shift, np.random.default_rng((0, 6, number))))
    others = model.observe(shifted.permute(0, 3, 1, 2).to(batch.device).float() / 255)
    return torch.cat([y[kept], others]).half().cpu(), np.concatenate([of, of])


def smoothed_positions(x: Tensor) -> Tensor:
    """(B, D, rows, columns) -> each position's mean with its neighbours, which share their statistics."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
