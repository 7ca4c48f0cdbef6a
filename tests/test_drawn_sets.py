"""The drawn sets on which choices are made: the same seed gives the same pictures, and a mask is what its defect changed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.drawn.sets import DEFECTIVE, SETS, picture

KINDS = [(name, defect) for name, drawn in SETS.items() for defect in drawn.defects]


@pytest.mark.parametrize(("name", "defect"), KINDS)
def test_a_defect_changes_what_its_mask_says_and_nothing_else(name: str, defect: str) -> None:
    for number in range(2):
        clean, none = picture(SETS[name], (7, number), None)
        damaged, mask = picture(SETS[name], (7, number), defect)
        assert clean.shape == damaged.shape == (*mask.shape, 3)
        assert not none.any()
        assert 20 < mask.sum() < 0.4 * mask.size
        assert np.array_equal(clean[~mask], damaged[~mask])
        assert (clean[mask] != damaged[mask]).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("name", SETS)
def test_the_same_key_gives_the_same_picture_and_another_another(name: str) -> None:
    one, again, other = (picture(SETS[name], key, None)[0] for key in ((0, 1), (0, 1), (0, 2)))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert DEFECTIVE % len(SETS[name].defects) == 0
