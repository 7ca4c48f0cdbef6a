"""How much each scorer counts, from held-out good images and synthetic defects alone.

Quality is two figures: on damage, and on defects of relation where good pictures have aligned parts. Whatever knows positions and
relations helps the second and may harm the first. The weights are the best for relation among those that cost nothing of the
first but what chance may.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad.data.batches import BATCH, batches
from vtad.metrics import quality
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector
from vtad.models.score_fusion import ScorerMaps
from vtad.models.segmentation_head import damaged_share
from vtad_runtime.contract.progress import Bar

Weights = tuple[float, ...]  # of patch memory, feature GMM, position Gaussian and context density
# Of the first three. Patch memory or feature GMM, never both: each costs a quarter of the arithmetic. The position Gaussian is
# active unless it harms, the feature GMM when it helps.
FITTED_WEIGHTS = tuple((1.0 - gmm, gmm, position, 0.0) for gmm in (0.0, 1.0) for position in (1.0, 0.0))
EARNED = 2e-3  # mean of image AUROC and AUPRO that weights tried later must add: less is noise
CONTEXT_WEIGHTS = (1.0, 0.5, 0.25)  # without parts: the first that costs little enough is taken, or none
POSITIONS, CONTEXTS = (1.0, 0.5, 0.0), (2.0, 1.0, 0.5, 0.25, 0.0)  # weights of both with parts
MAY_COST = 5e-3  # of the quality on damage,
CHANCE = 2.0  # and so many of its standard errors
RESAMPLES = 60  # of the pictures, with replacement, that the standard error is found by (bootstrap, Efron 1979)
SEGMENTATION_WEIGHT = 0.5
SEGMENTATION_WEIGHT_ALONE = 2.0  # without a backbone, where the fitted scorers know no more than pixels


class Defective(NamedTuple):
    """Pictures with synthetic defects of one sort."""

    images: NDArray[np.uint8]  # (N, H, W, 3)
    masks: NDArray[np.bool_]  # (N, H, W)


class Pictures(NamedTuple):
    """What a quality is measured on, (N, H, W, 3) uint8.

    All but the first are shifted and zoomed: on a line no part lies quite where the one before it lay, and a scorer that cannot
    bear that must not decide.
    """

    good: NDArray[np.uint8]  # as they are: they say what is normal
    shifted: NDArray[np.uint8]  # good ones, to be told apart from the defective
    damage: Defective
    relation: Defective | None = None  # None where good pictures have no aligned parts


class Quality(NamedTuple):
    """Mean of image AUROC and AUPRO on either sort of defects."""

    damage: float
    relation: float | None

    @property
    def mean(self) -> float:
        """Of both, where there are both."""
        return self.damage if self.relation is None else (self.damage + self.relation) / 2


class Seen(NamedTuple):
    """What a detector sees of N images, whatever its scorers will weigh; on the CPU."""

    scorers: Tensor  # (N, 5, rows, columns); zeros of one that is not there
    unlike: Tensor  # (M, H, W), 1 - SSIM of the first M images


class SeenPictures(NamedTuple):
    """Likewise of `Pictures`."""

    good: Seen
    damage: Seen
    relation: Seen | None
    shifted: Seen


class Fusion(NamedTuple):
    """What the score fusion is made of, and what else was tried."""

    weights: dict[str, float]  # of the scorers' z-scores over good images, by scorer; one of 0 is pruned
    qualities: dict[str, Quality]  # by weights
    chosen: Quality | None  # of these weights; None for `paper`
    seen: SeenPictures | None  # None for `paper`


def fit_score_fusion(detector: Detector, pictures: Pictures, device: torch.device, compared: int = 0) -> Fusion:
    """Set how much each scorer counts, as z-scores over held-out good images. Nothing to do for `paper`.

    SSIM is computed too, as the images are looked at anyway: of `compared` of each sort, and of all good ones as they are.

    With defects of relation: patch memory or feature GMM, whichever is best on damage; with it the weights of position Gaussian
    and context density that are best on relation, among all that cost little on damage, and no more than chance may cost.
    Without: those of `FITTED_WEIGHTS` that are best on damage, and the largest weight of the context density that costs little,
    since it alone knows what belongs together.
    The weight of the segmentation head is fixed, since it has learnt from defects drawn by the same hand. It finds those of
    relation so well that it hides what the others miss: position Gaussian and context density are then weighed without it.
    """
    model = detector.model
    if not isinstance(model, Autoencoder):
        return Fusion({}, {}, None, None)
    trial, seen = _tried(detector, model, pictures, device, "calibrating: scorers", compared)
    found: dict[Weights, Quality] = {}
    with Bar("calibrating: weights of the scorers"):
        chosen = _choose_for_both(trial, found) if trial.related else _choose_for_damage(trial, found)
    mean, std = _mean_and_std(seen.good)
    model.score_fusion.mean.copy_(mean)
    weights = (*chosen, trial.head)
    model.score_fusion.weight.copy_(torch.tensor(weights) / std)
    return Fusion(
        dict(zip(ScorerMaps._fields, weights, strict=True)),
        {" ".join(f"{w:g}" for w in tried): quality for tried, quality in found.items()},
        trial.quality(chosen)(trial.every()),
        seen,
    )


def quality_so_far(detector: Detector, pictures: Pictures, device: torch.device) -> float | None:
    """The largest quality that weights of the scorers can give, of a detector that still learns. Sets nothing. None for `paper`.

    It does not depend on the scale of any loss, so it can be compared between trainings with different losses.
    """
    model = detector.model
    if not isinstance(model, Autoencoder):
        return None
    trial, _ = _tried(detector, model, pictures, device, None, 0)
    weights = [(*fitted[:3], context) for fitted in FITTED_WEIGHTS for context in (0.0, *CONTEXT_WEIGHTS)]
    return max(trial.quality(w)(trial.every()).mean for w in weights)


def _tried(
    detector: Detector, model: Autoencoder, pictures: Pictures, device: torch.device, label: str | None, compared: int
) -> tuple[Trial, SeenPictures]:
    """What is seen of the pictures, and of all but the good ones as they are, how well weights tell them apart."""

    def look(images: NDArray[np.uint8], compared: int) -> Seen:
        return _look(detector, model, images, device, label, compared)

    seen = SeenPictures(
        look(pictures.good, len(pictures.good) if compared else 0),
        look(pictures.damage.images, compared),
        None if pictures.relation is None else look(pictures.relation.images, compared),
        look(pictures.shifted, compared),
    )
    mean, std = _mean_and_std(seen.good)
    shown = torch.cat([sort.scorers for sort in (seen.damage, seen.relation, seen.shifted) if sort is not None])
    sorts = [pictures.damage, *([pictures.relation] if pictures.relation is not None else [])]
    masks = _cells(np.concatenate([sort.masks for sort in sorts]), len(pictures.shifted))
    damaged, *related = (len(sort.images) for sort in sorts)
    head = SEGMENTATION_WEIGHT_ALONE if model.learns_features else SEGMENTATION_WEIGHT
    weight = head if model.segmentation_head else 0.0
    z_scores = (shown - mean[:, None, None]) / std[:, None, None]
    return Trial(z_scores, masks, damaged, sum(related), weight, detector.top), seen


def _mean_and_std(good: Seen) -> tuple[Tensor, Tensor]:
    """Of each scorer over good pictures, (5,)."""
    return good.scorers.mean((0, 2, 3)), good.scorers.transpose(0, 1).flatten(1).std(1).clamp_min(1e-6)


class Trial(NamedTuple):
    """Damaged pictures, then those with defects of relation, then good ones, all shifted and zoomed, as the scorers see them."""

    seen: Tensor  # (N, 5, rows, columns), z-scores over good images
    masks: NDArray[np.bool_]  # (N, rows, columns)
    damaged: int  # of the N
    related: int  # of the N
    head: float  # weight of the segmentation head
    top: int  # cells whose mean is a picture's score

    def quality(self, weights: Weights) -> Callable[[NDArray[np.int64]], Quality]:
        """With these weights, as a function of the pictures' indices."""
        maps = (self.seen * torch.tensor([*weights, self.head])[:, None, None]).sum(1)
        scores = torch.topk(maps.flatten(1), self.top, dim=1).values.mean(1).numpy()
        good = self.damaged + self.related

        def of_sort(drawn: NDArray[np.int64]) -> float:
            return quality(list(self.masks[drawn]), list(maps.numpy()[drawn]), drawn < good, scores[drawn])

        def of(drawn: NDArray[np.int64]) -> Quality:
            damage = of_sort(drawn[(drawn < self.damaged) | (drawn >= good)])
            return Quality(damage, of_sort(drawn[drawn >= self.damaged]) if self.related else None)

        return of

    def every(self) -> NDArray[np.int64]:
        """All indices."""
        return np.arange(len(self.seen))

    def resampled(self) -> list[NDArray[np.int64]]:
        """Indices drawn with replacement, as many of each sort as there are."""
        rng = np.random.default_rng(0)
        parts = np.split(self.every(), [self.damaged, self.damaged + self.related])
        return [np.concatenate([rng.choice(part, len(part)) for part in parts]) for _ in range(RESAMPLES)]

    def of_damage(self) -> Trial:
        """The same without defects of relation."""
        kept = np.r_[: self.damaged, self.damaged + self.related : len(self.seen)]
        return self._replace(seen=self.seen[torch.from_numpy(kept)], masks=self.masks[kept], related=0)


