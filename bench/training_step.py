"""Where a training step's time goes, on a CPU: `python -m bench.training_step --category bottle`.

The parts of a step are timed in turns, each by itself, and the whole step beside them; printed are shares of the whole.
`--beside DIR` compares with the code in another checkout: two processes take the same steps in turns, and the ratio of their
times and the difference of their losses are printed. Times are the processor's, of all threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import numpy as np
import torch

from vtad.backbones.pretrained import read_pretrained, with_backbone
from vtad.config import Config
from vtad.data.images import ImageCache, split_good
from vtad.data.layout import default_data_dir, find_category
from vtad.data.sizing import with_size
from vtad.fitting.device import keep_memory
from vtad.fitting.feature_statistics import fit_statistics
from vtad.fitting.learner import AUTOENCODER_IMAGES, CLIP_NORM, Learner
from vtad.fitting.losses import objective
from vtad.fitting.replay_buffer import PICTURES, REPLAYS
from vtad.fitting.sampling import Batch, BatchSampler
from vtad.inspection import input_spec
from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.detector import Detector
from vtad.models.features import BackboneFeatures
from vtad.models.segmentation_head import segmentation_loss
from vtad_runtime.contract.command_line.command import no_traceback

DRAWN_FROM = 24  # training pictures
EPOCH = 6  # steps
PREPARING = 6  # steps that are not timed: the replay buffer fills, and tensors find their places
CPU = torch.device("cpu")
RATE, WARMUP = 2e-3, 50  # of the learning rate, as of vtad-train


class Step(NamedTuple):
    """What a step took, and what it found."""

    cpu_ms: float
    clock_ms: float
    losses: list[float]  # the whole first, then its parts


def begun(data: Path, category: str, symmetries: str, bfloat16: bool) -> tuple[Learner, BatchSampler]:
    """A training of the preset `default` that is about to begin. Few patches and Gaussians are fitted, which no step sees."""
    config = Config(category, os.fspath(data), device="cpu", symmetries=symmetries, patches=64, components=2)
    files = find_category(data, category).train_good
    config = with_size(config, files)
    pretrained = read_pretrained(config)
    config = with_backbone(config, pretrained)
    images = ImageCache(split_good(files, config.val_split, config.seed)[0][:DRAWN_FROM], input_spec(config))
    torch.manual_seed(config.seed)
    sampler = BatchSampler(config, images)
    learner = Learner(config, Detector(config), sampler.batch_size, CPU)
    model = learner.model
    assert isinstance(model, Autoencoder)
    assert isinstance(model.features, BackboneFeatures)
    assert pretrained is not None
    model.features.load_pretrained(pretrained)
    fit_statistics(model, images[:8], CPU, gmm_and_position=False)
    learner.autocast = bfloat16
    return learner, sampler


def parts(learner: Learner, sampler: BatchSampler, batch: Batch, step: int) -> dict[str, Callable[[], object]]:
    """What a step is made of, each with its way back where it has one."""
    model = learner.model
    assert isinstance(model, Autoencoder)
    head = model.backbone_head
    assert head is not None
    few = slice(AUTOENCODER_IMAGES)
    corrupted, clean, share = (
        learner.pixels(batch.corrupted),
        learner.pixels(batch.clean[few]),
        learner.share(batch.damaged),
    )

    def precision() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=learner.autocast)

    @torch.no_grad()
    def known() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        with precision():
            return model.known(corrupted)

    @torch.no_grad()
    def target() -> torch.Tensor:
        return model.observe(clean)

    with torch.no_grad():
        features, maps = known()
        observed = target()
        context = model.context(corrupted[few], model.whitening(features[few].float()))

    def transformer() -> None:
        with precision():
            prediction = model.predict(context, observed)
        _back(prediction.reconstruction.mean() + prediction.density.mean())

    def reconstruction() -> None:
        drawn = Prediction(clean.clone().requires_grad_(), torch.zeros_like(observed[:, 0]))
        _back(objective(drawn, clean, share, learner.detector.ssim, model.density_dim, learner.config).total)

    def segmentation() -> None:
        with precision():
            logits = head(maps)
        _back(segmentation_loss(logits.float(), share))

    def replays() -> None:
        for (kept, damaged), weight in learner.replay.batches(step):
            with precision():
                logits = head(kept)
            _back(segmentation_loss(logits.float(), damaged, weight))

    def optimizer() -> None:
        for number in range(1 + REPLAYS):
            if number == 1:  # from then on the head learns alone
                for name, parameter in model.named_parameters():
                    parameter.grad = parameter.grad if name.startswith("segmentation_head") else None
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            learner.optimizer.step()

    return {
        "drawing the batch, with its synthetic defects": lambda: sampler.draw(step),
        f"backbone, {batch.size} damaged pictures": known,
        f"backbone, {AUTOENCODER_IMAGES} clean ones, in float32": target,
        "transformer and context density, both ways": transformer,
        "squared error and SSIM, both ways": reconstruction,
        f"segmentation head, {batch.size} pictures, both ways": segmentation,
        f"segmentation head, {REPLAYS} replays of {PICTURES}, both ways": replays,
        "clipping and optimizer": optimizer,
    }


def shares(learner: Learner, sampler: BatchSampler, rounds: int) -> str:
    """A table of the parts."""
    taken: dict[str, list[float]] = defaultdict(list)
    for step in range(PREPARING + rounds):
        batch = sampler.draw(step)
        whole = _milliseconds(lambda: learner.learn(batch, step, RATE / WARMUP))  # noqa: B023 - called at once
        if step >= PREPARING:
            taken["whole"].append(whole)
            learner.optimizer.zero_grad(set_to_none=True)
            for name, part in parts(learner, sampler, batch, step).items():
                taken[name].append(_milliseconds(part))
    learnt, drawing, *others = (median(each) for each in taken.values())
    step_ms = learnt + drawing
    rows = dict(zip(list(taken)[1:], (drawing, *others), strict=True))
    rows["all else"] = step_ms - sum(rows.values())
    lines = [f"| a step of {sampler.batch_size} pictures, {step_ms:.0f} ms of CPU time | share |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {100 * ms / step_ms:.0f} % |" for name, ms in rows.items())])


def serve(learner: Learner, sampler: BatchSampler) -> None:
    """A step for each line of stdin, and a line of stdout for each step."""
    for number, _ in enumerate(sys.stdin):
        cpu, clock = time.process_time(), time.perf_counter()
        loss = learner.learn(sampler.draw(number), number, RATE * min(1.0, (number + 1) / WARMUP))
        took = 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - clock)
        print(json.dumps(Step(*took, [part.item() for part in loss])), flush=True)


def steps_beside(other: Path, arguments: list[str], rounds: int) -> list[tuple[Step, Step]]:
    """Steps of another checkout's code and of this one, in turns; the first PREPARING of them prepare."""
    this = Path(__file__).resolve()
    served = []
    for checkout in (other.resolve(), this.parent.parent):
        sources = os.pathsep.join(os.fspath(checkout / part) for part in ("", "export", "runtime"))
        asked = [sys.executable, os.fspath(this), *arguments, "--serve"]
        environment = {**os.environ, "PYTHONPATH": sources}
        served.append(
            subprocess.Popen(asked, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    there, here = served
    pairs = [(_asked(there), _asked(here)) for _ in range(PREPARING + rounds)]
    for process in served:
        process.communicate()
    return pairs


def faster(pairs: list[tuple[Step, Step]]) -> tuple[float, float]:
    """How many times the pictures a second this code takes: of CPU time, and by the clock."""
    timed = pairs[PREPARING:]
    return median(a.cpu_ms / b.cpu_ms for a, b in timed), median(a.clock_ms / b.clock_ms for a, b in timed)


def losses_beside(pairs: list[tuple[Step, Step]]) -> str:
    """How far the losses of both are from each other."""
    there, here = (np.array([step.losses[0] for step in steps]) for steps in zip(*pairs, strict=True))
    epochs = len(pairs) // EPOCH * EPOCH
    curves = [of[:epochs].reshape(-1, EPOCH).mean(1) for of in (there, here)]
    return (
        f"losses differ by {abs(here[0] / there[0] - 1):.0e} of their value in the first step, by "
        f"{np.abs(curves[1] / curves[0] - 1).max():.0e} at most as means of {EPOCH} steps, of {len(pairs)}"
    )


def _asked(process: subprocess.Popen[str]) -> Step:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return Step(*json.loads(process.stdout.readline()))


def _back(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", type=click.Path(path_type=Path), help="Folder of categories.  [default: $VTAD_DATA, or data]")
@click.option("--category", default="bottle", show_default=True)
@click.option("--symmetries", default="mirror,flip,turn180", show_default=True, help="As of vtad-train.")
@click.option("--bfloat16/--float32", default=True, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=12, show_default=True, help="Steps that are timed.")
@click.option("--beside", type=click.Path(exists=True, path_type=Path), help="Another checkout, to compare with.")
@click.option("--serve", "serving", is_flag=True, hidden=True)
def training_step(
    data: Path | None,
    category: str,
    symmetries: str,
    bfloat16: bool,
    threads: int,
    rounds: int,
    beside: Path | None,
    serving: bool,
) -> None:
    """Where a training step's time goes, or how it compares with another checkout's."""
    with no_traceback():
        data = (data or default_data_dir()).resolve()
        if beside is not None:
            same = ["--data", os.fspath(data), "--category", category, "--symmetries", symmetries]
            same += ["--threads", str(threads), "--bfloat16" if bfloat16 else "--float32"]
            pairs = steps_beside(beside, same, rounds)
            cpu, clock = faster(pairs)
            click.echo(
                f"{cpu:.2f} times the pictures a second of CPU time, {clock:.2f} by the clock; {rounds} pairs of steps"
            )
            click.echo(losses_beside(pairs))
            return
        keep_memory()
        torch.set_num_threads(threads)
        training = begun(data, category, symmetries, bfloat16)
        if serving:
            serve(*training)
        else:
            click.echo(shares(*training, rounds))


if __name__ == "__main__":
    training_step()
