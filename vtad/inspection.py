"""The inspection card of a run, and whether its calibration can keep the false-alarm budget."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

from vtad.config import FULL_SCALES, Config
from vtad.version import VERSION, git
from vtad_runtime.contract.card import (
    FULL_SCALE,
    SCHEMA,
    UNIT,
    Calibration,
    Card,
    Identity,
    Input,
    Output,
    ScoreRule,
    percent,
)
from vtad_runtime.contract.threshold.conformal import images_needed

PLACES = ("data", "out", "backbone_file", "preset_file")  # options that are paths


def input_spec(config: Config) -> Input:
    """Which pixels the graph takes."""
    return Input(
        name="image",
        width=config.image_width,
        height=config.image_height,
        colour="rgb",
        resize="area-linear",
        fit=config.fit,
        roi=None,
        full_scale=FULL_SCALES.get(config.bits, FULL_SCALE),
    )


def make_card(config: Config, rule: ScoreRule, chosen: Calibration, data_fingerprint: str, weights: str) -> Card:
    """The card of a run that is trained and calibrated; `rule` is the detector's, `weights` the sha256 of its tensors."""
    height, width = config.image_height, config.image_width
    return Card(
        schema=SCHEMA,
        identity=Identity(
            category=config.category,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            vtad_version=VERSION,
            git_commit=git("rev-parse", "HEAD"),
            config=without_places(dataclasses.asdict(config)),
            data_fingerprint=data_fingerprint,
        ),
        input=input_spec(config),
        outputs=(
            Output("score", ("batch",), UNIT),
            Output("heatmap", ("batch", height, width), UNIT),
            Output("ssim_map", ("batch", height, width), UNIT),
            Output("density_map", ("batch", height, width), UNIT),
            Output("reconstruction", ("batch", 3, height, width), "intensity, 0 to 1"),
        ),
        score_rule=rule,
        calibration=chosen,
        weights_sha256=weights,
        results=None,
        parity=None,
    )


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with bare names in place of the paths on the machine that trained: a card goes to others."""
    return {key: Path(value).name if key in PLACES else value for key, value in config.items()}


def advice(card: Card) -> str | None:
    """One line when the good images of a calibration are too few for the false-alarm budget, else None."""
    c = card.calibration
    needed = images_needed(c.false_alarms)
    if c.images >= needed:
        return None
    return (
        f"{c.images} good images can vouch for {percent(c.achievable)} false alarms at best; for {percent(c.false_alarms)} "
        f"it takes {needed}, {needed - c.images} more"
    )
