"""The training loop: steps, validation, checkpoints, and when to stop.

A step is a function of the seed and the step's number, nothing else, so a training that was stopped and resumed gives the
same weights as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad.config import Config, symmetry_names
from vtad.data.augmentation import shifted_and_zoomed
from vtad.data.images import ImageCache
from vtad.data.synthetic_defects import corrupt_batch
from vtad.fitting.checkpoint import Progress, load, save
from vtad.fitting.device import bfloat16_gains
from vtad.fitting.feature_statistics import fit_statistics, observed_features
from vtad.fitting.replay_buffer import ReplayBuffer, Seen
from vtad.fitting.symmetries import Views, vary
from vtad.models.autoencoder import Autoencoder, BackboneFeatures, Prediction
from vtad.models.detector import Detector
from vtad.models.losses import Loss, objective
from vtad.models.paper import PaperAutoencoder
from vtad.models.segmentation_head import damaged_share, segmentation_loss
from vtad.run_folder import Run, RunError, append_line, replacing
from vtad_runtime.contract.errors import FAILED, VtadError

VALIDATION_STEPS = 120  # at least so many steps lie between two validations
VALIDATION_IMAGES = 64  # at most so many held-out images decide about stopping
CLIP_NORM = 1.0  # of the gradient
WHOLE = 4  # one image in so many stays whole: most pictures that are judged are good ones
AUTOENCODER_IMAGES = 2  # of a batch go through the transformer, whose step costs more than the segmentation head's
STATISTICS_VIEWS = 400  # images under their symmetries that statistics are taken from, unless there are more images


class TrainingError(VtadError):
    """The training diverged. The message is one line."""

    exit_code = FAILED


class Interrupted(VtadError):
    """The training was asked to stop; its checkpoint is written."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"stopped; continue by: vtad-train --resume --run {run.path}")
        self.run = run


@dataclass(frozen=True)
class Report:
    """What training says now and then."""

    fraction: float  # of the training that is done, 0..1
    text: str  # one line
    lasting: bool  # worth a line of its own where there is no terminal


Reporter = Callable[[Report], None]


class Batch(NamedTuple):
    """What one step learns from."""

    indices: NDArray[np.int64]
    shifted: NDArray[np.bool_]  # (B,), whether an image is not seen as it is
    clean: NDArray[np.uint8]  # (B, H, W, 3)
    corrupted: NDArray[np.uint8]  # (B, H, W, 3)
    damaged: NDArray[np.bool_]  # (B, H, W)


