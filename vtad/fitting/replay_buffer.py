"""Experience replay (Lin, 1992): the segmentation head learns again from the backbone's maps of recent pictures.

The backbone does not change, so its maps of a picture stay right. Drawing a picture with its defects and running the backbone
cost more than a step of the head, which learns slowest. Kept maps make further steps of the head alone cheap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RECENT = 96  # pictures whose maps are kept: some 230 MB in bfloat16 at the default size
REPLAYS = 2  # further steps of the head after each step of the training
PICTURES = 8  # of each


class Seen(NamedTuple):
    """What the head learns from: a batch, or the share of one that a process has seen."""

    maps: tuple[Tensor, ...]  # four, (B, C, H / stride, W / stride) each, see `vtad.backbones.backbone.MAP_CHANNELS`
    share: Tensor  # (B, rows, columns), of each cell that is damaged


class ReplayBuffer:
    """The recent batches, and batches of pictures drawn at random from them.

    Where several processes share the batches, each keeps the pictures that it has seen and replays those among the drawn ones.
    """

    def __init__(self, seed: int, batch_size: int, mine: slice = slice(None)) -> None:
        """`mine`: the rows of a batch that are kept."""
        self.seed, self.batch_size = seed, batch_size
        self._places = {row: i for i, row in enumerate(range(batch_size)[mine])}
        self.length = max(1, RECENT // batch_size)  # batches that are kept
        self.recent: deque[Seen] = deque(maxlen=self.length)

    def batches(self, step: int) -> Iterator[tuple[Seen, float]]:
        """`REPLAYS` batches of `PICTURES`, by the seed and the step; none before any was seen.

        Each is what is kept of its pictures, and what one of them weighs in the mean over all: where none is kept, another
        picture that weighs nothing.
        """
        rng = np.random.default_rng((self.seed, 6, step))
        if not self.recent:
            return
        for _ in range(REPLAYS):
            drawn = [self._kept(self.recent[i], rng) for i in rng.integers(len(self.recent), size=PICTURES)]
            maps = zip(*(seen.maps for seen in drawn), strict=True)
            kept = Seen(tuple(map(torch.cat, maps)), torch.cat([seen.share for seen in drawn]))
            yield (kept, 1 / PICTURES) if len(kept.share) else (_row(self.recent[0], 0), 0.0)

    def _kept(self, batch: Seen, rng: np.random.Generator) -> Seen:
        """One picture of a batch, as a batch of one; of none where it is not kept."""
        return _row(batch, self._places.get(int(rng.integers(self.batch_size))))


def _row(batch: Seen, row: int | None) -> Seen:
    one = slice(0, 0) if row is None else slice(row, row + 1)
    return Seen(tuple(m[one] for m in batch.maps), batch.share[one])
