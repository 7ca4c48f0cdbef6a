"""The training loop: steps, validation, checkpoints, and when to stop.

A step is a function of the seed and the step's number, nothing else, so a training that was stopped and resumed gives the
same weights as one that was not.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtad.backbones.pretrained import Pretrained
from vtad.config import Config
from vtad.data.images import ImageCache, evenly
from vtad.defects.parts import Parts
from vtad.fitting.aligned_parts import aligned_parts
from vtad.fitting.checkpoint import Progress, load, save
from vtad.fitting.device import bfloat16_gains
from vtad.fitting.distributed import ALONE, Ended, Processes
from vtad.fitting.feature_statistics import Samples, fit_statistics, observed_features
from vtad.fitting.learner import Learner
from vtad.fitting.sampling import BatchSampler
from vtad.fitting.schedule import Schedule
from vtad.fitting.symmetries import STATISTICS_VIEWS, Views
from vtad.fitting.validation import Validation
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector
from vtad.models.features import BackboneFeatures
from vtad.run_folder import Run, RunError, append_line, replacing
from vtad_runtime.contract.errors import FAILED, VtadError

VALIDATION_IMAGES = 64  # at most so many held-out images decide about stopping, spread evenly


class TrainingError(VtadError):
    """The training diverged. The message is one line."""

    exit_code = FAILED


class Interrupted(VtadError):
    """The training was stopped from outside; its checkpoint is written."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"stopped; continue by: vtad-train --resume --run {shlex.quote(str(run.path))}")
        self.run = run


@dataclass(frozen=True)
class Report:
    """How far training is, reported after each step and each validation."""

    fraction: float  # of the training that is done, 0..1
    text: str  # one line
    lasting: bool  # worth a line of its own where there is no terminal


Reporter = Callable[[Report], None]
Validated = Callable[
    [Detector, float], None
]  # gets the detector as it is, and the fraction of the training that is done