def _choose_fitted(trial: Trial, found: dict[Weights, Quality]) -> Weights:
    """The best of `FITTED_WEIGHTS` on damage: the feature GMM where it is ahead by more than chance may put it.

    The quality of each goes into `found`.
    """
    found |= {weights: trial.quality(weights)(trial.every()) for weights in FITTED_WEIGHTS}
    memory, gmm = (
        without if found[without].damage > found[with_position].damage + EARNED else with_position
        for with_position, without in (FITTED_WEIGHTS[:2], FITTED_WEIGHTS[2:])
    )
    ahead = found[gmm].damage - found[memory].damage
    return gmm if ahead > EARNED and ahead > _chance(trial)(memory, gmm) else memory


def _choose_for_damage(trial: Trial, found: dict[Weights, Quality]) -> Weights:
    """The best fitted ones, with the largest of the context density's that costs little; qualities go into `found`."""
    fitted = _choose_fitted(trial, found)
    cheap = _cheap(trial, fitted, found)
    for weight in CONTEXT_WEIGHTS:
        weights = (*fitted[:3], weight)
        found[weights] = trial.quality(weights)(trial.every())
        if cheap(weights):
            return weights
    return fitted


def _choose_for_both(trial: Trial, found: dict[Weights, Quality]) -> Weights:
    """Patch memory or feature GMM by damage; with it, and without the head, the best for relation that costs little on damage.

    Qualities without the head go into `found`.
    """
    fitted = _choose_fitted(trial, {})
    trial = trial._replace(head=0.0)
    for weights in ((*fitted[:2], position, context) for position in POSITIONS for context in CONTEXTS):
        found[weights] = trial.quality(weights)(trial.every())
    best = max(found, key=lambda weights: found[weights].damage)
    cheap = _cheap(trial.of_damage(), best, found)
    ranked = sorted(found, key=lambda weights: -(found[weights].relation or 0.0))
    return next(w for w in ranked if found[best].damage - found[w].damage <= EARNED or cheap(w))


