"""Which pictures a step learns from, and how they are shown: a function of the seed and the step, nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtad.config import Config, symmetry_names
from vtad.data.augmentation import shifted_and_zoomed
from vtad.data.images import ImageCache
from vtad.data.synthetic_defects import corrupt_batch
from vtad.fitting.symmetries import vary

WHOLE = 4  # one image in so many stays whole: most pictures that are judged are good ones


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
    """The training images, shuffled anew in each epoch, under symmetries, shifted and with synthetic defects."""

    def __init__(self, config: Config, images: ImageCache) -> None:
        self.config, self.images = config, images
        self.symmetries = symmetry_names(config.symmetries)
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
        clean = vary(self.images[[index]], self.symmetries, rng)
        shifted = rng.random(1) < self.config.shift_and_zoom
        if shifted:
            clean = shifted_and_zoomed(clean, rng)
        if not self.config.synthetic_defects or row % WHOLE == WHOLE - 1:
            return shifted, clean, clean, np.zeros(clean.shape[:3], np.bool_)
        return shifted, clean, *corrupt_batch(clean, self.images, rng)
