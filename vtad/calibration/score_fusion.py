"""How much each scorer counts, from held-out good images and synthetic defects alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad.data.batches import batches
from vtad.metrics import aupro, image_auroc
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector
from vtad.models.score_fusion import ScorerMaps
from vtad.models.segmentation_head import damaged_share
from vtad_runtime.contract.progress import Bar

Weights = tuple[float, ...]  # of patch memory, feature GMM, position Gaussian and context density
# Of the first three, in the order tried. Patch memory or feature GMM, never both: each costs a quarter of the arithmetic. The
# position Gaussian is active unless it harms, the feature GMM when it helps.
FITTED_WEIGHTS = tuple((1.0 - gmm, gmm, position, 0.0) for gmm in (0.0, 1.0) for position in (1.0, 0.0))
EARNED = 2e-3  # mean of image AUROC and AUPRO that weights tried later must add: less is noise
CONTEXT_WEIGHTS = (1.0, 0.5, 0.25)  # the first that costs little enough is taken, or none
MAY_COST = 5e-3  # of that mean,
CHANCE = 2.0  # and so many of its standard errors
RESAMPLES = 60  # of the pictures, with replacement, that the standard error is found by (bootstrap, Efron 1979)
SEGMENTATION_WEIGHT = 0.5
SEGMENTATION_WEIGHT_ALONE = 2.0  # without a backbone, where the fitted scorers know no more than pixels


class Fusion(NamedTuple):
    """What the score fusion is made of, and what else was tried."""

    weights: dict[str, float]  # of the scorers' z-scores over good images, by scorer; one of 0 is pruned
    qualities: dict[str, float]  # on shifted synthetic defects, by weights


def fit_score_fusion(
    detector: Detector,
    good: NDArray[np.uint8],
    shifted: NDArray[np.uint8],
    defective: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    device: torch.device,
) -> Fusion:
    """Set how much each scorer counts, as z-scores over held-out good images (N, H, W, 3).

    Patch memory, feature GMM and position Gaussian get those of `FITTED_WEIGHTS` with the largest quality: mean of image AUROC
    and AUPRO on synthetic defects, (N, H, W, 3) and (N, H, W). The context density gets the largest weight that costs little
    of it, and no more than chance may cost: it alone knows what belongs together, which synthetic defects do not show. The
    weight of the segmentation head is fixed, since it has learnt from defects drawn by the same hand.

    `shifted` are good images after `shifted_and_zoomed`, and the defective ones were shifted too: on a line no part lies quite
    where the one before it lay, and a scorer that cannot bear that must not decide. Nothing to do for `paper`.
    """
    model = detector.model
    if not isinstance(model, Autoencoder):
        return Fusion({}, {})
    trial, mean, std = _tried(
        detector, model, Pictures(good, shifted, defective, masks), device, "calibrating: scorers"
    )
    found: dict[Weights, float] = {}
    with Bar("calibrating: weights of the scorers"):
        chosen = _choose_context_density(trial, _choose_fitted(trial, found), found)
    model.score_fusion.mean.copy_(mean)
    weights = (*chosen, trial.head)
    model.score_fusion.weight.copy_(torch.tensor(weights) / std)
    return Fusion(
        dict(zip(ScorerMaps._fields, weights, strict=True)),
        {" ".join(f"{w:g}" for w in tried): quality for tried, quality in found.items()},
    )


def quality_so_far(detector: Detector, pictures: Pictures, device: torch.device) -> float | None:
    """The largest quality that weights of the scorers can give, of a detector that still learns. Sets nothing. None for `paper`.

    It does not depend on the scale of any loss, so it can be compared between trainings with different losses.
    """
    model = detector.model
    if not isinstance(model, Autoencoder):
        return None
    trial, _, _ = _tried(detector, model, pictures, device, None)
    weights = [(*fitted[:3], context) for fitted in FITTED_WEIGHTS for context in (0.0, *CONTEXT_WEIGHTS)]
    return max(trial.quality(w)(trial.every()) for w in weights)


class Pictures(NamedTuple):
    """What a quality is measured on, (N, H, W, 3) uint8; see `fit_score_fusion`."""

    good: NDArray[np.uint8]  # they say what is normal
    shifted: NDArray[np.uint8]  # good ones, to be told apart from the defective
    defective: NDArray[np.uint8]
    masks: NDArray[np.bool_]  # (N, H, W), of the defective ones


def _tried(
    detector: Detector, model: Autoencoder, pictures: Pictures, device: torch.device, label: str | None
) -> tuple[Trial, Tensor, Tensor]:
    """The pictures as the scorers see them, and the mean and standard deviation (5,) of each over good ones."""
    steady = _scorer_maps(model, pictures.good, device, label)
    mean, std = steady.mean((0, 2, 3)), steady.transpose(0, 1).flatten(1).std(1).clamp_min(1e-6)
    both = np.concatenate([pictures.defective, pictures.shifted])
    seen = (_scorer_maps(model, both, device, label) - mean[:, None, None]) / std[:, None, None]
    head = SEGMENTATION_WEIGHT_ALONE if model.learns_features else SEGMENTATION_WEIGHT
    masks = _cells(pictures.masks, len(pictures.shifted))
    return (
        Trial(seen, masks, len(pictures.defective), head if model.segmentation_head else 0.0, detector.top),
        mean,
        std,
    )


class Trial(NamedTuple):
    """Defective pictures, then good ones, all shifted and zoomed, as the scorers see them."""

    seen: Tensor  # (N, 5, rows, columns), z-scores over good images
    masks: NDArray[np.bool_]  # (N, rows, columns)
    defective: int  # of the N
    head: float  # weight of the segmentation head
    top: int  # cells whose mean is a picture's score

    def quality(self, weights: Weights) -> Callable[[NDArray[np.int64]], float]:
        """Mean of image AUROC and AUPRO with these weights, as a function of the pictures' indices."""
        maps = (self.seen * torch.tensor([*weights, self.head])[:, None, None]).sum(1)
        scores = torch.topk(maps.flatten(1), self.top, dim=1).values.mean(1).numpy()

        def of(drawn: NDArray[np.int64]) -> float:
            pixels = aupro(list(self.masks[drawn]), list(maps.numpy()[drawn])) or 0.0
            return (pixels + (image_auroc(drawn < self.defective, scores[drawn]) or 0.0)) / 2

        return of

    def every(self) -> NDArray[np.int64]:
        """All indices."""
        return np.arange(len(self.seen))

    def resampled(self) -> list[NDArray[np.int64]]:
        """Indices drawn with replacement, as many of defective and of good pictures as there are."""
        rng = np.random.default_rng(0)
        parts = np.split(self.every(), [self.defective])
        return [np.concatenate([rng.choice(part, len(part)) for part in parts]) for _ in range(RESAMPLES)]


