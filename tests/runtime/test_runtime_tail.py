"""The estimated threshold: the tail of good pictures' scores, and how far off it may be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vtad_runtime.contract.card import BudgetRule
from vtad_runtime.contract.threshold.conformal import calibration, clear_of, spread
from vtad_runtime.contract.threshold.tail import estimated_threshold, fit_tail

RULES: tuple[BudgetRule, ...] = ("guaranteed", "estimated")


def test_an_exponential_tail_is_found_again() -> None:
    scores = np.random.default_rng(0).exponential(2.0, 20_000).tolist()
    tail = fit_tail(scores)
    assert tail.share == pytest.approx(0.2)
    assert tail.scale == pytest.approx(2.0, rel=0.05)
    assert tail.level(0.01) == pytest.approx(2 * math.log(100), rel=0.02)
    assert tail.exceeded_by(tail.level(0.01)) == pytest.approx(0.01)
    assert tail.exceeded_by(tail.start - 1) == pytest.approx(0.2)


def test_one_odd_picture_does_not_decide_alone() -> None:
    scores = np.random.default_rng(1).gamma(3.0, size=54).tolist()
    odd = [*scores, 60.0]
    before, after = calibration(scores, scores, 0.01), calibration(odd, odd, 0.01)
    assert after.guaranteed is not None
    assert after.guaranteed > 60
    assert before.threshold < after.threshold < 1.5 * before.threshold
    farther = [*scores, 600.0]
    assert calibration(farther, farther, 0.01).threshold == after.threshold


def test_the_interval_holds_the_true_share_most_of_the_time() -> None:
    """Gamma scores, whose tail is not exponential: the interval is of the estimate's chance, and a little short for that."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(60):
        found = estimated_threshold(rng.exponential(1.0, 150).tolist(), 0.01)
        assert found is not None
        held += found.lowest <= math.exp(-found.threshold) <= found.highest
    assert held >= 48


def test_the_rule_asked_for_gives_the_threshold_and_the_card_has_both() -> None:
    scores = np.random.default_rng(3).gamma(2.0, size=99).tolist()
    guaranteed, estimated = (calibration(scores, scores, 0.01, rule) for rule in RULES)
    assert guaranteed.threshold == guaranteed.guaranteed == estimated.guaranteed
    assert estimated.estimated is not None
    assert estimated.threshold == estimated.estimated.threshold != guaranteed.threshold
    assert estimated.chosen == "for about 1 % false alarms, estimated from 99 good pictures"


def test_a_handful_of_scores_is_too_few_for_a_tail() -> None:
    few = [float(i) for i in range(19)]
    assert estimated_threshold(few, 0.01) is None
    assert calibration(few, few, 0.01).estimated is None
    found = calibration(few, few, 0.01, "estimated")
    assert found.rule == "guaranteed"
    assert found.threshold == found.guaranteed
    assert estimated_threshold([*few, 19.0], 0.01) is not None


def test_a_budget_beyond_the_tail_is_guaranteed() -> None:
    scores = np.random.default_rng(4).gamma(2.0, size=99).tolist()
    found = calibration(scores, scores, 0.3)
    assert (found.rule, found.threshold) == ("guaranteed", found.guaranteed)


def test_no_rounding_flips_a_picture_beside_the_estimated_threshold() -> None:
    scores = [0.0, 1.0, 2.0, 2.001, 3.0]
    unit = spread(scores[:-1])
    assert clear_of(2.5, scores) == 2.5
    assert clear_of(2.0, scores) == pytest.approx(clear_of(2.0011, scores), rel=1e-3)  # no room before 2.001
    assert clear_of(2.0, scores) == pytest.approx(2.001 + 0.05 * unit, rel=1e-3)
    assert clear_of(2.9999, scores) == pytest.approx(3.0 - 0.05 * unit)
    assert clear_of(3.0, scores) == pytest.approx(3.0 + 0.05 * spread(scores))
    assert clear_of(9.0, scores) == 9.0


def test_equal_scores_have_a_tail() -> None:
    found = estimated_threshold([2.0] * 30, 0.01)
    assert found is not None
    assert found.threshold == pytest.approx(2.0)
    assert calibration([2.0] * 30, [2.0] * 30, 0.01).threshold > 2.0
