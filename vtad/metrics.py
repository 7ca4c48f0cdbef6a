"""How well scores and heatmaps tell defective from good: image AUROC, AP, F1; pixel AUROC, AP; AUPRO.

AUPRO, the area under the per-region overlap curve up to a false-positive rate of 0.3, follows the MVTec AD paper
(Bergmann et al., IJCV 2021, doi 10.1007/s11263-020-01400-4). Image metrics are scikit-learn's. Pixel metrics give the
same numbers as scikit-learn, from one float32 sort of the defect-free pixels: scikit-learn's index sorts take several
times as long, and as much memory, on tens of millions of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]
Curve = tuple[tuple[float, float], ...]  # points, x ascending


@dataclass(frozen=True)
class ImageMetrics:
    """Ranking of pictures; None where it is undefined, for want of good or of defective ones."""

    auroc: float | None
    average_precision: float | None
    f1_max: float | None  # best F1 over all thresholds


@dataclass(frozen=True)
class KindMetrics:
    """One defect type against all good pictures."""

    images: int
    auroc: float | None
    miss_rate: float  # share of its pictures with score <= threshold


@dataclass(frozen=True)
class ScoreReport:
    """Scores of good and defective pictures, and the verdicts at one threshold (NG: score > threshold)."""

    good: int  # pictures
    defective: int
    image: ImageMetrics
    threshold: float
    false_alarm_rate: float | None  # share of good pictures that are NG
    miss_rate: float | None  # share of defective pictures that are not NG
    kinds: dict[str, KindMetrics]  # by defect type


@dataclass(frozen=True)
class PixelReport:
    """Heatmaps against defect masks; None where undefined, for want of defective or of defect-free pixels."""

    images: int
    regions: int  # 8-connected defects over all pictures
    auroc: float | None
    average_precision: float | None
    aupro: float | None
    max_fpr: float  # up to where AUPRO integrates


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> ImageMetrics:
    """AUROC, AP and best F1 of `scores` (N,), higher is odder, where `labels` (N,) is true for defective.

    Raises ValueError: different lengths, or scores that are not finite.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    defective, score = _checked(labels, scores)
    auroc = image_auroc(defective, score)
    if auroc is None:
        return ImageMetrics(None, None, None)
    precision, recall, _ = precision_recall_curve(defective, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return ImageMetrics(
        auroc=auroc,
        average_precision=float(average_precision_score(defective, score)),
        f1_max=float(f1.max()),
    )


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """The AUROC of `image_metrics` alone: the area under scikit-learn's curve to the last bit, in a thirtieth of its time.

    Raises ValueError: different lengths, or scores that are not finite.
    """
    defective, score = _checked(labels, scores)
    if defective.all() or not defective.any():
        return None
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of each distinct score
    found = np.cumsum(defective[order])[last]
    alarms = last + 1 - found
    corner = (np.diff(alarms, 2) != 0) | (np.diff(found, 2) != 0)  # what lies on a straight line adds nothing
    kept = np.concatenate([[True], corner, [True]]) if len(last) > 2 else np.full(len(last), True)
    x = np.append(0.0, alarms[kept]) / alarms[-1]
    y = np.append(0.0, found[kept]) / found[-1]
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2.0).sum())


def evaluate_scores(labels: ArrayLike, scores: ArrayLike, kinds: Sequence[str], threshold: float) -> ScoreReport:
    """All metrics of picture scores: `labels` (N,) true for defective, `kinds` the defect types.

    The kind of a good picture does not matter. Raises ValueError: different lengths, or scores that are not finite.
    """
    defective, score = _checked(labels, scores)
    if len(kinds) != len(score):
        raise ValueError(f"kinds: expected one for each of {len(score)} scores, got {len(kinds)}")
    rejected = score > threshold
    by_kind = {}
    for kind in sorted({k for k, bad in zip(kinds, defective, strict=True) if bad}):
        of_kind = defective & np.array([k == kind for k in kinds])
        chosen = of_kind | ~defective
        by_kind[kind] = KindMetrics(
            images=int(of_kind.sum()),
            auroc=image_auroc(of_kind[chosen], score[chosen]),
            miss_rate=float(1 - rejected[of_kind].mean()),
        )
    return ScoreReport(
        good=int((~defective).sum()),
        defective=int(defective.sum()),
        image=image_metrics(defective, score),
        threshold=float(threshold),
        false_alarm_rate=float(rejected[~defective].mean()) if not defective.all() else None,
        miss_rate=float(1 - rejected[defective].mean()) if defective.any() else None,
        kinds=by_kind,
    )


