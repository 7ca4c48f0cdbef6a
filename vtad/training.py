"""Training: good images in, a run folder out (weights, calibration, inspection card)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from vtad.backbones.pretrained import read_pretrained, with_backbone
from vtad.calibration.calibrate import calibrate
from vtad.config import Config, ConfigError
from vtad.data.bit_depth import bit_depth
from vtad.data.images import ImageCache, fingerprint, of_one_colour, split_good
from vtad.data.layout import CategoryFiles, DataError, find_category
from vtad.data.registration import with_shift
from vtad.data.sizing import with_size
from vtad.fitting.checkpoint import save_tensors
from vtad.fitting.device import pick_device, room_errors_as_lines
from vtad.fitting.distributed import ALONE, Processes
from vtad.fitting.loop import Report, Reporter, Validated, begun, resumed
from vtad.fitting.symmetries import with_symmetries
from vtad.inspection import input_spec, make_card
from vtad.models.detector import SCORE_RULE, Detector
from vtad.run_folder import (
    Run,
    RunError,
    create_run,
    held,
    newest_run,
    open_run,
    require_unfinished,
    require_writable,
    sha256,
)

SMALLER = "lower --batch-size, or --image-height and --image-width, or take another --device"


@room_errors_as_lines(SMALLER)
def train(
    config: Config,
    *,
    resume: Run | None = None,
    report: Reporter = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    started: Callable[[Run], None] = lambda _: None,
    files: CategoryFiles | None = None,
    folder: Path | None = None,
    validated: Validated = lambda detector, fraction: None,
    processes: Processes = ALONE,
) -> Run:
    """Train, calibrate and write a run folder; it is returned.

    By default `files` are all of the category, and `folder` is the next number under <out>/<category>. `validated` is called
    after each validation except the last one, with the detector and the fraction of the training that is done; what it raises
    ends the training.

    `resume` continues a run that was stopped, with the configuration of that run; only where its data are may be another.
    `stop` is called after each step. `started` is called once, with the run folder, before the first step. `processes`: those
    that share each batch; the first alone calls `report`, `started` and `validated`, and writes.
    Raises DataError, ConfigError, BackboneError, CalibrationError, RunError, TrainingError, NoRoom or Interrupted, each with
    one line; ProcessLost, and Ended where another process says why.
    """
    if resume is not None:
        config = dataclasses.replace(processes.of_first(resume.config), data=config.data)
    if not processes.first:
        report = _ignore
    with processes.together():
        config = dataclasses.replace(config, data=str(Path(config.data).absolute())).check()
        device = pick_device(config.device)
        files = files or find_category(Path(config.data), config.category)
        root = files.root
        split = split_good(files.train_good, config.val_split, config.seed)
        require_writable(resume.path if resume else folder or Path(config.out) / config.category)
        config = with_size(config, files.train_good)
        if resume is None:
            config = _with_bits(config, files, report)
        pretrained = None if resume else read_pretrained(config)  # a resumed run has its backbone in its checkpoint
        config = with_backbone(config, pretrained)
        images_seen = fingerprint(files.train_good)
        images, held_out = (ImageCache(part, input_spec(config)) for part in split)
        _require_something_to_see(images, root)
        _require_shares(config, len(images), processes)
    with images, held_out, ExitStack() as while_it_trains:
        processes.require_same(images_seen, f"{root}: good pictures")
        if resume is None:
            torch.manual_seed(config.seed)
            report(Report(0.0, "looking for symmetries of good images", lasting=False))
            config = processes.of_first(partial(with_symmetries, config, images, held_out, device, pretrained))
            config, shift = processes.of_first(partial(with_shift, config, images))
            report(Report(0.0, shift, lasting=True))
        run = resume or processes.of_first(lambda: create_run(config, folder))
        processes.of_first(lambda: while_it_trains.enter_context(held(run)))
        torch.manual_seed(config.seed)
        detector = Detector(config).to(device)
        if resume is None:
            loop = begun(config, run, detector, images, held_out, device, pretrained, images_seen, processes)
        else:
            loop = resumed(config, run, detector, images, held_out, device, images_seen, processes)
            processes.of_first(lambda: run.moved_to(config))  # these are its images, wherever they lie now
        processes.of_first(lambda: started(run))
        del pretrained  # a large backbone need not lie in memory twice
        loop.learn(report, stop, validated)
        report(Report(1.0, "calibrating on good images", lasting=False))

        def finish() -> None:
            chosen, seen = calibrate(detector, images, held_out, loop.sampler.parts, root, config, device, loop.samples)
            save_tensors(run.weights, detector.state_dict())
            seen.write(run)
            card = make_card(config, SCORE_RULE, chosen, images_seen, sha256(run.weights))
            run.write_card(dataclasses.replace(card, weighing=seen.weights))
            run.remove_checkpoint()

        processes.of_first(finish)
    return run


def _with_bits(config: Config, files: CategoryFiles, report: Reporter) -> Config:
    """The configuration with the bit depth of the good pictures filled in."""
    depth = bit_depth(files.train_good, config.bits)
    if depth.note is not None:
        report(Report(0.0, depth.note, lasting=True))
    return dataclasses.replace(config, bits=depth.bits)


def _ignore(_: Report) -> None:
    """What a process reports that is not the first."""


def _require_shares(config: Config, images: int, processes: Processes) -> None:
    """Raise ConfigError where so many processes cannot share a batch."""
    if processes.count == 1:
        return
    if config.preset == "paper":
        raise ConfigError("preset paper normalises by batch, so no processes can share one: train it by one process")
    if processes.count > (pictures := min(config.batch_size, images)):
        raise ConfigError(
            f"expected at most as many processes as pictures in a batch, which is {pictures}, got {processes.count}: "
            "start fewer, or raise --batch-size"
        )


def _require_something_to_see(images: ImageCache, root: Path) -> None:
    """Raise DataError where every picture is of one colour."""
    if all(map(of_one_colour, images)):
        raise DataError(
            f"{root}: expected pictures of parts, got {len(images)} of one colour each: look at them, and at the exposure"
        )


def unfinished_run(out: Path, path: Path | None, category: str | None) -> Run:
    """The run that --resume means. Raises RunError: none, already complete, or without a checkpoint."""
    run = open_run(path) if path is not None else newest_run(out, category, complete=False)
    require_unfinished(run)
    if not run.checkpoint.is_file():
        raise RunError(f"{run.path}: this run stopped before its first checkpoint: train a new one without --resume")
    return run
