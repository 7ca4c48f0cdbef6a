"""The training objective: reconstruction of the clean image (MSE and SSIM) and likelihood of its features."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vtad.config import Config
from vtad.models.autoencoder import Prediction
from vtad.models.segmentation_head import segmentation_loss
from vtad.models.ssim import SSIM


class Loss(NamedTuple):
    """The objective and its parts, before weighting; each a scalar tensor."""

    total: Tensor
    mse: Tensor  # mean squared error of pixels in 0..1
    ssim: Tensor  # 1 - mean structural similarity
    nll: Tensor  # nats a feature dimension
    segmentation: Tensor  # of the segmentation head; 0 without one


class Weights(NamedTuple):
    """What the losses of one picture weigh: 1 / B in a mean over a batch, of which a process may see a share."""

    reconstructed: float
    segmented: float


def objective(
    prediction: Prediction,
    clean: Tensor,
    share: Tensor,
    ssim: SSIM,
    density_dim: int,
    config: Config,
    weights: Weights | None = None,
) -> Loss:
    """Prediction for a corrupted image against the clean one, (B, 3, H, W) in 0..1; `share` as `segmentation_loss` has it.

    The losses are sums over the pictures times `weights`, by default means.
    """
    weight, of_segmentation = weights or Weights(1 / len(clean), 1 / len(share))
    reconstruction = prediction.reconstruction.float()
    mse = _each(F.mse_loss(reconstruction, clean, reduction="none")).sum() * weight
    unlike = _each(ssim.dissimilarity(reconstruction, clean)).sum() * weight
    nll = _each(prediction.density).sum() * (weight / density_dim)
    total = config.mse_weight * mse + config.ssim_weight * unlike + config.nll_weight * nll
    if prediction.logits is None:
        return Loss(total, mse, unlike, nll, torch.zeros_like(mse))
    segmentation = segmentation_loss(prediction.logits, share, of_segmentation)
    return Loss(total + segmentation, mse, unlike, nll, segmentation)


def _each(values: Tensor) -> Tensor:
    """(B, ...) -> the mean of each picture, (B,)."""
    return values.flatten(1).mean(1)