def evaluate_pixels(
    masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.float32]], max_fpr: float = 0.3
) -> PixelReport:
    """Pixel AUROC and AP, and AUPRO, of heatmaps (H, W) against defect masks (H, W); sizes may differ between pictures.

    Good pictures come with an empty mask. Raises ValueError: counts or shapes that do not match, values that are not
    finite, or `max_fpr` outside 0..1.
    """
    return RankedPixels.of(masks, maps).report(max_fpr)


def aupro(
    masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.float32]], max_fpr: float = 0.3
) -> float | None:
    """Area under the per-region overlap curve up to `max_fpr`, divided by it.

    Every 8-connected region of every mask counts the same. The false-positive rate is over all defect-free pixels,
    those of defective pictures too. Exact: each distinct value is a threshold (equal values switch together), points
    are joined by straight lines, and the curve is cut at `max_fpr` by linear interpolation. None without a
    defect or without a defect-free pixel. Raises ValueError like `evaluate_pixels`.
    """
    return RankedPixels.of(masks, maps).aupro(max_fpr)


def quality(
    masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.float32]], labels: ArrayLike, scores: ArrayLike
) -> float:
    """Mean of image AUROC and AUPRO, what choices of training are made by; one that is undefined counts 0.

    Raises ValueError like `image_auroc` and `evaluate_pixels`.
    """
    return ((aupro(masks, maps) or 0.0) + (image_auroc(labels, scores) or 0.0)) / 2


