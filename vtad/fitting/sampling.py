"""Which pictures a step learns from, and how they are shown: a function of the seed and the step, nothing else."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtad.config import Config, symmetry_names
from vtad.data.augmentation import shifted_and_zoomed
from vtad.data.images import ImageCache
from vtad.data.registration import shift_of
from vtad.defects.damage import corrupt_batch, difference
from vtad.defects.parts import NONE, Parts
from vtad.defects.relation import break_relation
from vtad.fitting.symmetries import vary

WHOLE = 4  # one image in so many stays whole: most pictures that are judged are good ones
RELATION = 0.3  # share of the others that get a defect of relation, where good pictures have aligned parts


class Batch(NamedTuple):
    """What one step learns from, or the share of it that one of several processes sees."""

    rows: NDArray[np.int64]  # (B,), ascending, in the whole batch
    size: int  # of the whole batch
    indices: NDArray[np.int64]  # (B,), of the pictures
    shifted: NDArray[np.bool_]  # (B,), whether an image is shifted and zoomed
    clean: NDArray[np.uint8]  # (B, H, W, 3)
    corrupted: NDArray[np.uint8]  # (B, H, W, 3)
    damaged: NDArray[np.bool_]  # (B, H, W)


class BatchSampler:
    """The training images, shuffled anew in each epoch, under symmetries, shifted and with synthetic defects.

    `parts` are those of the images, once they are found: without them there are no defects of relation.
    """

    def __init__(self, config: Config, images: ImageCache, parts: Parts = NONE) -> None:
        self.config, self.images, self.parts = config, images, parts
        self.symmetries = symmetry_names(config.symmetries)
        self.shift = shift_of(config)
        self.batch_size = min(config.batch_size, len(images))
        self.steps_an_epoch = len(images) // self.batch_size

    def draw(self, step: int, mine: slice = slice(None)) -> Batch:
        """The batch of a step, or these rows of it; steps number from 0 over all epochs.

        A row is drawn by itself: it is the same whichever others are drawn with it.
        """
        epoch, within = divmod(step, self.steps_an_epoch)
        order = np.random.default_rng((self.config.seed, 1, epoch)).permutation(len(self.images))
        rows = np.arange(self.batch_size)[mine]
        indices = order[within * self.batch_size + rows]
        shown = [self._shown(index, step, row) for index, row in zip(indices, rows, strict=True)]
        shifted, clean, corrupted, damaged = (np.concatenate(part) for part in zip(*shown, strict=True))
        return Batch(rows, self.batch_size, indices, shifted, clean, corrupted, damaged)

    def _shown(self, index: int, step: int, row: int) -> tuple[NDArray[Any], ...]:
        """Of one picture, each (1, ...): whether it is shifted; clean, corrupted, damaged."""
        rng = np.random.default_rng((self.config.seed, 2, step, row))
        as_it_is = self.images[[index]]
        whole = not self.config.synthetic_defects or row % WHOLE == WHOLE - 1
        broken = None
        if len(self.parts) and not whole and rng.random() < RELATION:
            donor = self.images[int(rng.integers(len(self.images)))]
            broken = break_relation(as_it_is[0], donor, self.parts, rng)
        same = deepcopy(rng)
        shifted, clean = self._seen(as_it_is, rng)
        if whole:
            return shifted, clean, clean, np.zeros(clean.shape[:3], np.bool_)
        if broken is not None:  # parts are where they are before a picture is turned and shifted
            corrupted = self._seen(broken[0][None], same)[1]
            return shifted, clean, corrupted, difference(clean[0], corrupted[0])[None]
        return shifted, clean, *corrupt_batch(clean, self.images, rng)

    def _seen(self, images: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """A picture (1, H, W, 3) under a random symmetry, and shifted at random: whether it is, and how it looks."""
        varied = vary(images, self.symmetries, rng)
        shifted = rng.random(1) < self.config.shift_and_zoom
        return shifted, shifted_and_zoomed(varied, self.shift, rng) if shifted else varied
