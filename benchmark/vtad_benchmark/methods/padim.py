"""PaDiM (Defard et al., arXiv 2011.08785): a Gaussian with full covariance at each position of a feature map.

As published: sample covariance + 0.01 I, Mahalanobis distance, bilinear upsampling, Gaussian blur of 4 pixels, score = maximum
of the map. Different: the features are the detector's own (all channels, averaged over 3 x 3 cells), no random subset of
channels, since 176 are few enough.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtad.data.batches import batches
from vtad.data.images import ImageCache
from vtad_benchmark.methods.baseline import Baseline, device_of, enlarge

REGULARISATION = 0.01
CHUNK = 256  # positions whose covariances are factored at a time


class JoinedFeatures(nn.Module):
    """Of what `BackboneFeatures` gives, the joined map alone."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, C, rows, columns)."""
        joined: Tensor = self.features(image)[0]
        return joined


class Padim(Baseline):
    """`features`: (B, 3, H, W) in 0..1 -> (B, C, rows, columns), fixed."""

    mean: Tensor
    whitener: Tensor

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", torch.empty(0))  # (P, 1, C) of P = rows x columns positions
        self.register_buffer("whitener", torch.empty(0))  # (P, C, C), the inverse of the covariance's Cholesky factor

    def _observe(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Uint8 (B, 3, H, W) -> (P, B, C), rows, columns."""
        f = self.features(image.float() / 255)
        return f.flatten(2).permute(2, 0, 1), f.shape[2], f.shape[3]

    @torch.inference_mode()
    def fit(self, images: ImageCache) -> None:
        """One pass: mean and scatter are updated batch by batch (Chan et al. 1983), so that no features are kept."""
        seen = 0
        mean, scatter = torch.empty(0), torch.empty(0)
        for batch in batches(images, device_of(self)):
            x, _, _ = self._observe(batch)
            new, own = x.shape[1], x.mean(1, keepdim=True)
            if not seen:
                mean = torch.zeros_like(own)
                scatter = x.new_zeros(x.shape[0], x.shape[2], x.shape[2])
            shift = own - mean
            # The shift between the means is one more row of the scatter.
            rows = torch.cat([x - own, shift * (seen * new / (seen + new)) ** 0.5], 1)
            scatter.baddbmm_(rows.transpose(1, 2), rows)
            mean += shift * (new / (seen + new))
            seen += new
        identity = torch.eye(scatter.shape[1], device=scatter.device)
        for i in range(0, len(scatter), CHUNK):  # in place: the covariances are the largest thing in memory
            factor = torch.linalg.cholesky(scatter[i : i + CHUNK] / max(1, seen - 1) + REGULARISATION * identity)
            scatter[i : i + CHUNK] = torch.linalg.solve_triangular(factor, identity, upper=False)
        self.mean, self.whitener = mean, scatter

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 (B, 3, H, W) -> scores (B,) and maps (B, H, W)."""
        x, rows, columns = self._observe(image)
        distance = torch.bmm(x - self.mean, self.whitener.transpose(1, 2)).norm(dim=2)  # (P, B)
        cells = distance.T.reshape(-1, rows, columns)
        maps = enlarge(cells, image.shape[2], image.shape[3])
        return maps.flatten(1).amax(1), maps
