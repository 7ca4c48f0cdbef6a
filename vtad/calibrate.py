"""Calibration from held-out good images only: units of normal variation, fusion of the two maps, threshold.

The threshold is conformal (Vovk et al., Algorithmic Learning in a Random World): with n held-out good images and a budget a,
at most k = floor(a (n + 1)) of n + 1 exchangeable good images score above the k-th largest calibration score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad.detector import Detector
from vtad.metrics import aupro
from vtad_runtime.card import Calibration

MARGIN = 1e-3  # of the calibration spread; ten times the export tolerance, so that no export flips a calibration image
SSIM_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares tried; the rest is the density's
MIN_IMAGES = 3


class CalibrationError(ValueError):
    """Too few held-out good images, or scores that are not numbers. The message is one line."""


def images_needed(false_alarms: float) -> int:
    """Held-out good images from which on a budget can be kept: the smallest n with 1 / (n + 1) <= budget."""
    return math.ceil(1 / false_alarms - 1 - 1e-9)


def conformal_threshold(scores: Sequence[float], false_alarms: float) -> float:
    """The level above which at most the budget's share of good images lies, plus a margin far below the spread.

    With too few images for the budget, the level is just above the largest score. Raises CalibrationError.
    """
    ordered = sorted(scores)
    if len(ordered) < MIN_IMAGES:
        raise CalibrationError(
            f"expected at least {MIN_IMAGES} held-out good images to calibrate, got {len(ordered)}: "
            "add good images or raise --val-split"
        )
    if not all(math.isfinite(s) for s in ordered):
        raise CalibrationError("a held-out good image has a score that is not a number: the training diverged")
    k = max(1, math.floor(false_alarms * (len(ordered) + 1) + 1e-9))
    return ordered[-k] + MARGIN * spread(ordered)


def spread(scores: Sequence[float]) -> float:
    """Standard deviation of the scores, never zero."""
    return max(float(np.std(np.asarray(scores, dtype=np.float64))), 1e-6)


def calibration(scores: Sequence[float], peaks: Sequence[float], false_alarms: float) -> Calibration:
    """The card's entry from held-out good images' scores and heatmap maxima."""
    n = len(scores)
    return Calibration(
        scores=tuple(sorted(scores)),
        false_alarms=false_alarms,
        achievable=max(false_alarms, 1 / (n + 1)),
        threshold=conformal_threshold(scores, false_alarms),
        pixel_threshold=conformal_threshold(peaks, false_alarms),
        images=n,
    )


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
        if value > best:
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
