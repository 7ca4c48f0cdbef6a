"""Synthetic defects of relation: good pictures whose parts are all good, and do not belong together as they are.

A part is missing, doubled, moved, mirrored, exchanged with another place's or replaced by another picture's; its border lies
elsewhere, or it has another part's colour. Nothing is damaged: what is wrong is only seen by who knows the rest of the picture.
After the logical anomalies of MVTec LOCO (Bergmann et al., IJCV 2022). Parts come from `vtad.defects.parts`.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad.defects.damage import RGB, Images, difference
from vtad.defects.lifting import Mask, box_of, centred, laid, lift, mean_colour, mixed, soft
from vtad.defects.parts import Part, Parts

TRIES = 8  # kinds of defect that are tried on a picture
VISIBLE_SHARE = 0.2  # of a part's pixels at least, that a defect changes
FURTHER = 3.0  # times as far as good parts lie apart, is a part moved at least
LEAST_MOVED = 0.015  # of the picture's longer side, at least
UNLIKE = 3.0  # times as far from each other as good parts are in colour, is a part recoloured or replaced at least
LEAST_UNLIKE = 12.0  # levels of 255, at least
LIKE = 40.0  # levels of 255 from a part's colour, within which what adjoins it is recoloured with it
LARGEST = 0.4  # share of the picture that is recoloured, at most

Kind = Callable[[RGB, RGB, Parts, np.random.Generator], RGB | None]


def break_relation(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> tuple[RGB, Mask] | None:
    """One defect of relation on a good picture (H, W, 3): (defective picture, mask (H, W) of what differs).

    `donor` is another good picture as it came, for what only pictures of another variant have. None where nothing that was
    tried could be seen. Neither input is changed.
    """
    if not parts.parts:
        return None
    for _ in range(TRIES):
        kind = KINDS[int(rng.integers(len(KINDS)))]
        changed = kind(rgb, donor, parts, rng)
        if changed is not None:
            mask = difference(rgb, changed)
            if mask.sum() >= VISIBLE_SHARE * min(part.mask.sum() for part in parts.parts):
                return changed, mask
    return None


def synthetic_relation(
    good: Images, parts: Parts, count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Up to `count` pictures (N, H, W, 3) with defects of relation, by seed, and of which good picture each is made."""
    rng = np.random.default_rng((seed, 8))
    made, of = list[RGB](), list[int]()
    for i in range(count if len(parts) else 0):
        one = i % len(good)
        pair = good[np.array([one, rng.integers(len(good))])]
        found = break_relation(pair[0], pair[1], parts, rng)
        if found is not None:
            made.append(found[0])
            of.append(one)
    return np.stack(made) if made else good[np.empty(0, np.int64)], np.array(of, np.int64)


