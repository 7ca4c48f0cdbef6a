"""Scores of the training pictures as if the detector had not learnt from them: then every good picture speaks for the threshold.

After cross-conformal prediction (Vovk, Annals of Mathematics and AI 2015) and CV+ (Barber et al., Annals of Statistics 2021): a
picture is judged by scorers that are fitted without its fold. What is trained (transformer, segmentation head) is shared by all
folds and has seen the picture, clean and damaged, which makes it look less odd by a little. So the cross-fitted scores are
shifted until their median is that of the held-out pictures, which nothing has learnt from. Where they differ from these in
more than their place, they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from vtad.calibration.map_fusion import ENOUGH, scores_and_peaks, weighted_maps
from vtad.config import Config, symmetry_names
from vtad.data.images import ImageCache
from vtad.data.registration import shift_of
from vtad.fitting.feature_statistics import Samples, samples_of
from vtad.fitting.symmetries import STATISTICS_VIEWS, Views
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector
from vtad.models.feature_gmm import FeatureGmm
from vtad.models.patch_memory import PatchMemory
from vtad.models.position_gaussian import PositionGaussian
from vtad.models.score_fusion import ScorerMaps
from vtad_runtime.contract.progress import watched

FOLDS, FOLDS_OF_FEW, FEW = 5, 10, 100  # of so many images or more; of fewer, which can spare less
CHANCE = 0.01  # p-value of a Kolmogorov-Smirnov test below which both kinds of scores are not of one distribution
FITTED = ScorerMaps._fields[:3]  # patch memory, feature GMM, position Gaussian


class Scores(NamedTuple):
    """Of N pictures."""

    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]  # of the heatmaps


@torch.no_grad()
def cross_fitted(
    detector: Detector, images: ImageCache, config: Config, device: torch.device, samples: Samples | None = None
) -> Scores | None:
    """Of training images (N, H, W, 3), not yet shifted. The detector is calibrated, and stays as it is.

    `samples` are those that the scorers were fitted on, computed again where they are not at hand. None where nothing is
    fitted, or the images are too few for folds.
    """
    model = detector.model
    if not isinstance(model, Autoencoder) or len(images) < FOLDS_OF_FEW:
        return None
    weight = model.score_fusion.weight[: len(FITTED)].tolist()
    counted = [name for name, share in zip(FITTED, weight, strict=True) if share]
    if not counted:
        return None
    folds = FOLDS_OF_FEW if len(images) < FEW else FOLDS
    fold = np.random.default_rng((config.seed, 7)).permutation(len(images)) % folds
    if samples is None:
        views = Views(images, symmetry_names(config.symmetries), STATISTICS_VIEWS)
        samples = samples_of(model, views, device, shift_of(config))
    found = Scores(np.empty(len(images)), np.empty(len(images)))
    for k in watched(range(folds), "cross-fitting"):
        mine = np.flatnonzero(fold == k)
        with _pruned(model), _fitted_without(model, counted, samples, fold != k):
            maps = weighted_maps(detector, images[mine], device)
        found.scores[mine], found.peaks[mine] = scores_and_peaks(detector, maps)
    return found


def shifted_to(held_out: Scores, cross: Scores) -> Scores | None:
    """Cross-fitted scores and peaks with the medians of the held-out ones; None where they are of another distribution.

    The median of few held-out pictures is mostly chance. It moves the others up alone: what has learnt from a picture makes it
    look less odd, and where that is left in, more good parts are NG than the budget allows.
    """
    few = len(held_out.scores) < ENOUGH

    def moved_to(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
        lower = np.median(theirs) - np.median(ours)
        return ours + (max(0.0, lower) if few else lower)

    moved = Scores(*(moved_to(ours, theirs) for ours, theirs in zip(cross, held_out, strict=True)))
    return moved if ks_2samp(moved.scores, held_out.scores).pvalue >= CHANCE else None


@contextmanager
def _fitted_without(model: Autoencoder, names: list[str], samples: Samples, kept: NDArray[np.bool_]) -> Iterator[None]:
    """The model with these scorers fitted on the images that are `kept` alone."""
    before: dict[str, PatchMemory | FeatureGmm | PositionGaussian] = {name: getattr(model, name) for name in names}
    # View i is of image i modulo their number.
    of_cells, of_positions = (torch.from_numpy(kept[of % len(kept)]) for of in (samples.cell_of, samples.position_of))
    cells = samples.cells[of_cells]
    try:
        for name, module in before.items():
            other = deepcopy(module)
            setattr(model, name, other)
            if isinstance(other, PositionGaussian):
                # Not channels last: sums would be rounded in another order.
                other.fit(samples.positions[of_positions].contiguous())
            else:
                other.fit(cells)
        yield
    finally:
        for name, module in before.items():
            setattr(model, name, module)


@contextmanager
def _pruned(model: Autoencoder) -> Iterator[None]:
    """The model without the scorers that weigh nothing."""
    before = {name: getattr(model, name) for name in model.active}
    model.prune()
    try:
        yield
    finally:
        for name, module in before.items():
            setattr(model, name, module)