@dataclass(frozen=True)
class RankedPixels:
    """All that the pixel metrics need: at each distinct value v of a defective pixel, descending, what is >= v."""

    images: int
    defect_free: int  # pixels
    defective: int  # pixels
    regions: int
    above: Counts  # (V,) defect-free pixels > v
    reached: Counts  # (V,) defect-free pixels >= v
    found: Counts  # (V,) defective pixels >= v
    overlap: NDArray[np.float64]  # (V,) share of a region that is >= v, averaged over the regions

    @staticmethod
    def of(masks: Sequence[NDArray[np.bool_]], maps: Sequence[NDArray[np.float32]]) -> RankedPixels:
        """Of heatmaps (H, W) against defect masks (H, W). Raises ValueError like `evaluate_pixels`."""
        if len(masks) != len(maps):
            raise ValueError(f"masks: expected one for each of {len(maps)} maps, got {len(masks)}")
        free = np.empty(sum(m.size - int(np.count_nonzero(m)) for m in masks), np.float32)
        filled, values, weights, regions = 0, [], [], 0
        for i, (mask, heat) in enumerate(zip(masks, maps, strict=True)):
            if mask.shape != heat.shape or mask.ndim != 2 or mask.dtype != np.bool_:
                raise ValueError(
                    f"map {i}: expected a bool mask and a map of one shape (H, W), "
                    f"got {mask.shape} {mask.dtype} and {heat.shape}"
                )
            if not np.isfinite(heat).all():
                raise ValueError(f"map {i}: expected finite values, got NaN or infinity")
            outside = heat[~mask]
            free[filled : filled + outside.size] = outside
            filled += outside.size
            if mask.any():
                count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
                label = np.asarray(labels)[mask]
                values.append(heat[mask].astype(np.float32))
                weights.append(1 / np.bincount(label, minlength=count)[label])
                regions += count - 1
        free.sort()
        value = np.concatenate(values) if values else np.empty(0, np.float32)
        weight = np.concatenate(weights) if weights else np.empty(0)
        order = np.argsort(value)[::-1]
        value = value[order]
        last = np.flatnonzero(np.append(value[1:] != value[:-1], True)) if len(value) else np.empty(0, np.int64)
        return RankedPixels(
            images=len(maps),
            defect_free=len(free),
            defective=len(value),
            regions=regions,
            above=len(free) - np.searchsorted(free, value[last], "right"),
            reached=len(free) - np.searchsorted(free, value[last], "left"),
            found=last + 1,
            overlap=np.cumsum(weight[order])[last] / max(regions, 1),
        )

    def report(self, max_fpr: float = 0.3) -> PixelReport:
        """All metrics. Raises ValueError: `max_fpr` outside 0..1."""
        return PixelReport(self.images, self.regions, self.auroc(), self.ap(), self.aupro(max_fpr), max_fpr)

    @property
    def undefined(self) -> bool:
        """Whether there is no defect, or no defect-free pixel."""
        return self.defective == 0 or self.defect_free == 0

    def auroc(self) -> float | None:
        """Chance that a defective pixel ranks above a defect-free one, ties counting half (Mann and Whitney)."""
        if self.undefined:
            return None
        here = np.diff(self.found, prepend=0).astype(np.float64)
        beaten = self.defect_free - 0.5 * (self.above + self.reached)
        return float((here * beaten).sum() / self.defective / self.defect_free)

    def ap(self) -> float | None:
        """Average precision: precision at each value, weighted by the recall it adds."""
        if self.undefined:
            return None
        here = np.diff(self.found, prepend=0)
        return float((here * (self.found / (self.found + self.reached))).sum() / self.defective)

    def aupro(self, max_fpr: float) -> float | None:
        """The function `aupro`."""
        if not 0 < max_fpr <= 1:
            raise ValueError(f"max_fpr: expected a rate in 0..1, got {max_fpr}")
        if self.undefined:
            return None
        x, y = self._pro(max_fpr)
        return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2 / max_fpr)

    def pro_curve(self, max_fpr: float = 0.3, points: int = 200) -> Curve:
        """The per-region overlap curve up to `max_fpr`, thinned to about so many points along each axis; () if undefined."""
        if self.undefined:
            return ()
        x, y = self._pro(max_fpr)
        along_x = np.searchsorted(x, np.linspace(0, max_fpr, points), "right") - 1
        along_y = np.searchsorted(y, np.linspace(0, y[-1], points))
        drawn = np.union1d(along_x, along_y)
        return tuple(zip(x[drawn].tolist(), y[drawn].tolist(), strict=True))

    def _pro(self, max_fpr: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False-positive rates, ascending, and the mean overlap at each."""
        # Between two values of defective pixels the curve runs level from `reached` to the next `above`.
        before = np.concatenate([[0.0], self.overlap[:-1]])
        x = np.concatenate([[0.0], np.stack([self.above, self.reached], 1).ravel() / self.defect_free, [1.0]])
        y = np.concatenate([[0.0], np.stack([before, self.overlap], 1).ravel(), [1.0]])
        inside = int(np.searchsorted(x, max_fpr, "right"))
        if inside == len(x):
            return x, y
        share = (max_fpr - x[inside - 1]) / (x[inside] - x[inside - 1])
        end = y[inside - 1] + share * (y[inside] - y[inside - 1])
        return np.append(x[:inside], max_fpr), np.append(y[:inside], end)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    defective, score = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    if score.ndim != 1 or defective.shape != score.shape:
        raise ValueError(f"scores: expected one for each label, (N,), got {score.shape} for labels {defective.shape}")
    if not np.isfinite(score).all():
        raise ValueError("scores: expected finite values, got NaN or infinity")
    return defective, score