class Loop:
    """One training: the state that steps share."""

    def __init__(
        self,
        config: Config,
        run: Run,
        detector: Detector,
        images: ImageCache,
        held_out: ImageCache,
        device: torch.device,
        report: Reporter,
        stop: Callable[[], bool],
    ) -> None:
        self.config, self.run, self.device = config, run, device
        self.images, self.held_out = images, held_out
        self.report, self.stop = report, stop
        self.detector = detector
        self.model = cast(Autoencoder | PaperAutoencoder, detector.model)
        self.symmetries = symmetry_names(config.symmetries)
        self.batch_size = min(config.batch_size, len(images))
        self.steps_an_epoch = len(images) // self.batch_size
        self.validate_every = math.ceil(VALIDATION_STEPS / self.steps_an_epoch)  # epochs
        self.replay = ReplayBuffer(config.seed, self.batch_size)
        self.at = Progress()
        self.best: dict[str, Tensor] = {}

    def prepare(self, data_fingerprint: str, resumed: bool) -> None:
        """Backbone, statistics, optimizer; or all of it from the checkpoint."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(trainable, self.config)
        self.observed: Tensor | None = None
        if resumed:
            self.best, self.at = load(self.run.checkpoint, self.detector, self.optimizer)
            if self.at.data_fingerprint != data_fingerprint:
                raise RunError(
                    f"{self.run.path}: the good images are not those that this training began with: "
                    "bring them back, or train a new run without --resume"
                )
            self._forget_later_rows()
            self._recall()
        else:
            self.at.data_fingerprint = data_fingerprint
            if isinstance(self.model, Autoencoder):
                if isinstance(self.model.features, BackboneFeatures):
                    self.model.features.load_pretrained(self.config)
                views = Views(self.images, self.symmetries, STATISTICS_VIEWS)
                fit_statistics(self.model, cast(Any, views), self.device)
        if isinstance(self.model, Autoencoder) and not self.symmetries:
            self.observed = observed_features(self.model, cast(Any, self.images), self.device)
        if not resumed:
            first = self._draw(0)
            self.at.autocast = bfloat16_gains(self.device, lambda bfloat16: self._try(first, bfloat16))
        clean = self.held_out[:VALIDATION_IMAGES]
        self.validation = list(self._validation_batches(clean))

    def learn(self) -> None:
        """Steps until the time, the epochs or the patience end; the best weights are in place afterwards."""
        started = time.perf_counter() - self.at.seconds
        with ThreadPoolExecutor(1) as pool:  # the next batch is drawn while this one is learnt from
            following = pool.submit(self._draw, self.at.step)
            while not self._done():
                batch, following = self._next(pool, following)
                loss = self._step(batch)
                self.at.sums = tuple(total + part.item() for total, part in zip(self.at.sums, loss, strict=True))
                self.at.step += 1
                self.at.seconds = time.perf_counter() - started
                self.report(Report(self._fraction(), f"epoch {self.at.epoch + 1}", lasting=False))
                if self.at.step % self.steps_an_epoch == 0:
                    self._end_epoch()
                if self.stop():
                    self._save()
                    raise Interrupted(self.run)
        if self.at.step % self.steps_an_epoch:  # an epoch that ended with the time: its weights have not been validated
            self._validate()
        self.model.load_state_dict(self.best, strict=False)

    def _next(self, pool: ThreadPoolExecutor, ready: Future[Batch]) -> tuple[Batch, Future[Batch]]:
        return ready.result(), pool.submit(self._draw, self.at.step + 1)

    def _draw(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_an_epoch)
        order = np.random.default_rng((self.config.seed, 1, epoch)).permutation(len(self.images))
        indices = order[place * self.batch_size : (place + 1) * self.batch_size]
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

    def _step(self, batch: Batch) -> Loss:
        rate = self.config.learning_rate * self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        share = self._share(batch.damaged)
        prediction, loss = self._look(batch, share)
        self._require_number(loss.total.item())
        self._descend(loss.total)
        if prediction.maps:
            self._replay()
            self.replay.recent.append(Seen(prediction.maps, share))
        return loss

    def _look(self, batch: Batch, share: Tensor) -> tuple[Prediction, Loss]:
        torch.manual_seed(hash((self.config.seed, self.at.step)) & 0x7FFFFFFF)
        self.model.train()
        few = slice(self._through_autoencoder(len(batch.indices)))
        observed = self._observed(batch, few)
        return self._judge(self._pixels(batch.corrupted), self._pixels(batch.clean[few]), observed, share)

    def _try(self, batch: Batch, bfloat16: bool) -> None:
        """A step, but for its last part: nothing is learnt."""
        self.at.autocast = bfloat16
        self._look(batch, self._share(batch.damaged))[1].total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # what this loss does not depend on stays as it is
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()

    def _replay(self) -> None:
        """Further steps of the segmentation head alone."""
        head = cast(Autoencoder, self.model).backbone_head
        assert head is not None
        for maps, share in self.replay.batches(self.at.step):
            with self._autocast():
                logits = head(maps)
            self._descend(segmentation_loss(logits.float(), share))

    def _recall(self) -> None:
        """What the backbone said of the last batches before a training stopped, computed again."""
        if not isinstance(self.model, Autoencoder) or self.model.backbone_head is None:
            return
        for step in range(max(0, self.at.step - self.replay.length), self.at.step):
            batch = self._draw(step)
            with torch.no_grad(), self._autocast():
                _, maps = self.model.known(self._pixels(batch.corrupted))
            self.replay.recent.append(Seen(maps, self._share(batch.damaged)))

    def _observed(self, batch: Batch, few: slice) -> Tensor | None:
        """Whitened features of some clean images of a batch; None where none are kept."""
        if self.observed is None:
            return None
        observed = self.observed[batch.indices[few]].to(self.device)
        shifted = np.flatnonzero(batch.shifted[few])
        if len(shifted):
            with torch.no_grad():
                observed[shifted] = cast(Autoencoder, self.model).observe(self._pixels(batch.clean[few][shifted]))
        return observed

    def _require_number(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.run.path}: the loss is not a number at step {self.at.step}: lower --learning-rate "
                f"(it is {self.config.learning_rate:g})"
            )

    def _through_autoencoder(self, images: int) -> int:
        """How many images of a batch the transformer learns from."""
        has_head = isinstance(self.model, Autoencoder) and self.model.segmentation_head is not None
        return min(AUTOENCODER_IMAGES, images) if has_head else images

    def _judge(
        self, corrupted: Tensor, clean: Tensor, observed: Tensor | None, share: Tensor
    ) -> tuple[Prediction, Loss]:
        with self._autocast():
            prediction = self.model.denoise(corrupted, clean, observed)
        loss = objective(prediction, clean, share, self.detector.ssim, self.model.density_dim, self.config)
        return prediction, loss

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.at.autocast)

    def _share(self, damaged: NDArray[np.bool_]) -> Tensor:
        """(B, H, W) -> damaged share of each cell."""
        return damaged_share(torch.from_numpy(damaged).to(self.device).float())

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255

    def _validation_batches(self, clean: NDArray[np.uint8]) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
        rng = np.random.default_rng((self.config.seed, 3))
        for i in range(0, len(clean), self.batch_size):
            part = clean[i : i + self.batch_size]
            corrupted, damaged = part, np.zeros(part.shape[:3], np.bool_)
            if self.config.synthetic_defects:
                corrupted, damaged = corrupt_batch(part, clean, rng)
            pixels = self._pixels(part)
            with torch.no_grad():
                observed = self.model.observe(pixels) if isinstance(self.model, Autoencoder) else None
            yield self._pixels(corrupted), pixels, observed, self._share(damaged)

    def _validate(self) -> tuple[float, bool]:
        """Loss on held-out images with fixed defects, and whether it is the best so far (then the weights are kept)."""
        self.model.eval()
        with torch.no_grad():
            losses = [(self._judge(*batch)[1].total.item(), len(batch[0])) for batch in self.validation]
        loss = sum(value * n for value, n in losses) / sum(n for _, n in losses)
        self._require_number(loss)
        better = loss < self.at.best_loss
        if better:
            self.at.best_loss, self.at.stale = loss, 0
            state = self.model.state_dict()
            self.best = {k: v.detach().clone() for k, v in state.items() if not k.startswith("features.backbone.")}
        else:
            self.at.stale += 1
        return loss, better

    def _end_epoch(self) -> None:
        self.at.epoch += 1
        means = [total / self.steps_an_epoch for total in self.at.sums]
        self.at.sums = Progress.sums
        validate = self.at.epoch % self.validate_every == 0 or self._fraction() >= 1
        row: dict[str, Any] = {
            "epoch": self.at.epoch,
            "step": self.at.step,
            "seconds": round(self.at.seconds, 3),
            "learning_rate": self.config.learning_rate * self._rate(),
            "bfloat16": self.at.autocast,
            **dict(zip(("loss", "mse", "ssim", "nll", "segmentation_loss"), means, strict=True)),
        }
        parts = f"mse {means[1]:.4f}  1-ssim {means[2]:.3f}  nll {means[3]:.3f}  segmentation {means[4]:.3f}"
        text = f"epoch {self.at.epoch}  loss {means[0]:.4f}  {parts}"
        if validate:
            loss, better = self._validate()
            norms = self.model.token_norms(self.validation[0][1])
            row |= {"val_loss": loss, "best": better, **norms}
            text += f"  validation {loss:.4f}" + (" (best)" if better else "")
        append_line(self.run.metrics, row)
        if validate:
            self._save()
            self.report(Report(self._fraction(), text, lasting=True))

    def _save(self) -> None:
        save(self.run.checkpoint, self.detector, self.best, self.optimizer, self.at)

    def _fraction(self) -> float:
        if self.config.epochs is not None:
            return self.at.step / (self.config.epochs * self.steps_an_epoch)
        assert self.config.minutes is not None
        return min(1.0, self.at.seconds / (60 * self.config.minutes))

    def _rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero, as a share of the learning rate."""
        warm = min(1.0, (self.at.step + 1) / self.config.warmup) if self.config.warmup else 1.0
        return warm * 0.5 * (1 + math.cos(math.pi * self._fraction()))

    def _done(self) -> bool:
        return self._fraction() >= 1 or self.at.stale >= self.config.patience

    def _forget_later_rows(self) -> None:
        if not self.run.metrics.is_file():
            return
        rows = self.run.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        with replacing(self.run.metrics) as beside:
            beside.write_text("".join(rows[: self.at.epoch]), encoding="utf-8")


def make_optimizer(parameters: list[torch.nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """The optimizer that the configuration names."""
    rate, decay = config.learning_rate, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, rate, weight_decay=decay)
        case "adadelta":
            return torch.optim.Adadelta(parameters, rate, weight_decay=decay)
        case "adagrad":
            return torch.optim.Adagrad(parameters, rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, rate, weight_decay=decay)
