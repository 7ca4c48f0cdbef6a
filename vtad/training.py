"""Training: good images in, a run folder out (weights, calibration, inspection card)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from vtad.backbones.pretrained import read_pretrained, with_backbone
from vtad.calibration.calibrate import calibrate
from vtad.config import Config
from vtad.data.bit_depth import bit_depth
from vtad.data.images import ImageCache, fingerprint, of_one_colour, split_good
from vtad.data.layout import CategoryFiles, DataError, find_category
from vtad.data.sizing import with_size
from vtad.fitting.checkpoint import save_tensors
from vtad.fitting.device import pick_device
from vtad.fitting.loop import Report, Reporter, Validated, begun, resumed
from vtad.fitting.symmetries import with_symmetries
from vtad.inspection import input_spec, make_card
from vtad.models.detector import SCORE_RULE, Detector
from vtad.run_folder import Run, RunError, create_run, newest_run, open_run, sha256


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
) -> Run:
    """Train, calibrate and write a run folder; it is returned.

    By default `files` are all of the category, and `folder` is the next number under <out>/<category>. `validated` is called
    after each validation except the last one, with the detector and the fraction of the training that is done; what it raises
    ends the training.

    `resume` continues a run that was stopped, with the configuration of that run; only where its data are may be another.
    `stop` is called after each step. `started` is called once, with the run folder, before the first step.
    Raises DataError, ConfigError, BackboneError, CalibrationError, RunError, TrainingError or Interrupted, each with one line.
    """
    if resume is not None:
        config = dataclasses.replace(resume.config(), data=config.data)
    config = dataclasses.replace(config, data=str(Path(config.data).absolute())).check()
    device = pick_device(config.device)
    files = files or find_category(Path(config.data), config.category)
    train_files, val_files = split_good(files.train_good, config.val_split, config.seed)
    config = with_size(config, files.train_good)
    if resume is None:
        depth = bit_depth(files.train_good, config.bits)
        config = dataclasses.replace(config, bits=depth.bits)
        if depth.note is not None:
            report(Report(0.0, depth.note, lasting=True))
    pretrained = None if resume else read_pretrained(config)  # a resumed run has its backbone in its checkpoint
    config = with_backbone(config, pretrained)
    spec = input_spec(config)
    images_seen = fingerprint(files.train_good)
    with ImageCache(train_files, spec) as images, ImageCache(val_files, spec) as held_out:
        _require_something_to_see(images, files.root)
        if resume is None:
            torch.manual_seed(config.seed)
            report(Report(0.0, "looking for symmetries of good images", lasting=False))
            config = with_symmetries(config, images, held_out, device, pretrained)
        run = resume or create_run(config, folder)
        torch.manual_seed(config.seed)
        detector = Detector(config).to(device)
        if resume is None:
            loop = begun(config, run, detector, images, held_out, device, pretrained, images_seen)
        else:
            loop = resumed(config, run, detector, images, held_out, device, images_seen)
            run.moved_to(config)  # these are its images, wherever they lie now
        started(run)
        del pretrained  # a large backbone need not lie in memory twice
        loop.learn(report, stop, validated)
        report(Report(1.0, "calibrating on good images", lasting=False))
        chosen, seen = calibrate(detector, images, held_out, files.root, config, device)
        save_tensors(run.weights, detector.state_dict())
    seen.write(run)
    run.write_card(make_card(config, SCORE_RULE, chosen, images_seen, sha256(run.weights)))
    run.checkpoint.unlink(missing_ok=True)
    return run


def _require_something_to_see(images: ImageCache, root: Path) -> None:
    """Raise DataError where every picture is of one colour."""
    if all(map(of_one_colour, images)):
        raise DataError(
            f"{root}: expected pictures of parts, got {len(images)} of one colour each: look at them, and at the exposure"
        )


def unfinished_run(out: Path, path: Path | None, category: str | None) -> Run:
    """The run that --resume means. Raises RunError: none, already complete, or without a checkpoint."""
    run = open_run(path) if path is not None else newest_run(out, category, complete=False)
    if run.complete:
        raise RunError(f"{run.path}: this run is complete: train a new one without --resume")
    if not run.checkpoint.is_file():
        raise RunError(f"{run.path}: this run stopped before its first checkpoint: train a new one without --resume")
    return run
