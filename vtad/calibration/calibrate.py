"""Calibration: the weights and z-scores of a trained detector from held-out good images, its threshold from all good images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.calibration.cross_fitting import Scores, cross_fitted, shifted_to
from vtad.calibration.map_fusion import Maps, fit_map_fusion, fit_z_scores, fused_maps, raw_maps, scores_and_peaks
from vtad.calibration.pictures import drawn_pictures
from vtad.calibration.record import CalibrationRecord, GoodScore
from vtad.calibration.score_fusion import fit_score_fusion
from vtad.config import Config
from vtad.data.images import ImageCache, evenly
from vtad.data.registration import shift_of
from vtad.defects.parts import Parts
from vtad.fitting.feature_statistics import Samples
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector
from vtad_runtime.contract.card import Calibration, Weighing
from vtad_runtime.contract.threshold.conformal import calibration

SCORER_IMAGES = 128  # synthetic defects of each sort that the weights of the scorers are chosen on
FUSION_IMAGES = 64  # of each, those that the weights of the two maps are chosen on


@torch.no_grad()
def calibrate(
    detector: Detector,
    images: ImageCache,
    held_out: ImageCache,
    parts: Parts,
    root: Path,
    config: Config,
    device: torch.device,
    samples: Samples | None = None,
) -> tuple[Calibration, CalibrationRecord]:
    """Set the detector's weights and z-scores; the card's entry, and what it was found from. Raises CalibrationError.

    `images` are those of the training, files below `root`, and `parts` what they have in common; `samples` are what the scorers
    were fitted on, if they are at hand.
    """
    detector.eval()
    order = _spread_first(len(held_out))
    good, synthetic_scores, weights = _fit(detector, held_out[order], parts, config, device)
    learnt = cross_fitted(detector, images, config, device, samples)
    others = shifted_to(good, learnt) if learnt is not None else None
    of_all = good if others is None else Scores(*map(np.concatenate, zip(good, others, strict=True)))
    chosen = calibration(of_all.scores.tolist(), of_all.peaks.tolist(), config.false_alarms, config.threshold_rule)
    files = [*(held_out.files[i] for i in order), *(images.files if others is not None else ())]
    names = (file.relative_to(root).as_posix() for file in files)
    judged = [
        GoodScore(name, score, peak, number < len(good.scores))
        for number, (name, score, peak) in enumerate(zip(names, *(part.tolist() for part in of_all), strict=True))
    ]
    return chosen, CalibrationRecord(tuple(sorted(judged, key=lambda g: -g.score)), synthetic_scores, weights)


def _spread_first(count: int) -> NDArray[np.int64]:
    """An order of so many pictures of which the first FUSION_IMAGES and SCORER_IMAGES are spread evenly; of fewer, their own."""
    scored = evenly(count, SCORER_IMAGES)
    first = scored[evenly(len(scored), FUSION_IMAGES)]
    return np.concatenate([first, np.setdiff1d(scored, first), np.setdiff1d(np.arange(count), scored)])


def _fit(
    detector: Detector, good: NDArray[np.uint8], parts: Parts, config: Config, device: torch.device
) -> tuple[Scores, tuple[float, ...], Weighing]:
    """The scores of held-out good images (N, H, W, 3), which set weights and z-scores; of synthetic defects; the weights."""
    pictures = drawn_pictures(good, parts, shift_of(config), min(SCORER_IMAGES, 4 * len(good)), config.seed)
    fusion = fit_score_fusion(detector, pictures, device, FUSION_IMAGES)
    sorts = [sort for sort in (pictures.damage, pictures.relation) if sort is not None]
    few = slice(FUSION_IMAGES)
    if isinstance(detector.model, Autoencoder) and fusion.seen is not None:
        looked = [seen for seen in (fusion.seen.damage, fusion.seen.relation) if seen is not None]
        maps, shaken, *broken = (
            fused_maps(detector, detector.model, seen) for seen in (fusion.seen.good, fusion.seen.shifted, *looked)
        )
    else:
        shown = [pictures.shifted[few], *(sort.images[few] for sort in sorts)]
        maps, shaken, *broken = (raw_maps(detector, images, device) for images in (good, *shown))
    fit_z_scores(detector, maps)
    damaged = Maps(*map(torch.cat, zip(*broken, strict=True)))
    masks = np.concatenate([sort.masks[few] for sort in sorts])
    fit_map_fusion(detector, Maps(maps.density[few], maps.unlike[few]), shaken, damaged, masks)
    scores = Scores(*(np.array(part) for part in scores_and_peaks(detector, maps)))
    ssim, density = detector.ssim_weight.item(), detector.density_weight.item()
    damage, relation = fusion.chosen or (None, None)
    weighing = Weighing(fusion.weights, ssim / (ssim + density), damage, relation, parts.note)
    return scores, tuple(scores_and_peaks(detector, damaged)[0]), weighing
