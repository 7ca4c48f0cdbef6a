"""Rehearsal: the difference head learns again from what the teacher said of recent pictures (Robins, 1995; replay, Lin, 1992).

The teacher does not change, so neither does what it says of a picture. Drawing a picture with its defects and asking the
teacher cost more than a step of the head; kept maps make further steps of the head alone cheap, and the head is what learns
slowest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RECENT = 12  # batches whose maps are kept; some 230 MB in bfloat16 at the default size
REHEARSALS = 2  # further steps of the head after each step of the training


class Seen(NamedTuple):
    """What the head learns from: a batch, or one picture of it."""

    maps: tuple[Tensor, ...]  # four, (B, C, H / stride, W / stride) each, see `vtad.difference.CHANNELS`
    share: Tensor  # (B, rows, columns), of each cell that is damaged


class Rehearsal:
    """The recent batches, and batches of pictures drawn at random from them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.recent: deque[Seen] = deque(maxlen=RECENT)

    def batches(self, step: int) -> Iterator[Seen]:
        """`REHEARSALS` batches as large as the recent ones, by the seed and the step; none as long as none are kept."""
        rng = np.random.default_rng((self.seed, 6, step))
        if not self.recent:
            return
        size = len(self.recent[0].share)
        for _ in range(REHEARSALS):
            batch, row = rng.integers(len(self.recent), size=size), rng.integers(size, size=size)
            drawn = [self.recent[b] for b in batch]
            maps = zip(*([m[r : r + 1] for m in seen.maps] for seen, r in zip(drawn, row, strict=True)), strict=True)
            share = [seen.share[r : r + 1] for seen, r in zip(drawn, row, strict=True)]
            yield Seen(tuple(map(torch.cat, maps)), torch.cat(share))
