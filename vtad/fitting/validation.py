"""How good the weights are: their loss on held-out images with synthetic defects that stay the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad.defects.damage import corrupt_batch, difference
from vtad.defects.parts import Parts
from vtad.defects.relation import synthetic_relation
from vtad.fitting.learner import Learner
from vtad.fitting.sampling import RELATION
from vtad.models.autoencoder import Autoencoder


class Validation:
    """Held-out images, corrupted once. Of several processes each sees some of the batches."""

    def __init__(self, learner: Learner, held_out: NDArray[np.uint8], batch_size: int, parts: Parts) -> None:
        self.learner = learner
        self.batches = list(_batches(learner, held_out, batch_size, parts))

    @torch.no_grad()
    def loss(self) -> float:
        """The mean over the images, of the weights as they are."""
        self.learner.model.eval()
        losses = [(self.learner.loss(*batch)[1].total.item(), len(batch[0])) for batch in self.batches]
        sums = torch.tensor([[value * n, n] for value, n in losses], dtype=torch.float64).reshape(-1, 2).sum(0)
        self.learner.processes.add([sums])
        return float(sums[0] / sums[1])

    def token_norms(self) -> dict[str, float]:
        """As the model's `token_norms`, on the first images."""
        return self.learner.model.token_norms(self.batches[0][1])


def _batches(
    learner: Learner, clean: NDArray[np.uint8], size: int, parts: Parts
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    """What `Learner.loss` takes."""
    rng = np.random.default_rng((learner.config.seed, 3))
    model = learner.model
    mine = set(range(0, len(clean), size)[learner.processes.share])
    broken, of = synthetic_relation(clean, parts, round(RELATION * len(clean)), learner.config.seed)
    for i in range(0, len(clean), size):
        part = clean[i : i + size]
        corrupted, damaged = part, np.zeros(part.shape[:3], np.bool_)
        if learner.config.synthetic_defects:
            corrupted, damaged = corrupt_batch(part, clean, rng)
            for picture, number in zip(broken, of - i, strict=True):
                if 0 <= number < len(part):
                    corrupted[number], damaged[number] = picture, difference(part[number], picture)
        if i not in mine:
            continue
        pixels = learner.pixels(part)
        with torch.no_grad():
            observed = model.observe(pixels) if isinstance(model, Autoencoder) else None
        yield learner.pixels(corrupted), pixels, observed, learner.share(damaged)