def _cheap(trial: Trial, before: Weights, found: dict[Weights, Quality]) -> Callable[[Weights], bool]:
    """Whether other weights than `before` cost no more quality on damage than `MAY_COST`, nor than chance may."""
    chance = _chance(trial)

    def cheap(after: Weights) -> bool:
        cost = found[before].damage - found[after].damage
        return cost <= 0 or (cost <= MAY_COST and cost <= chance(before, after))

    return cheap


def _chance(trial: Trial) -> Callable[[Weights, Weights], float]:
    """How far chance may put two qualities on damage apart: `CHANCE` standard errors of their difference."""

    @cache
    def resampled(weights: Weights) -> NDArray[np.float64]:
        of = trial.quality(weights)
        return np.array([of(drawn).damage for drawn in trial.resampled()])

    return lambda one, other: CHANCE * float(np.std(resampled(one) - resampled(other)))


def _look(
    detector: Detector,
    model: Autoencoder,
    images: NDArray[np.uint8],
    device: torch.device,
    label: str | None,
    compared: int,
) -> Seen:
    scorers, unlike = [], [torch.empty(0, *images.shape[1:3])]
    with torch.inference_mode():
        for i, batch in enumerate(batches(images, device, label=label)):
            x = batch.float() / 255
            reconstruction, seen = model.scorer_maps(x)
            there = [maps for maps in seen if maps is not None]
            each = [torch.zeros_like(there[0]) if maps is None else maps for maps in seen]
            scorers.append(torch.stack(each, dim=1).cpu())
            if (few := compared - i * BATCH) > 0:
                unlike.append(detector.unlike(x[:few], reconstruction[:few]).cpu())
    return Seen(torch.cat(scorers), torch.cat(unlike))


def _cells(masks: NDArray[np.bool_], good: int) -> NDArray[np.bool_]:
    """(N, H, W) -> (N + good, rows, columns): cells of which more than half is defective; none in so many good pictures."""
    cells = (damaged_share(torch.from_numpy(masks).float()) > 0.5).numpy()
    return np.concatenate([cells, np.zeros((good, *cells.shape[1:]), np.bool_)])
