"""Calibration from held-out good images only: weights of evidence, units of normal variation, fusion of the two maps.

The threshold, which edge and training take by one rule, is in vtad_runtime.conformal.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vtad.detector import Detector
from vtad.metrics import aupro
from vtad.model import Autoencoder

EARNED = 5e-3  # AUPRO that a further map or witness must add before it counts: less is noise of the synthetic defects
SSIM_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares tried; the rest is the density's
CONTEXT_WEIGHTS = (0.0, 0.25, 0.5, 1.0)  # tried; the mixture counts 1
DIFFERENCE_WEIGHT = 0.5


def fit_evidence(
    detector: Detector,
    good: NDArray[np.uint8],
    defective: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    device: torch.device,
) -> dict[str, float]:
    """Set how much each witness counts: all in units of their variation on held-out good images (N, H, W, 3).

    The share of the context is chosen by AUPRO on synthetic defects, (N, H, W, 3) and (N, H, W); returned by share. That
    of the difference head is fixed, since it has learnt from defects drawn by the same hand. Nothing to do for `paper`.
    """
    model = detector.model
    if not isinstance(model, Autoencoder):
        return {}
    known, shown = _witnesses(model, good, device), _witnesses(model, defective, device)
    mean, std = known.mean((0, 2, 3)), known.transpose(0, 1).flatten(1).std(1).clamp_min(1e-6)
    known, shown = ((w - mean[:, None, None]) / std[:, None, None] for w in (known, shown))
    both = torch.cat([shown, known])
    cells = torch.from_numpy(masks).float()[:, None]
    cell_masks = (F.avg_pool2d(cells, masks.shape[1] // both.shape[2])[:, 0] > 0.5).numpy()
    every_mask = [*cell_masks, *np.zeros_like(cell_masks, shape=(len(known), *cell_masks.shape[1:]))]
    found: dict[str, float] = {}
    best = -1.0
    for share in CONTEXT_WEIGHTS:
        weight = torch.tensor([1.0, share, DIFFERENCE_WEIGHT if model.difference else 0.0])
        value = aupro(every_mask, list((both * weight[:, None, None]).sum(1).numpy())) or 0.0
        found[f"{share:g}"] = value
        if value > best + EARNED:
            best = value
            model.evidence.mean.copy_(mean)
            model.evidence.weight.copy_(weight / std)
    return found


def _witnesses(model: Autoencoder, images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Mixture NLL, context NLL and log-odds (0 without a difference head): (N, 3, rows, columns)."""
    out = []
    with torch.inference_mode():
        for batch in batches(images, device):
            _, mixture_nll, context_nll, odds = model.witnesses(batch.float() / 255)
            odds = torch.zeros_like(context_nll) if odds is None else odds
            out.append(torch.stack([mixture_nll, context_nll, odds], dim=1).cpu())
    return torch.cat(out)


def fit_units(detector: Detector, good: NDArray[np.uint8], device: torch.device) -> None:
    """Set the mean and standard deviation of both maps from held-out good images (N, H, W, 3)."""
    nll, unlike = _raw_maps(detector, good, device)
    detector.nll_mean.copy_(nll.mean())
    detector.nll_std.copy_(nll.std().clamp_min(1e-6))
    # A position's own statistics rest on few images: shrink its variance halfway towards that of all positions.
    mean = _smooth(detector, unlike.mean(0))
    variance = (unlike - mean).square().mean(0)
    detector.ssim_mean.copy_(mean)
    detector.ssim_std.copy_((0.5 * _smooth(detector, variance) + 0.5 * variance.mean()).sqrt().clamp_min(1e-6))


def fit_fusion(
    detector: Detector,
    good: NDArray[np.uint8],
    defective: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    device: torch.device,
) -> dict[str, float]:
    """Choose the maps' weights by AUPRO on synthetic defects, (N, H, W, 3) and (N, H, W); AUPRO by SSIM share is returned."""
    found: dict[str, float] = {}
    nll, unlike = _raw_maps(detector, defective, device)
    good_nll, good_unlike = _raw_maps(detector, good, device)
    nll_map, ssim_map = _units(detector, nll, unlike)
    good_nll_map, good_ssim_map = _units(detector, good_nll, good_unlike)
    every_mask = [*masks, *np.zeros_like(masks, shape=(len(good), *masks.shape[1:]))]
    best = -1.0
    for share in SSIM_WEIGHTS:
        scale = (share * good_ssim_map + (1 - share) * good_nll_map).std().clamp_min(1e-6)
        weights = share / scale, (1 - share) / scale
        maps = torch.cat(
            [weights[0] * ssim_map + weights[1] * nll_map, weights[0] * good_ssim_map + weights[1] * good_nll_map]
        )
        value = aupro(every_mask, list(maps.numpy())) or 0.0
        found[f"{share:g}"] = value
        if value > best + EARNED:
            best = value
            detector.ssim_weight.copy_(weights[0])
            detector.nll_weight.copy_(weights[1])
    return found


def score_images(
    detector: Detector, images: NDArray[np.uint8], device: torch.device
) -> tuple[list[float], list[float]]:
    """Scores and heatmap maxima of images (N, H, W, 3)."""
    scores: list[float] = []
    peaks: list[float] = []
    with torch.inference_mode():
        for batch in batches(images, device):
            judgement = detector(batch)
            scores += judgement.score.tolist()
            peaks += judgement.heatmap.flatten(1).amax(dim=1).tolist()
    return scores, peaks


def batches(images: NDArray[np.uint8], device: torch.device, size: int = 8) -> Iterator[Tensor]:
    """(N, H, W, 3) uint8 -> tensors (B, 3, H, W) on the device."""
    for i in range(0, len(images), size):
        yield torch.from_numpy(np.ascontiguousarray(images[i : i + size])).permute(0, 3, 1, 2).to(device)


def _raw_maps(detector: Detector, images: NDArray[np.uint8], device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        maps = [detector.raw_maps(batch)[:2] for batch in batches(images, device)]
    return torch.cat([m[0].cpu() for m in maps]), torch.cat([m[1].cpu() for m in maps])


def _units(detector: Detector, nll: Tensor, unlike: Tensor) -> tuple[Tensor, Tensor]:
    nll_map = (nll - detector.nll_mean.cpu()) / detector.nll_std.cpu()
    return nll_map, (unlike - detector.ssim_mean.cpu()) / detector.ssim_std.cpu()


def _smooth(detector: Detector, x: Tensor) -> Tensor:
    """A wide blur of a map of statistics (H, W)."""
    rows, columns = detector.blur_rows.cpu(), detector.blur_columns.cpu()
    return rows @ rows @ x @ columns @ columns
