"""Parts of aligned good pictures are found, those of textures and loose parts are not; defects of relation are drawn of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_run import tiny

from vtad.data.images import ImageCache
from vtad.data.layout import find_category
from vtad.data.registration import registered
from vtad.defects import relation as relation_defects
from vtad.defects.damage import difference
from vtad.defects.parts import AREA, Part, Parts, found_parts
from vtad.defects.relation import KINDS, break_relation, synthetic_relation
from vtad.fitting import sampling
from vtad.fitting.sampling import BatchSampler
from vtad.inspection import input_spec

SIDE = 128
COLOURS = ((180, 60, 50), (60, 130, 70))  # of a body, and of the spot on its label
BODY, CAP, LABEL, SPOT = (
    (40, 40, 88, 112),
    (52, 20, 76, 34),
    (48, 60, 80, 88),
    (58, 68, 70, 80),
)  # left, top, right, below
Pictures = NDArray[np.uint8]


def bottles(count: int, seed: int = 0, same: bool = True, turned: bool = False) -> Pictures:
    """A cap, and a body of one of two colours with a label whose spot has the same colour, or any."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
        kind = int(rng.integers(2))
        other = kind if same else int(rng.integers(2))
        shift = rng.integers(-1, 2, 2)
        for box, colour in (
            (CAP, (30, 40, 70)),
            (BODY, COLOURS[kind]),
            (LABEL, (235, 230, 215)),
            (SPOT, COLOURS[other]),
        ):
            left, top, right, below = (int(v + shift[i % 2]) for i, v in enumerate(box))
            picture[top:below, left:right] = colour
        if turned:
            matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), float(rng.uniform(0, 360)), 1)
            picture = np.asarray(
                cv2.warpAffine(picture, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE), np.uint8
            )
        noise = rng.normal(0, 2, picture.shape)
        out.append(np.clip(picture + noise, 0, 255).astype(np.uint8))
    return np.stack(out)