def _choose_fitted(trial: Trial, found: dict[Weights, float]) -> Weights:
    """The best of `FITTED_WEIGHTS`; the quality of each goes into `found`."""
    best = FITTED_WEIGHTS[0]
    for weights in FITTED_WEIGHTS:
        found[weights] = trial.quality(weights)(trial.every())
        if found[weights] > found[best] + EARNED:
            best = weights
    return best


def _choose_context_density(trial: Trial, fitted: Weights, found: dict[Weights, float]) -> Weights:
    """These weights with the context density's; the quality of each goes into `found`."""
    resampled = trial.resampled()
    without = [trial.quality(fitted)(drawn) for drawn in resampled]
    for weight in CONTEXT_WEIGHTS:
        weights = (*fitted[:3], weight)
        quality = trial.quality(weights)
        found[weights] = quality(trial.every())
        costs = [before - quality(drawn) for before, drawn in zip(without, resampled, strict=True)]
        if found[fitted] - found[weights] <= min(MAY_COST, CHANCE * float(np.std(costs))):
            return weights
    return fitted


def _scorer_maps(model: Autoencoder, images: NDArray[np.uint8], device: torch.device, label: str | None) -> Tensor:
    """The scorers' maps (N, 5, rows, columns); zeros of one that is not there."""
    out = []
    with torch.inference_mode():
        for batch in batches(images, device, label=label):
            _, seen = model.scorer_maps(batch.float() / 255)
            there = [x for x in seen if x is not None]
            out.append(torch.stack([torch.zeros_like(there[0]) if x is None else x for x in seen], dim=1).cpu())
    return torch.cat(out)


def _cells(masks: NDArray[np.bool_], good: int) -> NDArray[np.bool_]:
    """(N, H, W) -> (N + good, rows, columns): cells of which more than half is defective; none in so many good pictures."""
    cells = (damaged_share(torch.from_numpy(masks).float()) > 0.5).numpy()
    return np.concatenate([cells, np.zeros((good, *cells.shape[1:]), np.bool_)])
