"""A baseline on one category: fitted on the pictures that `default` trains on, calibrated on those that it holds out, judged."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from vtad.config import Config
from vtad.data.bit_depth import bit_depth
from vtad.data.images import ImageCache, fingerprint, split_good
from vtad.data.layout import CategoryFiles, find_category, require_test_images
from vtad.data.sizing import with_size
from vtad.fitting.device import pick_device
from vtad.inspection import input_spec
from vtad.models.features import BackboneFeatures
from vtad_benchmark.methods.baseline import Baseline, gigaflop, stored_numbers
from vtad_benchmark.methods.found import Found, pictures
from vtad_benchmark.methods.judge import decisions, judge, scores_and_peaks
from vtad_benchmark.methods.options import Options
from vtad_benchmark.methods.padim import JoinedFeatures, Padim
from vtad_benchmark.methods.patchcore import Patchcore
from vtad_benchmark.methods.plain_autoencoder import PlainAutoencoder
from vtad_benchmark.results.row import Cost, Ranking
from vtad_runtime.contract.threshold.conformal import calibration


def fit_and_judge(method: Any, options: Options, category: str, seed: int, data: Path) -> Found:
    """Everything of it. Raises DataError, ConfigError, CalibrationError.

    A baseline takes the input size, fit and split of `default`; it does not augment the pictures, as published. PaDiM and
    PatchCore see the features of the same frozen backbone.
    """
    files = find_category(data, category)
    test = require_test_images(files)
    config = _like_default(options.config(method, category, seed, data=str(data)), files)
    spec, device = input_spec(config), pick_device(config.device)
    train_files, held_out = split_good(files.train_good, config.val_split, config.seed)
    start = time.perf_counter()
    with ImageCache(train_files, spec) as images:
        baseline = _make(method, options, config).to(device)
        baseline.fit(images)
        seconds = time.perf_counter() - start
    scores, peaks = scores_and_peaks(baseline, held_out, spec, device)
    chosen = calibration(scores, peaks, config.false_alarms)
    found = judge(baseline, test, spec, device)
    guaranteed, estimated = decisions(chosen, test, found.scores)
    numbers = stored_numbers(baseline)
    return Found(
        pictures=pictures(files, spec, fingerprint(files.train_good)),
        ranking=Ranking(
            found.image.auroc,
            found.image.average_precision,
            found.pixels.auroc,
            found.pixels.average_precision,
            found.pixels.aupro,
        ),
        calibration_pictures=chosen.images,
        false_alarm_budget=chosen.false_alarms,
        guaranteed=guaranteed,
        estimated=estimated,
        cost=Cost(
            train_seconds=seconds,
            parameters=sum(p.numel() for p in baseline.parameters()),
            stored_numbers=numbers,
            gflop=gigaflop(baseline, config.image_height, config.image_width),
            megabytes=4 * numbers / 1e6,
        ),
        training={"epochs": baseline.epochs} if isinstance(baseline, PlainAutoencoder) else {},
        export=None,
        run=None,
        trained_commit=None,
    )


def _make(method: Any, options: Options, config: Config) -> Baseline:
    from vtad.backbones.efficientnet import read_weights

    if method in ("l1", "ssim"):
        seconds = 60 * options.baseline_minutes(method)
        return PlainAutoencoder(config.image_height, config.image_width, method, seconds, seed=config.seed)
    seen = BackboneFeatures().eval()
    seen.load_pretrained(read_weights())
    features = JoinedFeatures(seen)
    if method == "padim":
        return Padim(features)
    return Patchcore(features, options.stored_patches(), seed=config.seed)


def _like_default(config: Config, files: CategoryFiles) -> Config:
    """With the input's size chosen from the images unless asked for, and their bits."""
    return dataclasses.replace(with_size(config, files.train_good), bits=bit_depth(files.train_good).bits)
