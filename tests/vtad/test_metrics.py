"""Metrics against scikit-learn and against a literal implementation of the AUPRO definition."""

from __future__ import annotations

import dataclasses
import itertools
import json

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from vtad.metrics import aupro, evaluate_pixels, evaluate_scores, image_auroc, image_metrics

Masks = list[NDArray[np.bool_]]
Maps = list[NDArray[np.float32]]


def literal_aupro(masks: Masks, maps: Maps, limit: float) -> float:
    """Over every threshold: mean overlap of the regions, rate over all defect-free pixels; trapezoids up to `limit`."""
    regions = []
    for mask, heat in zip(masks, maps, strict=True):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += [heat[labels == i] for i in range(1, count)]
    free = np.concatenate([heat[~mask] for mask, heat in zip(masks, maps, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([heat.ravel() for heat in maps]))[::-1]:
        overlap = float(np.mean([np.mean(region >= threshold) for region in regions]))
        points.append((float(np.mean(free >= threshold)), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit < x1:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)  # noqa: PLW2901
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def random_case(rng: np.random.Generator, levels: int | None) -> tuple[Masks, Maps]:
    masks, maps = [], []
    for _ in range(rng.integers(1, 5)):
        shape = tuple(rng.integers(3, 14, 2))
        mask = rng.random(shape) < rng.choice([0.0, 0.1, 0.4])
        heat = rng.normal(size=shape) + mask * rng.uniform(0, 2)
        masks.append(mask)
        maps.append((heat if levels is None else np.round(heat * levels) / levels).astype(np.float32))
    if not any(mask.any() for mask in masks):
        masks[0][1, 1] = True
    return masks, maps


@pytest.mark.parametrize("levels", [None, 3, 1, 0.4])
@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
def test_aupro_is_that_of_the_definition_with_and_without_ties(levels: int | None, limit: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        masks, maps = random_case(rng, levels)
        value = aupro(masks, maps, limit)
        assert value is not None
        assert value == pytest.approx(literal_aupro(masks, maps, limit), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 3, 1])
def test_pixel_auroc_and_ap_equal_scikit_learn(levels: int | None) -> None:
    rng = np.random.default_rng(1)
    for _ in range(25):
        masks, maps = random_case(rng, levels)
        report = evaluate_pixels(masks, maps)
        truth, heat = (np.concatenate([a.ravel() for a in arrays]) for arrays in (masks, maps))
        assert report.auroc == pytest.approx(roc_auc_score(truth, heat), abs=1e-12)
        assert report.average_precision == pytest.approx(average_precision_score(truth, heat), abs=1e-12)


def test_a_perfect_map_scores_one_and_a_constant_map_scores_chance() -> None:
    mask = np.zeros((20, 20), bool)
    mask[3:6, 4:9] = mask[12, 12] = True
    perfect = evaluate_pixels([mask], [mask.astype(np.float32)])
    assert (perfect.auroc, perfect.average_precision, perfect.regions) == (1.0, 1.0, 2)
    assert perfect.aupro == pytest.approx(1.0)
    flat = evaluate_pixels([mask], [np.zeros((20, 20), np.float32)])
    assert flat.auroc == 0.5
    assert flat.aupro == pytest.approx(0.15)


def test_a_tiny_region_counts_as_much_as_a_large_one() -> None:
    mask = np.zeros((40, 40), bool)
    mask[0:20, 0:20] = mask[30, 30] = True
    only_large = np.where(mask, 1, 0).astype(np.float32)
    only_large[30, 30] = -1
    only_tiny = np.where(mask, -1, 0).astype(np.float32)
    only_tiny[30, 30] = 1
    assert aupro([mask], [only_large]) == pytest.approx(0.5)
    assert aupro([mask], [only_tiny]) == pytest.approx(0.5)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    assert evaluate_pixels([np.eye(5, dtype=bool)], [np.eye(5, dtype=np.float32)]).regions == 1


def test_defect_free_pixels_of_good_pictures_count_as_false_positives() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:4, 2:4] = True
    heat = mask.astype(np.float32)
    noisy = np.full((10, 10), 2, np.float32)
    alone = aupro([mask], [heat])
    with_good = aupro([mask, np.zeros((10, 10), bool)], [heat, noisy])
    assert alone is not None
    assert with_good is not None
    assert with_good < alone


def test_nothing_to_measure_gives_none_not_nan() -> None:
    blank, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    heat = np.zeros((4, 4), np.float32)
    for masks, maps in (([blank], [heat]), ([full], [heat]), ([], [])):
        report = evaluate_pixels(masks, maps)
        assert (report.auroc, report.average_precision, report.aupro) == (None, None, None)
    for labels in ([True, True], [False, False], []):
        metrics = image_metrics(labels, [0.5] * len(labels))
        assert (metrics.auroc, metrics.average_precision, metrics.f1_max) == (None, None, None)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_the_auroc_of_pictures_is_scikit_learns_to_the_last_bit(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    for _ in range(200):
        labels = rng.permutation(np.arange(rng.integers(2, 200)) < 1 + rng.integers(0, 100))
        scores = np.round(rng.normal(size=len(labels)) + labels, decimals)
        expected = None if labels.all() else roc_auc_score(labels, scores)
        assert image_auroc(labels, scores) == image_metrics(labels, scores).auroc == expected


def test_wrong_input_is_refused() -> None:
    mask, heat = np.zeros((4, 4), bool), np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match="one for each of 1 maps, got 2"):
        aupro([mask, mask], [heat])
    with pytest.raises(ValueError, match="one shape"):
        aupro([mask[:3]], [heat])
    with pytest.raises(ValueError, match="NaN"):
        aupro([mask], [np.full((4, 4), np.nan, np.float32)])
    with pytest.raises(ValueError, match="max_fpr"):
        aupro([~mask, mask], [heat, heat], 0.0)
    with pytest.raises(ValueError, match="NaN"):
        image_metrics([True, False], [0.0, float("nan")])
    with pytest.raises(ValueError, match="one for each label"):
        image_metrics([True, False], [0.0])
    with pytest.raises(ValueError, match="kinds"):
        evaluate_scores([True], [0.0], [], 0.0)


def test_f1_max_is_the_best_over_all_thresholds() -> None:
    labels, scores = [0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    best = 0.0
    for threshold in scores:
        hits = [s >= threshold for s in scores]
        both = sum(h and bool(y) for h, y in zip(hits, labels, strict=True))
        best = max(best, 2 * both / (sum(hits) + sum(labels)))
    assert image_metrics(labels, scores).f1_max == pytest.approx(best)


def test_the_report_counts_false_alarms_and_misses_and_splits_them_by_kind() -> None:
    labels = [False] * 4 + [True] * 5
    scores = [0.1, 0.2, 0.3, 0.9, 0.5, 0.6, 0.4, 0.95, 0.99]
    kinds = ["good"] * 4 + ["dent", "dent", "hole", "hole", "hole"]
    report = evaluate_scores(labels, scores, kinds, threshold=0.5)
    assert (report.good, report.defective) == (4, 5)
    assert report.false_alarm_rate == 0.25
    assert report.miss_rate == pytest.approx(0.4)  # a score at the threshold is not above it
    assert list(report.kinds) == ["dent", "hole"]
    assert report.kinds["dent"].miss_rate == 0.5
    assert report.kinds["dent"].auroc == pytest.approx(0.75)
    assert report.kinds["hole"].auroc == pytest.approx(11 / 12)
    assert report.image.auroc == pytest.approx(roc_auc_score(labels, scores))


def test_reports_become_json_without_nan() -> None:
    scores = dataclasses.asdict(evaluate_scores([True], [1.0], ["dent"], 0.0))
    pixels = dataclasses.asdict(evaluate_pixels([], []))
    text = json.dumps([scores, pixels], allow_nan=False)
    assert json.loads(text)[0]["kinds"]["dent"] == {"images": 1, "auroc": None, "miss_rate": 0.0}
    assert json.loads(text)[1]["aupro"] is None