def parts_of(pictures: Pictures) -> Parts:
    """With the mean colour of each cell for its features."""
    cells = [cv2.resize(p, (SIDE // 8, SIDE // 8), interpolation=cv2.INTER_AREA) for p in pictures]
    return found_parts(pictures, np.stack(cells).astype(np.float32).transpose(0, 3, 1, 2), registered(pictures))


def overlap(part: Part, box: tuple[int, int, int, int]) -> float:
    """Intersection over union of a part and a drawn box."""
    drawn, found = np.zeros((2, SIDE, SIDE), np.bool_)
    drawn[box[1] : box[3], box[0] : box[2]] = True
    found[part.y : part.y + part.size[1], part.x : part.x + part.size[0]] = part.mask
    return float((drawn & found).sum() / (drawn | found).sum())


@pytest.fixture(scope="module")
def good() -> Pictures:
    return bottles(24)


@pytest.fixture(scope="module")
def parts(good: Pictures) -> Parts:
    return parts_of(good)


def test_parts_of_good_pictures_that_lie_alike_are_found_with_their_borders(good: Pictures, parts: Parts) -> None:
    for box, enough in ((CAP, 0.6), (SPOT, 0.4)):  # borders lie on squares of 4 pixels; good parts 2 pixels apart
        assert max(overlap(part, box) for part in parts.parts) > enough
    shares = [part.mask.sum() / SIDE**2 for part in parts.parts]
    assert AREA[0] * 0.9 <= min(shares)
    assert max(shares) <= AREA[1] * 1.1
    assert "aligned parts" in parts.note
    again = parts_of(good)
    assert [p.mask.tobytes() for p in again.parts] == [p.mask.tobytes() for p in parts.parts]


def test_a_colour_goes_with_the_rest_where_the_pictures_show_it(parts: Parts) -> None:
    spot = max(parts.parts, key=lambda part: overlap(part, SPOT))
    cap = max(parts.parts, key=lambda part: overlap(part, CAP))
    assert spot.left_open < 20
    assert np.isinf(cap.left_open)  # it has one colour
    loose = parts_of(bottles(24, same=False))
    assert np.isinf(max(loose.parts, key=lambda part: overlap(part, SPOT)).left_open)


@pytest.mark.parametrize("name", ["texture", "turned", "few"])
def test_textures_loose_parts_and_a_handful_of_pictures_have_none(name: str) -> None:
    rng = np.random.default_rng(1)
    pictures = {
        "texture": rng.integers(0, 256, (12, SIDE, SIDE, 3), np.uint8),
        "turned": bottles(12, turned=True),
        "few": bottles(4),
    }[name]
    found = parts_of(pictures)
    assert len(found) == 0
    assert "\n" not in found.note
    assert ("4 pictures" if name == "few" else "no aligned parts") in found.note
    assert break_relation(pictures[0], pictures[1], found, rng) is None
    made, of = synthetic_relation(pictures, found, 8, 0)
    assert made.shape == (0, SIDE, SIDE, 3)
    assert len(of) == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.strip("_"))
def test_every_kind_of_defect_changes_parts_and_nothing_else(
    good: Pictures, parts: Parts, kind: relation_defects.Kind
) -> None:
    rng = np.random.default_rng(2)
    before = good.copy()
    made = 0
    for i in range(60):
        changed = kind(good[i % 24], good[(7 * i + 3) % 24], parts, rng)
        if changed is not None:
            mask = difference(good[i % 24], changed)
            made += int(mask.any())
            assert changed.shape == good[0].shape
            assert changed.dtype == np.uint8
            assert mask.mean() < 0.4
    assert made >= 3
    np.testing.assert_array_equal(good, before)


def test_what_is_missing_is_gone_and_what_is_replaced_is_another_variants(good: Pictures, parts: Parts) -> None:
    rng = np.random.default_rng(3)
    cap = max(parts.parts, key=lambda part: overlap(part, CAP))
    alone = Parts((cap,), "", parts.reach)
    gone = relation_defects._missing(good[0], good[1], alone, rng)
    assert gone is not None
    left, top, right, below = CAP
    assert gone[top + 2 : below - 2, left + 2 : right - 2].mean() > 150  # the background's
    colours = [picture[SPOT[1] + 4, SPOT[0] + 4].astype(int) for picture in good]
    red = [c[0] > c[1] for c in colours]
    first, other = red.index(True), red.index(False)
    spot = Parts((max(parts.parts, key=lambda part: overlap(part, SPOT)),), "")
    replaced = relation_defects._replaced(good[first], good[other], spot, rng)
    assert replaced is not None
    middle = replaced[SPOT[1] + 5, SPOT[0] + 5].astype(int)
    assert middle[1] > middle[0]
    assert relation_defects._replaced(good[first], good[first], spot, rng) is None


def test_pictures_follow_the_seed_and_their_masks_are_what_differs(good: Pictures, parts: Parts) -> None:
    made, of = synthetic_relation(good, parts, 16, 5)
    assert len(made) == len(of) >= 12
    np.testing.assert_array_equal(synthetic_relation(good, parts, 16, 5)[0], made)
    assert not np.array_equal(synthetic_relation(good, parts, 16, 6)[0], made)
    found = break_relation(good[0], good[1], parts, np.random.default_rng(0))
    assert found is not None
    np.testing.assert_array_equal(found[1], difference(good[0], found[0]))


def test_a_share_of_the_corruptions_is_of_relation_and_the_target_stays_the_clean_picture(
    pills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(data=str(pills), symmetries="mirror", batch_size=4, shift_and_zoom=0.5)
    square, colours = np.ones((8, 8), np.bool_), np.zeros((2, 3), np.float32)
    parts = Parts(tuple(Part(square, x, y, colours, np.inf) for x, y in ((4, 4), (18, 16))), "")
    asked = 0

    def blackened(
        rgb: Pictures, donor: Pictures, of: Parts, rng: np.random.Generator
    ) -> tuple[Pictures, NDArray[np.bool_]]:
        nonlocal asked
        asked += 1
        out = rgb.copy()
        out[8:20, 8:20] = 0
        return out, difference(rgb, out)

    monkeypatch.setattr(sampling, "break_relation", blackened)
    with ImageCache(find_category(pills, "pill").train_good, input_spec(config)) as images:
        sampler, black = BatchSampler(config, images, parts), 0
        for step in range(12):
            before, batch = asked, sampler.draw(step)
            broken = [row for row in range(4) if (batch.corrupted[row] == 0).all(-1).sum() >= 64]
            assert len(broken) >= asked - before
            for row in broken:
                assert batch.damaged[row].any()
                assert not (batch.clean[row] == 0).all(-1).any()
            black += len(broken)
            np.testing.assert_array_equal(batch.clean[3], batch.corrupted[3])  # the whole one
            np.testing.assert_array_equal(sampler.draw(step, slice(1, None, 2)).corrupted, batch.corrupted[1::2])
        assert 0.1 * 36 < black < 0.7 * 36


def test_what_adjoins_a_part_in_its_colour_is_replaced_with_it(good: Pictures) -> None:
    """Of a liquid any square may be the part; half of it in another colour would be damage."""
    red = [picture[100, 60].astype(int)[0] > 120 for picture in good]
    first, other = red.index(True), red.index(False)
    strip = Part(np.ones((12, 20), np.bool_), 54, 94, np.zeros((2, 3), np.float32), 2.0)
    replaced = relation_defects._replaced(good[first], good[other], Parts((strip,), ""), np.random.default_rng(0))
    assert replaced is not None
    left, top, right, below = BODY
    body = replaced[top + 4 : below - 4, left + 4 : right - 4].astype(int)
    assert (body[..., 0] < body[..., 1] + 40)[:12].all()  # green now, up to the label
    spot = (SPOT[1] + SPOT[3]) // 2, (SPOT[0] + SPOT[2]) // 2
    np.testing.assert_array_equal(replaced[spot], good[first][spot])
