"""The whole detector as one torch module: uint8 pixels in; score, maps and reconstruction out. This is what is exported.

All outputs except the reconstruction are z-scores: in standard deviations of good pictures, from their mean. Those of the
density map are over all cells (the density knows its position already), those of the SSIM map are over each position (edges
are always reconstructed worst). The heatmap is their weighted sum, again a z-score. The score is the mean of its highest cells.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.config import CELL, Config
from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.paper import PaperAutoencoder
from vtad.models.ssim import SSIM, Blur, gaussian_matrix
from vtad_runtime.contract.card import ScoreRule

SMOOTHING = 4.0  # pixels, standard deviation: of the upsampled density map, as in VT-ADL
SSIM_SMOOTHING = 2.0  # pixels
SSIM_WINDOW = 2 * int(4 * SSIM_SMOOTHING + 0.5) + 1  # pixels
SCORE_RULE = ScoreRule(cell=CELL, top_share=0.01)  # goes onto the card, and the runtime's mask follows it


class Model(Protocol):
    """What the detector needs of an autoencoder."""

    def __call__(self, image: Tensor) -> Prediction:
        """(B, 3, H, W) in 0..1."""
        ...


class Judgement(NamedTuple):
    """The detector's outputs, in the order of the exported graph."""

    score: Tensor  # (B,) z-score
    heatmap: Tensor  # (B, H, W) z-scores
    ssim_map: Tensor  # (B, H, W) z-scores
    density_map: Tensor  # (B, H, W) z-scores
    reconstruction: Tensor  # (B, 3, H, W), about 0..1


def upsampling_matrix(cells: int, size: int, sigma: float) -> Tensor:
    """(size, cells): bilinear upsampling (pixel centres aligned) and a Gaussian blur of `sigma` pixels, as one product."""
    identity = torch.eye(cells)[None]  # one signal a cell
    bilinear = F.interpolate(identity, size=size, mode="linear", align_corners=False)[0].T  # (size, cells)
    window = 2 * int(4 * sigma + 0.5) + 1
    return gaussian_matrix(size, sigma, window) @ bilinear


class Detector(nn.Module):
    """An autoencoder with its calibration."""

    density_mean: Tensor
    density_std: Tensor
    ssim_mean: Tensor
    ssim_std: Tensor
    density_weight: Tensor
    ssim_weight: Tensor
    up_rows: Tensor
    up_columns: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        height, width = config.image_height, config.image_width
        self.size = (height, width)
        cell = config.patch_size if config.preset == "paper" else CELL
        self.rows, self.columns = height // cell, width // cell
        self.model: nn.Module = PaperAutoencoder(config) if config.preset == "paper" else Autoencoder(config)
        self.ssim = SSIM(height, width)
        self.score_cells = (height // SCORE_RULE.cell) * (width // SCORE_RULE.cell)
        self.top = max(1, round(SCORE_RULE.top_share * self.score_cells))
        self.register_buffer("up_rows", upsampling_matrix(self.rows, height, SMOOTHING), persistent=False)
        self.register_buffer(
            "up_columns", upsampling_matrix(self.columns, width, SMOOTHING).T.contiguous(), persistent=False
        )
        self.smooth = Blur(height, width, SSIM_SMOOTHING, SSIM_WINDOW)
        for name, value in (("density_mean", 0.0), ("density_std", 1.0), ("density_weight", 1.0), ("ssim_weight", 0.0)):
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("ssim_mean", torch.zeros(height, width))
        self.register_buffer("ssim_std", torch.ones(height, width))
        self.ssim_weighs = True  # in the heatmap, as far as this program says; see `prune`

    def prune(self) -> None:
        """Leave out what weighs nothing: scorers, and SSIM in the heatmap, which then needs no reconstruction. Outputs stay."""
        self.ssim_weighs = bool(self.ssim_weight != 0)
        if isinstance(self.model, Autoencoder):
            self.model.prune()

    def raw_maps(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (B, 3, H, W) -> density (B, H, W), the scorers' fused score; 1 - SSIM (B, H, W); reconstruction (B, 3, H, W)."""
        x = image.float() / 255
        prediction = cast(Model, self.model)(x)
        return self.upsampled(prediction.density), self.unlike(x, prediction.reconstruction), prediction.reconstruction

    def density(self, image: Tensor) -> Tensor:
        """The first of `raw_maps` alone, where what it does not need is not computed."""
        if not isinstance(self.model, Autoencoder):
            return self.raw_maps(image)[0]
        return self.upsampled(self.model.fused_score(image.float() / 255))

    def upsampled(self, fused_score: Tensor) -> Tensor:
        """(B, rows, columns) -> (B, H, W), smoothed."""
        return self.up_rows @ fused_score @ self.up_columns

    def unlike(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Picture and reconstruction (B, 3, H, W) in 0..1 -> 1 - SSIM (B, H, W), mean of the colours, smoothed."""
        unlike: Tensor = self.smooth(self.ssim.dissimilarity(x, reconstruction).mean(dim=1, keepdim=True))
        return unlike[:, 0]

    def z_scores(self, density: Tensor, unlike: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps (B, H, W) each -> density map and SSIM map as z-scores."""
        return (density - self.density_mean) / self.density_std, (unlike - self.ssim_mean) / self.ssim_std

    def heatmap(self, ssim_map: Tensor, density_map: Tensor) -> Tensor:
        """Both maps as z-scores, (B, H, W) each -> their weighted sum."""
        if not self.ssim_weighs:
            return self.density_weight * density_map
        return self.ssim_weight * ssim_map + self.density_weight * density_map

    def score(self, heatmap: Tensor) -> Tensor:
        """(B, H, W) -> (B,): the mean of the highest cells."""
        cells = F.avg_pool2d(heatmap[:, None], SCORE_RULE.cell).flatten(1)
        return torch.topk(cells, self.top, dim=1).values.mean(dim=1)

    def forward(self, image: Tensor) -> Judgement:
        """Uint8 RGB (B, 3, H, W)."""
        density, unlike, reconstruction = self.raw_maps(image)
        density_map, ssim_map = self.z_scores(density, unlike)
        heatmap = self.heatmap(ssim_map, density_map)
        return Judgement(self.score(heatmap), heatmap, ssim_map, density_map, reconstruction)