def _missing(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """A part is not there; its place looks like what is around it."""
    del donor
    lifted = lift(rgb, _any(parts, rng), parts.reach, rng)
    return None if lifted is None else lifted.without


def _doubled(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """A part is there twice, beside its place or anywhere."""
    del donor
    lifted = lift(rgb, _any(parts, rng), parts.reach, rng)
    if lifted is None:
        return None
    h, w = lifted.opacity.shape
    if rng.random() < 0.5:
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2.0)
        x, y = lifted.x + far * w * np.cos(angle), lifted.y + far * h * np.sin(angle)
    else:
        x, y = rng.random(2) * (rgb.shape[1] - w, rgb.shape[0] - h)
    return laid(rgb, lifted, round(x), round(y))


def _moved(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """A part lies further from its place than good ones do."""
    del donor
    lifted = lift(rgb, _any(parts, rng), parts.reach, rng)
    if lifted is None:
        return None
    far = _step(rgb, parts, max(lifted.opacity.shape), rng)
    angle = rng.uniform(0, 2 * np.pi)
    return laid(lifted.without, lifted, round(lifted.x + far * np.cos(angle)), round(lifted.y + far * np.sin(angle)))


def _mirrored(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """A part is mirrored, upside down, or turned by half."""
    del donor
    lifted = lift(rgb, _any(parts, rng), parts.reach, rng)
    if lifted is None:
        return None
    down, across = ((1, -1), (-1, 1), (-1, -1))[int(rng.integers(3))]
    turned = lifted._replace(content=lifted.content[::down, ::across], opacity=lifted.opacity[::down, ::across])
    return laid(lifted.without, turned, lifted.x, lifted.y)


def _exchanged(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """Two parts of similar size have changed places."""
    del donor
    one = _any(parts, rng)
    area = one.mask.sum()
    others = [p for p in parts.parts if p is not one and area / 3 <= p.mask.sum() <= 3 * area and _apart(p, one)]
    if not others:
        return None
    other = others[int(rng.integers(len(others)))]
    first = lift(rgb, one, parts.reach, rng)
    second = lift(rgb, other, parts.reach, rng)
    if first is None or second is None:
        return None
    empty = lift(first.without, other, parts.reach, rng)
    if empty is None:
        return None
    out = laid(empty.without, second, *centred(second, first))
    return None if out is None else laid(out, first, *centred(first, second))


def _replaced(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """A part is that of another variant, where its colour otherwise goes with the rest of the picture."""
    with_others = [part for part in parts.parts if np.isfinite(part.left_open)]
    if not with_others:
        return None
    part = with_others[int(rng.integers(len(with_others)))]
    box = box_of(part)
    apart = mean_colour(donor[box], part.mask) - mean_colour(rgb[box], part.mask)
    if np.linalg.norm(apart) < max(LEAST_UNLIKE, UNLIKE * part.left_open):
        return None
    whole = _of_one_colour(part, rgb, donor)
    if whole is not None:  # its own edges and light, in the other colour
        return mixed(rgb, rgb + (mean_colour(donor, whole) - mean_colour(rgb, whole)), soft(whole))
    out = rgb.copy()
    out[box] = mixed(rgb[box], donor[box], soft(part.mask))
    return out


def _recoloured(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """A part is lighter, darker or of another hue, towards another part's colour; no good picture shows it so."""
    del donor
    part, other = _any(parts, rng), _any(parts, rng)
    mean = mean_colour(rgb[box_of(part)], part.mask)
    by = (mean_colour(rgb[box_of(other)], other.mask) - mean) * rng.uniform(0.3, 1.0)
    if rng.random() < 0.4:
        by = np.full(3, by.mean())
    between = np.linalg.norm(part.colours[:, None] - part.colours[None], axis=-1)
    np.fill_diagonal(between, np.inf)
    usual = float(np.quantile(between.min(1), 0.9))
    if np.linalg.norm(part.colours - (mean + by), axis=1).min() < max(LEAST_UNLIKE, UNLIKE * usual):
        return None
    whole, colour = _of_one_colour(part, rgb), by.astype(np.float32)
    if whole is not None:
        return mixed(rgb, rgb + colour, soft(whole))
    out, box = rgb.copy(), box_of(part)
    out[box] = mixed(rgb[box], rgb[box] + colour, soft(part.mask))
    return out


def _border_moved(rgb: RGB, donor: RGB, parts: Parts, rng: np.random.Generator) -> RGB | None:
    """One border of a part lies further up, down, left or right than in good pictures: a level, a length."""
    del donor
    part = _any(parts, rng)
    side = int(rng.integers(4))
    turned, mask, x, y = rgb, part.mask, part.x, part.y
    if side % 2:  # left or right: the same in the picture with rows for columns
        turned, mask, x, y = turned.swapaxes(0, 1), mask.T, y, x
    if side > 1:  # the lower border: upside down
        turned, mask, y = turned[::-1], mask[::-1], turned.shape[0] - y - mask.shape[0]
    out = _upper_border_moved(turned, mask, x, y, _step(rgb, parts, 0.5 * mask.shape[0], rng) * rng.choice([-1, 1]))
    if out is None:
        return None
    out = out[::-1] if side > 1 else out
    return np.ascontiguousarray(out.swapaxes(0, 1) if side % 2 else out)


KINDS: tuple[Kind, ...] = (
    *(_missing, _doubled, _moved, _mirrored, _exchanged, _replaced, _recoloured, _border_moved),
)  # fmt: skip


def _upper_border_moved(rgb: RGB, mask: Mask, x: int, y: int, by: float) -> RGB | None:
    """The picture with the upper border of a part `by` pixels lower, what lies near above and below it stretched."""
    h, w = mask.shape
    there = mask.any(0)
    tops = np.where(there, y + mask.argmax(0), np.nan)
    level = float(np.nanmedian(tops))
    reach = 1.7 * abs(by) + 3
    upper, lower = int(np.floor(level - reach)), int(np.ceil(level + reach))
    flat = there & (np.abs(np.nan_to_num(tops, nan=-1e6) - level) <= max(2.0, 0.1 * h))
    if upper < 0 or lower >= rgb.shape[0] or flat.sum() < max(4, 0.4 * w):
        return None
    rows = np.arange(upper, lower + 1, dtype=np.float32)
    source = np.interp(rows, [upper, level + by, lower], [0, level - upper, lower - upper]).astype(np.float32)
    band = np.asarray(rgb[upper : lower + 1, x : x + w])
    columns = np.broadcast_to(np.arange(w, dtype=np.float32), band.shape[:2])
    stretched = cv2.remap(
        np.ascontiguousarray(band), columns.copy(), np.repeat(source[:, None], w, 1), cv2.INTER_LINEAR
    )
    out = rgb.copy()
    out[upper : lower + 1, x : x + w] = np.where(flat[None, :, None], stretched, band)
    return out


def _of_one_colour(part: Part, *pictures: RGB) -> Mask | None:
    """A part and what adjoins it in the part's colour, in each picture (H, W, 3): (H, W). None for a part of many colours.

    No edge of its own gives it away then: a liquid has one colour, whatever squares of it were found to be a part.
    """
    alone = np.zeros(pictures[0].shape[:2], np.bool_)
    alone[box_of(part)] = part.mask
    like = np.ones_like(alone)
    for picture in pictures:
        usual = np.median(picture[box_of(part)][part.mask][::5], axis=0)
        lowest, highest = (np.clip(usual + by, 0, 255).astype(np.uint8) for by in (-LIKE, LIKE))
        like &= cv2.inRange(picture, lowest, highest) > 0
    closed = cv2.morphologyEx(like.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    _, areas = cv2.connectedComponents(closed, connectivity=4)
    share = np.bincount(areas[alone & (closed > 0)], minlength=int(areas.max()) + 1) / max(1, int(alone.sum()))
    share[0] = 0
    if share.max() < 0.5:
        return None
    whole = (areas == int(share.argmax())).astype(np.uint8)
    if whole.mean() > LARGEST:
        return None
    return np.asarray(cv2.dilate(whole, np.ones((3, 3), np.uint8)) > 0)  # half of a soft edge has its colour


def _any(parts: Parts, rng: np.random.Generator) -> Part:
    return parts.parts[int(rng.integers(len(parts)))]


def _step(rgb: RGB, parts: Parts, size: float, rng: np.random.Generator) -> float:
    """How far something of this size moves, pixels: beyond where good parts lie, and up to its size."""
    least = max(FURTHER * parts.reach, LEAST_MOVED * max(rgb.shape[:2]))
    return float(rng.uniform(least, max(size, 2 * least)))


def _apart(a: Part, b: Part) -> bool:
    """Whether the boxes of two parts do not overlap."""
    (aw, ah), (bw, bh) = a.size, b.size
    return a.x >= b.x + bw or b.x >= a.x + aw or a.y >= b.y + bh or b.y >= a.y + ah
