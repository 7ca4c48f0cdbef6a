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


def objective(
    prediction: Prediction, clean: Tensor, share: Tensor, ssim: SSIM, density_dim: int, config: Config
) -> Loss:
    """Prediction for a corrupted image against the clean one, (B, 3, H, W) in 0..1; `share` as `segmentation_loss` has it."""
    reconstruction = prediction.reconstruction.float()
    mse = F.mse_loss(reconstruction, clean)
    unlike = ssim.dissimilarity(reconstruction, clean).mean()
    nll = prediction.density.mean() / density_dim
    total = config.mse_weight * mse + config.ssim_weight * unlike + config.nll_weight * nll
    if prediction.logits is None:
        return Loss(total, mse, unlike, nll, torch.zeros_like(mse))
    segmentation = segmentation_loss(prediction.logits, share)
    return Loss(total + segmentation, mse, unlike, nll, segmentation)
