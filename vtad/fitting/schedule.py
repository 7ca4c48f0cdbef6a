"""How long a training lasts, and how fast it learns meanwhile."""

from __future__ import annotations

import math

from vtad.config import Config
from vtad.fitting.checkpoint import Progress

VALIDATION_STEPS = 120  # at least so many steps lie between two validations


class Schedule:
    """The end of a training by epochs, minutes or patience; its learning rate; when to validate."""

    def __init__(self, config: Config, steps_an_epoch: int) -> None:
        self.config, self.steps_an_epoch = config, steps_an_epoch
        self.validate_every = math.ceil(VALIDATION_STEPS / steps_an_epoch)  # epochs

    def fraction(self, at: Progress) -> float:
        """Of the training that is done, 0..1."""
        if self.config.epochs is not None:
            return at.step / (self.config.epochs * self.steps_an_epoch)
        assert self.config.minutes is not None
        return min(1.0, at.seconds / (60 * self.config.minutes))

    def rate(self, at: Progress) -> float:
        """The learning rate: linear warm-up, then half a cosine down to zero."""
        warm = min(1.0, (at.step + 1) / self.config.warmup) if self.config.warmup else 1.0
        return self.config.learning_rate * (warm * 0.5 * (1 + math.cos(math.pi * self.fraction(at))))

    def done(self, at: Progress) -> bool:
        """Whether the time, the epochs or the patience have ended."""
        return self.fraction(at) >= 1 or at.stale >= self.config.patience

    def validates(self, at: Progress) -> bool:
        """Whether the weights at the end of this epoch are validated."""
        return at.epoch % self.validate_every == 0 or self.fraction(at) >= 1