class Loop:
    """One training, from where it stands to its end. `begun` and `resumed` make one.

    Of several processes every one has its own, and the first writes.
    """

    def __init__(
        self,
        run: Run,
        learner: Learner,
        sampler: BatchSampler,
        held_out: ImageCache,
        at: Progress,
        best: dict[str, Tensor],
        samples: Samples | None = None,
    ) -> None:
        self.run, self.learner, self.sampler, self.processes = run, learner, sampler, learner.processes
        self.schedule = Schedule(learner.config, sampler.steps_an_epoch)
        self.validation = Validation(
            learner, held_out[evenly(len(held_out), VALIDATION_IMAGES)], sampler.batch_size, sampler.parts
        )
        # What the scorers were fitted on, in the process that did it; None of a training that goes on.
        self.samples = samples
        self.at, self.best = at, best  # the progress, and the weights with the least validation loss so far

    def learn(
        self, report: Reporter, stop: Callable[[], bool], validated: Validated = lambda detector, fraction: None
    ) -> None:
        """Steps until the schedule ends; the best weights are in place afterwards. `stop` is called after each step.

        `validated` is called after each validation except the last one; what it raises ends the training there.
        Raises TrainingError, WriteError, and Interrupted with a checkpoint written.
        """
        at, started, mine = self.at, time.perf_counter() - self.at.seconds, self.processes.share
        if self.sampler.parts.note:
            report(Report(self.schedule.fraction(at), self.sampler.parts.note, lasting=True))
        with ThreadPoolExecutor(1) as pool:  # the next batch is drawn while this one is learnt from
            following = pool.submit(self.sampler.draw, at.step, mine)
            while not self.schedule.done(at):
                batch, following = following.result(), pool.submit(self.sampler.draw, at.step + 1, mine)
                loss = self.learner.learn(batch, at.step, self.schedule.rate(at))
                self._require_number(loss.total.item())
                at.sums = tuple(total + part.item() for total, part in zip(at.sums, loss, strict=True))
                at.step += 1
                at.seconds = self.processes.clock(time.perf_counter() - started)
                report(Report(self.schedule.fraction(at), f"epoch {at.epoch + 1}", lasting=False))
                if at.step % self.sampler.steps_an_epoch == 0 and self._end_epoch(report):
                    self.processes.of_first(lambda: validated(self.learner.detector, self.schedule.fraction(at)))
                if self.processes.any(stop()):
                    self._save()
                    raise Interrupted(self.run)
        if at.step % self.sampler.steps_an_epoch:  # the time ended within an epoch: its weights have not been validated
            self._validate()
        self.learner.model.load_state_dict(self.best, strict=False)

    def _end_epoch(self, report: Reporter) -> bool:
        """Whether the weights were validated, and there is more to learn."""
        at = self.at
        at.epoch += 1
        total, mse, ssim, nll, segmentation = (part / self.sampler.steps_an_epoch for part in at.sums)
        at.sums = Progress.sums
        row: dict[str, Any] = {
            "epoch": at.epoch,
            "step": at.step,
            "seconds": round(at.seconds, 3),
            "learning_rate": self.schedule.rate(at),
            "bfloat16": at.autocast,
            "loss": total,
            "mse": mse,
            "ssim": ssim,
            "nll": nll,
            "segmentation_loss": segmentation,
        }
        if not self.schedule.validates(at):
            self._write(row)
            return False
        loss, better = self._validate()
        row |= {"val_loss": loss, "best": better}
        if self.processes.first:
            row |= self.validation.token_norms()
        self._write(row)
        self._save()
        parts = f"mse {mse:.4f}  1-ssim {ssim:.3f}  nll {nll:.3f}  segmentation {segmentation:.3f}"
        text = f"epoch {at.epoch}  loss {total:.4f}  {parts}  validation {loss:.4f}" + (" (best)" if better else "")
        report(Report(self.schedule.fraction(at), text, lasting=True))
        return not self.schedule.done(at)

    def _validate(self) -> tuple[float, bool]:
        """The validation loss, and whether it is the least so far; then the weights are kept."""
        loss = self.validation.loss()
        self._require_number(loss)
        better = loss < self.at.best_loss
        if better:
            self.at.best_loss, self.at.stale = loss, 0
            state = self.learner.model.state_dict()
            self.best = {k: v.detach().clone() for k, v in state.items() if not k.startswith("features.backbone.")}
        else:
            self.at.stale += 1
        return loss, better

    def _require_number(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        raise (TrainingError if self.processes.first else Ended)(
            f"{self.run.path}: the loss is not a number at step {self.at.step}: lower --learning-rate "
            f"(it is {self.learner.config.learning_rate:g})"
        )

    def _write(self, row: dict[str, Any]) -> None:
        self.processes.of_first(lambda: append_line(self.run.metrics, row))

    def _save(self) -> None:
        self.processes.of_first(
            lambda: save(self.run.checkpoint, self.learner.detector, self.best, self.learner.optimizer, self.at)
        )


def begun(
    config: Config,
    run: Run,
    detector: Detector,
    images: ImageCache,
    held_out: ImageCache,
    device: torch.device,
    pretrained: Pretrained | None,
    data_fingerprint: str,
    processes: Processes = ALONE,
) -> Loop:
    """A new training: the backbone's weights and the statistics of the images are in place."""
    sampler = BatchSampler(config, images)
    learner = Learner(config, detector, sampler.batch_size, device, processes)

    samples: Samples | None = None

    def fit() -> None:
        nonlocal samples
        if isinstance(learner.model, Autoencoder):
            if isinstance(learner.model.features, BackboneFeatures) and pretrained is not None:
                learner.model.features.load_pretrained(pretrained)
            views = Views(images, sampler.symmetries, STATISTICS_VIEWS)
            samples = fit_statistics(learner.model, views, device, sampler.shift)

    processes.of_first(fit)
    processes.take_over(detector)
    sampler.parts = _parts(learner, sampler)
    learner.observed = _observed(learner, sampler)
    first = sampler.draw(0)
    learner.autocast = processes.of_first(
        lambda: bfloat16_gains(device, lambda bfloat16: learner.try_out(first, bfloat16))
    )
    at = Progress(autocast=learner.autocast, data_fingerprint=data_fingerprint)
    return Loop(run, learner, sampler, held_out, at, {}, samples)


def resumed(
    config: Config,
    run: Run,
    detector: Detector,
    images: ImageCache,
    held_out: ImageCache,
    device: torch.device,
    data_fingerprint: str,
    processes: Processes = ALONE,
) -> Loop:
    """A training that was stopped, as its checkpoint has it. Raises RunError, also where the images are others."""
    sampler = BatchSampler(config, images)
    learner = Learner(config, detector, sampler.batch_size, device, processes)

    def read() -> tuple[dict[str, Tensor], Progress]:
        best, at = load(run.checkpoint, detector, learner.optimizer)
        if at.data_fingerprint != data_fingerprint:
            raise RunError(
                f"{run.path}: the good images are not those that this training began with: "
                "bring them back, or train a new run without --resume"
            )
        _forget_later_rows(run, at)
        return best, at

    best, at = processes.of_first(read)
    processes.take_over(detector, learner.optimizer)
    learner.autocast = at.autocast
    sampler.parts = _parts(learner, sampler)
    for step in range(max(0, at.step - learner.replay.length), at.step):
        learner.remember(sampler.draw(step, processes.share))
    learner.observed = _observed(learner, sampler)
    return Loop(run, learner, sampler, held_out, at, best)


def _parts(learner: Learner, sampler: BatchSampler) -> Parts:
    """Of all images, which the first process looks for."""
    return learner.processes.of_first(lambda: aligned_parts(learner.model, sampler.images, learner.device))


def _observed(learner: Learner, sampler: BatchSampler) -> Tensor | None:
    """Features of all images as they are; None where there is no use for them, or no room."""
    if not isinstance(learner.model, Autoencoder) or sampler.symmetries:
        return None
    return observed_features(learner.model, sampler.images, learner.device)


def _forget_later_rows(run: Run, at: Progress) -> None:
    """Rows of metrics.jsonl that were written after the checkpoint."""
    if not run.metrics.is_file():
        return
    rows = run.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    with replacing(run.metrics) as beside:
        beside.write_text("".join(rows[: at.epoch]), encoding="utf-8")
