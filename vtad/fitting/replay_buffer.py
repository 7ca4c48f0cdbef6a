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
    """What the head learns from: a batch, or one picture of it."""

    maps: tuple[Tensor, ...]  # four, (B, C, H / stride, W / stride) each, see `vtad.backbones.backbone.MAP_CHANNELS`
    share: Tensor  # (B, rows, columns), of each cell that is damaged


class ReplayBuffer:
    """The recent batches, and batches of pictures drawn at random from them."""

    def __init__(self, seed: int, batch_size: int) -> None:
        self.seed = seed
        self.length = max(1, RECENT // batch_size)  # batches that are kept
        self.recent: deque[Seen] = deque(maxlen=self.length)

    def batches(self, step: int) -> Iterator[Seen]:
        """`REPLAYS` batches of `PICTURES`, by the seed and the step; none as long as none are kept."""
        rng = np.random.default_rng((self.seed, 6, step))
        if not self.recent:
            return
        for _ in range(REPLAYS):
            drawn = [_picture(self.recent[i], rng) for i in rng.integers(len(self.recent), size=PICTURES)]
            maps = zip(*(seen.maps for seen in drawn), strict=True)
            yield Seen(tuple(map(torch.cat, maps)), torch.cat([seen.share for seen in drawn]))


def _picture(batch: Seen, rng: np.random.Generator) -> Seen:
    """One of a batch, as a batch of one."""
    row = int(rng.integers(len(batch.share)))
    return Seen(tuple(m[row : row + 1] for m in batch.maps), batch.share[row : row + 1])
