"""The two maps of the detector, calibrated on held-out good images: their z-scores, and their weights in the heatmap.

The weights of the scorers behind the density map are found in vtad.calibration.score_fusion; the threshold, by the one rule
of edge and training, in vtad_runtime.contract.threshold.conformal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad.calibration.score_fusion import Seen
from vtad.data.batches import BATCH, batches
from vtad.metrics import quality
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector
from vtad.models.score_fusion import ScorerMaps

EARNED = 5e-3  # quality that the SSIM map must add before it counts: less is noise of the synthetic defects
ENOUGH = 20  # held-out good images, that a choice is made on; fewer leave the heatmap to the density
SSIM_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares tried; the rest is the density's


class Maps(NamedTuple):
    """What `Detector.raw_maps` gives of N images, on the CPU: computed once, used for z-scores, weights and scores."""

    density: Tensor  # (N, H, W), the fused score of the scorers
    unlike: Tensor  # (N, H, W), 1 - SSIM


def raw_maps(detector: Detector, images: NDArray[np.uint8], device: torch.device) -> Maps:
    """Of images (N, H, W, 3)."""
    with torch.inference_mode():
        maps = [detector.raw_maps(batch)[:2] for batch in batches(images, device, label="calibrating: maps")]
    return Maps(torch.cat([m[0].cpu() for m in maps]), torch.cat([m[1].cpu() for m in maps]))


def fused_maps(detector: Detector, model: Autoencoder, seen: Seen) -> Maps:
    """As `raw_maps` by the weights of the scorers as they are now, from what was seen before; of images that were compared."""
    compared = len(seen.unlike)
    with torch.inference_mode():
        density = [
            detector.upsampled(model.score_fusion(ScorerMaps(*part.to(detector.up_rows.device).unbind(1)))).cpu()
            for part in torch.split(seen.scorers[:compared], BATCH)
        ]
    return Maps(torch.cat(density), seen.unlike)


def weighted_maps(detector: Detector, images: NDArray[np.uint8], device: torch.device) -> Maps:
    """As `raw_maps`, of a calibrated detector: where SSIM weighs nothing in the heatmap, its map is zeros and costs nothing."""
    if detector.ssim_weight != 0:
        return raw_maps(detector, images, device)
    with torch.inference_mode():
        each = [detector.density(batch).cpu() for batch in batches(images, device, label="calibrating: maps")]
    density = torch.cat(each)
    return Maps(density, torch.zeros_like(density))


def fit_z_scores(detector: Detector, good: Maps) -> None:
    """Set the mean and standard deviation of both maps from held-out good images."""
    detector.density_mean.copy_(good.density.mean())
    detector.density_std.copy_(good.density.std().clamp_min(1e-6))
    # A position's own statistics rest on few images: shrink its variance halfway towards that of all positions.
    mean = _smooth(detector, good.unlike.mean(0))
    variance = (good.unlike - mean).square().mean(0)
    detector.ssim_mean.copy_(mean)
    detector.ssim_std.copy_((0.5 * _smooth(detector, variance) + 0.5 * variance.mean()).sqrt().clamp_min(1e-6))


def fit_map_fusion(
    detector: Detector, good: Maps, shifted: Maps, defective: Maps, masks: NDArray[np.bool_]
) -> dict[str, float]:
    """Choose the maps' weights by their quality on synthetic defects with masks (N, H, W); quality by SSIM share is returned.

    Quality is the mean of image AUROC and AUPRO: what shows defects better may rank pictures worse.
    `shifted` are of good images after `shifted_and_zoomed`, and the defective ones are of such images too; `good` are of good
    images as they are, and set the unit. Of fewer than `ENOUGH` the density alone counts.
    """
    found: dict[str, float] = {}
    known, others, damaged = (_z_scores(detector, maps) for maps in (good, shifted, defective))
    shown = Maps(*(torch.cat(pair) for pair in zip(damaged, others, strict=True)))
    every_mask = [*masks, *np.zeros_like(masks, shape=(len(others.density), *masks.shape[1:]))]
    defects = np.arange(len(every_mask)) < len(masks)
    best = -1.0
    for share in SSIM_WEIGHTS if len(known.density) >= ENOUGH else SSIM_WEIGHTS[:1]:
        scale = (share * known.unlike + (1 - share) * known.density).std().clamp_min(1e-6)
        weights = share / scale, (1 - share) / scale
        heatmap = weights[0] * shown.unlike + weights[1] * shown.density
        scores = detector.score(heatmap.to(detector.density_mean.device)).cpu().numpy()
        value = quality(every_mask, list(heatmap.numpy()), defects, scores)
        found[f"{share:g}"] = value
        if value > best + EARNED:
            best = value
            detector.ssim_weight.copy_(weights[0])
            detector.density_weight.copy_(weights[1])
    return found


def scores_and_peaks(detector: Detector, maps: Maps) -> tuple[list[float], list[float]]:
    """The images' scores and the maxima of their heatmaps, as `Detector.forward` computes them."""
    scores: list[float] = []
    peaks: list[float] = []
    device = detector.density_mean.device
    with torch.inference_mode():
        for i in range(0, len(maps.density), BATCH):
            part = slice(i, i + BATCH)
            density_map, ssim_map = detector.z_scores(maps.density[part].to(device), maps.unlike[part].to(device))
            heatmap = detector.heatmap(ssim_map, density_map)
            scores += detector.score(heatmap).tolist()
            peaks += heatmap.flatten(1).amax(dim=1).tolist()
    return scores, peaks


def _z_scores(detector: Detector, maps: Maps) -> Maps:
    device = detector.density_mean.device
    return Maps(*(m.cpu() for m in detector.z_scores(maps.density.to(device), maps.unlike.to(device))))


def _smooth(detector: Detector, x: Tensor) -> Tensor:
    """A wide blur of a map of statistics (H, W)."""
    smoothed: Tensor = detector.smooth(detector.smooth(x.to(detector.density_mean.device)))
    return smoothed.cpu()
