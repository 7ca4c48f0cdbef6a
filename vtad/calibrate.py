"""Calibration from held-out good images only: weights of evidence, units of normal variation, fusion of the two maps.

The threshold, which edge and training take by one rule, is in vtad_runtime.conformal.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vtad.detector import TOP_SHARE, Detector
from vtad.metrics import aupro, image_metrics
from vtad.model import Autoencoder

BATCH = 8  # images
Known = tuple[float, ...]  # weights of memory, mixture, place and context
EARNED = 5e-3  # AUPRO that the SSIM map must add before it counts: less is noise of the synthetic defects
SSIM_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares tried; the rest is the density's
# Of memory, mixture and place, in the order tried. Memory or mixture, never both, for each costs a quarter of the arithmetic;
# place counts unless it harms, the mixture when it helps.
WITNESS_WEIGHTS = tuple((1.0 - mixture, mixture, place) for mixture in (0.0, 1.0) for place in (1.0, 0.0))
CONTEXT_WEIGHTS = (1.0, 0.5, 0.25)  # the first of them is taken that costs little enough, or none
MAY_COST = 5e-3  # of that mean,
CHANCE = 2.0  # and so many of its standard errors
RESAMPLES = 60  # of the pictures, with replacement, that the standard error is found by (bootstrap, Efron 1979)
EARNED_BY_WITNESS = 2e-3  # mean of image AUROC and AUPRO that weights tried later must add: less is noise
DIFFERENCE_WEIGHT = 0.5
DIFFERENCE_WEIGHT_ALONE = 2.0  # without a teacher, where the memory and the place know no more than pixels


def fit_evidence(
    detector: Detector,
    good: NDArray[np.uint8],
    moved: NDArray[np.uint8],
    defective: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    device: torch.device,
) -> dict[str, float]:
    """Set how much each witness counts: all in units of their variation on held-out good images (N, H, W, 3).

    Memory, mixture and place get those of `WITNESS_WEIGHTS` with the largest mean of image AUROC and AUPRO on synthetic
    defects, (N, H, W, 3) and (N, H, W). The context gets the largest weight that takes little from it, and no more than
    chance may: it alone knows what belongs together, which synthetic defects do not show. The means are returned by the
    weights as text. `moved` are good
    images as `moved_images` moves them, and so are the defective ones: on the line a part never lies quite where it lay, and
    what cannot bear that must not decide. The weight of the difference head is fixed, since it has learnt from defects drawn
    by the same hand. Nothing to do for `paper`.
    """
    model = detector.model
    if not isinstance(model, Autoencoder):
        return {}
    model.evidence.ask_all()
    steady = _witnesses(model, good, device)
    mean, std = steady.mean((0, 2, 3)), steady.transpose(0, 1).flatten(1).std(1).clamp_min(1e-6)
    both = _witnesses(model, np.concatenate([defective, moved]), device)
    both = (both - mean[:, None, None]) / std[:, None, None]
    cells = torch.from_numpy(masks).float()[:, None]
    cell_masks = (F.avg_pool2d(cells, masks.shape[1] // both.shape[2])[:, 0] > 0.5).numpy()
    every_mask = [*cell_masks, *np.zeros_like(cell_masks, shape=(len(moved), *cell_masks.shape[1:]))]
    labels = np.arange(len(both)) < len(defective)
    top = max(1, round(TOP_SHARE * both[0, 0].numel()))
    difference = DIFFERENCE_WEIGHT_ALONE if model.learns_features else DIFFERENCE_WEIGHT
    head = difference if model.difference else 0.0

    @cache
    def judged(known: Known) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps and scores of the defective and the moved."""
        maps = (both * torch.tensor([*known, head])[:, None, None]).sum(1)
        return maps.numpy(), torch.topk(maps.flatten(1), top, dim=1).values.mean(1).numpy()

    def value(known: Known, drawn: NDArray[np.int64]) -> float:
        maps, scores = judged(known)
        pixels = aupro([every_mask[i] for i in drawn], list(maps[drawn])) or 0.0
        return (pixels + (image_metrics(labels[drawn], scores[drawn]).auroc or 0.0)) / 2

    every = np.arange(len(both))
    found: dict[Known, float] = {(*known, 0.0): value((*known, 0.0), every) for known in WITNESS_WEIGHTS}
    best = (*WITNESS_WEIGHTS[0], 0.0)
    for weights in WITNESS_WEIGHTS[1:]:
        if found[*weights, 0.0] > found[best] + EARNED_BY_WITNESS:
            best = (*weights, 0.0)
    rng = np.random.default_rng(0)
    again = [
        np.concatenate([rng.choice(every[part], part.sum()) for part in (labels, ~labels)]) for _ in range(RESAMPLES)
    ]
    without = [value(best, drawn) for drawn in again]
    chosen = best
    for context in CONTEXT_WEIGHTS:
        known = (*best[:3], context)
        found[known] = value(known, every)
        costs = [before - value(known, drawn) for before, drawn in zip(without, again, strict=True)]
        if found[best] - found[known] <= min(MAY_COST, CHANCE * float(np.std(costs))):
            chosen = known
            break
    model.evidence.mean.copy_(mean)
    model.evidence.weight.copy_(torch.tensor([*chosen, head]) / std)
    model.evidence.settle()
    return {" ".join(f"{w:g}" for w in known): mean_value for known, mean_value in found.items()}


