"""Which pictures a step learns from, and how they are shown: a function of the seed and the step, nothing else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtad.config import Config, symmetry_names
from vtad.data.augmentation import shifted_and_zoomed
from vtad.data.images import ImageCache
from vtad.data.synthetic_defects import corrupt_batch
from vtad.fitting.symmetries import vary

WHOLE = 4  # one image in so many stays whole: most pictures that are judged are good ones


class Batch(NamedTuple):
    """What one step learns from."""

    indices: NDArray[np.int64]  # (B,)
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

    def draw(self, step: int) -> Batch:
        """The batch of a step; steps number from 0 over all epochs."""
        epoch, within = divmod(step, self.steps_an_epoch)
        order = np.random.default_rng((self.config.seed, 1, epoch)).permutation(len(self.images))
        indices = order[within * self.batch_size : (within + 1) * self.batch_size]
        rng = np.random.default_rng((self.config.seed, 2, step))
        clean = vary(self.images[indices], self.symmetries, rng)
        shifted = rng.random(len(clean)) < self.config.shift_and_zoom
        clean[shifted] = shifted_and_zoomed(clean[shifted], rng)
        if not self.config.synthetic_defects:
            return Batch(indices, shifted, clean, clean, np.zeros(clean.shape[:3], np.bool_))
        corrupted, damaged = corrupt_batch(clean, self.images, rng)
        whole = np.arange(len(clean)) % WHOLE == WHOLE - 1
        corrupted[whole], damaged[whole] = clean[whole], False
        return Batch(indices, shifted, clean, corrupted, damaged)
