"""Thresholds from scores: exact intervals, the trade-off, known bad parts, where the review band begins."""

from __future__ import annotations

import numpy as np
import pytest

from vtad_runtime.contract.threshold.binomial import exact_interval
from vtad_runtime.contract.threshold.conformal import (
    CalibrationError,
    calibration,
    conformal_threshold,
    fence,
    review_level,
)
from vtad_runtime.contract.threshold.trade_off import choice, miss_threshold, table, trade_off


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # scipy.stats.beta.ppf(0.025, k, n - k + 1) and (0.975, k + 1, n - k)
        (0, 44, 0.0, 0.0804199398),
        (1, 44, 0.0005752392, 0.1202415822),
        (3, 200, 0.0031041076, 0.0432082819),
        (44, 44, 0.9195800602, 1.0),
        (150, 1000, 0.1284248111, 0.1736581286),
        (0, 0, 0.0, 1.0),
    ],
)
def test_an_exact_interval_is_that_of_clopper_and_pearson(k: int, n: int, low: float, high: float) -> None:
    assert exact_interval(k, n) == pytest.approx((low, high), abs=1e-9)


def test_a_count_that_is_not_of_its_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a count from 0 to 3, got 4"):
        exact_interval(4, 3)


def test_the_trade_off_shows_thresholds_that_no_other_beats() -> None:
    good, bad = [0.0, 1.0, 2.0, 5.0], [3.0, 4.0, 6.0]
    shown = trade_off(good, bad)
    assert [(c.false_alarms.count, c.misses.count) for c in shown] == [(1, 0), (0, 2)]
    assert [c.threshold for c in shown] == [2.5, 5.5]


@pytest.mark.parametrize(
    ("good", "bad", "costs"), [([1.0], [], [(0, 0)]), ([], [1.0], [(0, 0)]), ([1.0], [1.0], [(1, 0), (0, 1)])]
)
def test_the_trade_off_of_few_pictures(good: list[float], bad: list[float], costs: list[tuple[int, int]]) -> None:
    assert [(c.false_alarms.count, c.misses.count) for c in trade_off(good, bad)] == costs


def test_the_chosen_threshold_stands_in_place_of_one_that_costs_the_same() -> None:
    shown = trade_off([0.0, 1.0, 2.0, 5.0], [3.0, 4.0, 6.0], also=5.9)
    assert [(c.threshold, c.false_alarms.count, c.misses.count) for c in shown] == [(2.5, 1, 0), (5.9, 0, 2)]


def test_a_long_trade_off_is_thinned_and_marks_the_chosen_threshold() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0, 1, 300).tolist(), rng.normal(1, 1, 300).tolist()
    shown = trade_off(good, bad, also=0.5)
    assert len(shown) <= 13
    lines = table(shown, 0.5)
    assert [line[0] for line in lines[1:]].count("*") == 1
    assert choice(0.5, good, bad) in shown
    misses = [c.misses.count for c in shown]
    assert misses == sorted(misses)


@pytest.mark.parametrize("scores", [[], [float("nan")], [1.0, float("inf")]])
def test_a_trade_off_needs_finite_scores(scores: list[float]) -> None:
    with pytest.raises(CalibrationError, match="expected finite scores"):
        trade_off(scores, [])


def test_known_bad_parts_vouch_for_a_share_of_misses() -> None:
    """Exchangeable: n known bad parts and one new, drawn alike, many times."""
    rng = np.random.default_rng(0)
    draws = rng.gamma(3.0, size=(3000, 50))
    missed = np.mean([new <= miss_threshold([0.0, 1.0], known, 0.02) for *known, new in draws.tolist()])
    assert 0.005 < missed < 0.02 + 2 * (0.02 * 0.98 / 3000) ** 0.5


def test_too_few_known_bad_parts_are_refused_with_the_number_that_is_enough() -> None:
    with pytest.raises(CalibrationError, match=r"got 20, which vouch for 4.76 % at best; 49 can, 29 more"):
        miss_threshold([0.0], [5.0] * 20, 0.02)
    assert miss_threshold([0.0], [5.0] * 49, 0.02) < 5.0


def test_the_review_band_holds_at_most_its_share_of_good_pictures() -> None:
    scores = np.random.default_rng(1).gamma(2.0, size=99).tolist()
    level = review_level(calibration(scores, scores, 0.01), 0.05)
    assert level == conformal_threshold(scores, 0.05)
    assert sum(s > level for s in scores) == 4


@pytest.mark.parametrize(
    ("count", "false_alarms", "review"), [(99, 0.01, 0.0), (18, 0.01, 0.05), (99, 0.05, 0.05), (30, 0.01, 0.05)]
)
def test_there_is_no_review_band_where_none_fits_below_the_threshold(
    count: int, false_alarms: float, review: float
) -> None:
    scores = [float(i) for i in range(count)]
    assert review_level(calibration(scores, scores, false_alarms, "guaranteed"), review) is None


def test_the_fence_names_what_is_odd_among_the_good() -> None:
    scores = [*np.linspace(0, 1, 40), 12.0]
    assert 1 < fence(scores) < 12