def _witnesses(model: Autoencoder, images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """What each witness says: (N, 5, rows, columns)."""
    out = []
    with torch.inference_mode():
        for batch in batches(images, device):
            _, seen = model.witnesses(batch.float() / 255)
            out.append(torch.stack(list(seen), dim=1).cpu())
    return torch.cat(out)


class Maps(NamedTuple):
    """What `Detector.raw_maps` gives of N images, on the CPU: computed once, used for units, fusion and scores."""

    nll: Tensor  # (N, H, W), nats a cell
    unlike: Tensor  # (N, H, W), 1 - SSIM


def raw_maps(detector: Detector, images: NDArray[np.uint8], device: torch.device) -> Maps:
    """Of images (N, H, W, 3)."""
    with torch.inference_mode():
        maps = [detector.raw_maps(batch)[:2] for batch in batches(images, device)]
    return Maps(torch.cat([m[0].cpu() for m in maps]), torch.cat([m[1].cpu() for m in maps]))


def fit_units(detector: Detector, good: Maps) -> None:
    """Set the mean and standard deviation of both maps from held-out good images."""
    detector.nll_mean.copy_(good.nll.mean())
    detector.nll_std.copy_(good.nll.std().clamp_min(1e-6))
    # A position's own statistics rest on few images: shrink its variance halfway towards that of all positions.
    mean = _smooth(detector, good.unlike.mean(0))
    variance = (good.unlike - mean).square().mean(0)
    detector.ssim_mean.copy_(mean)
    detector.ssim_std.copy_((0.5 * _smooth(detector, variance) + 0.5 * variance.mean()).sqrt().clamp_min(1e-6))


def fit_fusion(
    detector: Detector, good: Maps, moved: Maps, defective: Maps, masks: NDArray[np.bool_]
) -> dict[str, float]:
    """Choose the maps' weights by AUPRO on synthetic defects with masks (N, H, W); AUPRO by SSIM share is returned.

    `moved` are of good images as `moved_images` moves them, and so are the defective ones; `good`, as they are, set the unit.
    """
    found: dict[str, float] = {}
    known, others, damaged = (_units(detector, maps) for maps in (good, moved, defective))
    shown = Maps(*(torch.cat(pair) for pair in zip(damaged, others, strict=True)))
    every_mask = [*masks, *np.zeros_like(masks, shape=(len(others.nll), *masks.shape[1:]))]
    best = -1.0
    for share in SSIM_WEIGHTS:
        scale = (share * known.unlike + (1 - share) * known.nll).std().clamp_min(1e-6)
        weights = share / scale, (1 - share) / scale
        value = aupro(every_mask, list((weights[0] * shown.unlike + weights[1] * shown.nll).numpy())) or 0.0
        found[f"{share:g}"] = value
        if value > best + EARNED:
            best = value
            detector.ssim_weight.copy_(weights[0])
            detector.nll_weight.copy_(weights[1])
    return found


def scores_and_peaks(detector: Detector, maps: Maps) -> tuple[list[float], list[float]]:
    """The images' scores and the maxima of their heatmaps, as `Detector.forward` has them."""
    scores: list[float] = []
    peaks: list[float] = []
    device = detector.nll_mean.device
    with torch.inference_mode():
        for i in range(0, len(maps.nll), BATCH):
            part = slice(i, i + BATCH)
            nll_map, ssim_map = detector.in_units(maps.nll[part].to(device), maps.unlike[part].to(device))
            heatmap = detector.heatmap(ssim_map, nll_map)
            scores += detector.score(heatmap).tolist()
            peaks += heatmap.flatten(1).amax(dim=1).tolist()
    return scores, peaks


def batches(images: NDArray[np.uint8], device: torch.device, size: int = BATCH) -> Iterator[Tensor]:
    """(N, H, W, 3) uint8 -> tensors (B, 3, H, W) on the device."""
    for i in range(0, len(images), size):
        yield torch.from_numpy(np.ascontiguousarray(images[i : i + size])).permute(0, 3, 1, 2).to(device)


def _units(detector: Detector, maps: Maps) -> Maps:
    device = detector.nll_mean.device
    return Maps(*(m.cpu() for m in detector.in_units(maps.nll.to(device), maps.unlike.to(device))))


def _smooth(detector: Detector, x: Tensor) -> Tensor:
    """A wide blur of a map of statistics (H, W)."""
    smoothed: Tensor = detector.smooth(detector.smooth(x.to(detector.nll_mean.device)))
    return smoothed.cpu()
