"""One training step: a batch in, the weights a little better."""

from __future__ import annotations

from contextlib import ExitStack
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad.config import Config
from vtad.fitting.distributed import ALONE, Processes
from vtad.fitting.losses import Loss, Weights, objective
from vtad.fitting.replay_buffer import ReplayBuffer, Seen
from vtad.fitting.sampling import Batch
from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.detector import Detector
from vtad.models.paper import PaperAutoencoder
from vtad.models.segmentation_head import damaged_share, segmentation_loss

CLIP_NORM = 1.0  # of the gradient
AUTOENCODER_IMAGES = 2  # of a batch go through the transformer, whose step costs more than the segmentation head's


class Learner:
    """What learns: the model, its optimizer, and the replay buffer of its segmentation head.

    `observed`: whitened features of all training images as they are (N, D, rows, columns), where they are kept.
    """

    def __init__(
        self, config: Config, detector: Detector, batch_size: int, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self.config, self.detector, self.device, self.processes = config, detector, device, processes
        self.model = cast(Autoencoder | PaperAutoencoder, detector.model)
        self.optimizer = make_optimizer([p for p in self.model.parameters() if p.requires_grad], config)
        self.replay = ReplayBuffer(config.seed, batch_size, processes.share)
        self.autocast = False  # bfloat16
        self.observed: Tensor | None = None

    def learn(self, batch: Batch, step: int, rate: float) -> Loss:
        """Learn from this process's share of a batch, at this learning rate; the loss is the whole batch's.

        A loss that is not finite changes nothing.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        share = self.share(batch.damaged)
        prediction, loss = self._look(batch, share, step)
        of_all = torch.stack(loss).detach()
        self.processes.add([of_all])
        if not torch.isfinite(of_all[0]):
            return Loss(*of_all)
        self._descend(loss.total)
        if prediction.maps:
            self._replay(step)
            self.replay.recent.append(Seen(prediction.maps, share))
        return Loss(*of_all)

    def try_out(self, batch: Batch, bfloat16: bool) -> None:
        """A step except for its last part: nothing is learnt."""
        self.autocast = bfloat16
        self._look(batch, self.share(batch.damaged), 0)[1].total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)

    def remember(self, batch: Batch) -> None:
        """Put a batch into the replay buffer as `learn` did before a training stopped."""
        if not isinstance(self.model, Autoencoder) or self.model.backbone_head is None:
            return
        with torch.no_grad(), self._bfloat16():
            _, maps = self.model.known(self.pixels(batch.corrupted))
        self.replay.recent.append(Seen(maps, self.share(batch.damaged)))

    def loss(
        self,
        corrupted: Tensor,
        clean: Tensor,
        observed: Tensor | None,
        share: Tensor,
        weights: Weights | None = None,
    ) -> tuple[Prediction, Loss]:
        """Of corrupted images (B, 3, H, W), the clean ones, their features if known, and the damaged share of each cell.

        `weights` as `objective` has it.
        """
        with self._bfloat16():
            prediction = self.model.denoise(corrupted, clean, observed)
        dim = self.model.density_dim
        return prediction, objective(prediction, clean, share, self.detector.ssim, dim, self.config, weights)

    def pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """(B, H, W, 3) -> (B, 3, H, W) in 0..1 on the device."""
        return torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255

    def share(self, damaged: NDArray[np.bool_]) -> Tensor:
        """(B, H, W) -> damaged share of each cell."""
        return damaged_share(torch.from_numpy(damaged).to(self.device).float())

    def _look(self, batch: Batch, share: Tensor, step: int) -> tuple[Prediction, Loss]:
        torch.manual_seed(hash((self.config.seed, step)) & 0x7FFFFFFF)
        self.model.train()
        has_head = isinstance(self.model, Autoencoder) and self.model.segmentation_head is not None
        first = min(AUTOENCODER_IMAGES, batch.size) if has_head else batch.size  # of the whole batch
        mine = int((batch.rows < first).sum())
        few = slice(max(1, mine))  # a process that has none of them takes another picture, which weighs nothing
        clean, observed = self.pixels(batch.clean[few]), self._observed(batch, few)
        weights = Weights(1 / first if mine else 0.0, 1 / batch.size)
        with ExitStack() as noise:
            if isinstance(self.model, Autoencoder):
                rows = torch.from_numpy(batch.rows[few].clip(max=first - 1)).to(self.device)
                noise.enter_context(self.model.bottleneck.on_share(rows, first))
            return self.loss(self.pixels(batch.corrupted), clean, observed, share, weights)

    def _observed(self, batch: Batch, few: slice) -> Tensor | None:
        """Whitened features of some clean images of a batch; None where none are kept."""
        if self.observed is None:
            return None
        observed = self.observed[batch.indices[few]].to(self.device)
        shifted = np.flatnonzero(batch.shifted[few])
        if len(shifted):
            with torch.no_grad():
                observed[shifted] = cast(Autoencoder, self.model).observe(self.pixels(batch.clean[few][shifted]))
        return observed

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # what this loss does not depend on stays as it is
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.add([p.grad for p in self.model.parameters() if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()

    def _replay(self, step: int) -> None:
        """Further steps of the segmentation head alone."""
        head = cast(Autoencoder, self.model).backbone_head
        assert head is not None
        for (maps, share), weight in self.replay.batches(step):
            with self._bfloat16():
                logits = head(maps)
            self._descend(segmentation_loss(logits.float(), share, weight))

    def _bfloat16(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)


def make_optimizer(parameters: list[torch.nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """The optimizer that the configuration names."""
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)  # one kernel for all tensors
    rate, decay = config.learning_rate, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=fused)
        case "adamw":
            return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=fused)
        case "adadelta":
            return torch.optim.Adadelta(parameters, rate, weight_decay=decay)
        case "adagrad":
            return torch.optim.Adagrad(parameters, rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, rate, weight_decay=decay)
