"""The inspection card of a run, and whether its calibration can keep the false-alarm budget."""

from __future__ import annotations

import dataclasses
import datetime
import subprocess
from pathlib import Path
from typing import Any

from vtad.config import FULL_SCALES, Config
from vtad.version import VERSION
from vtad_runtime.contract.card import FULL_SCALE, SCHEMA, UNIT, Calibration, Card, Identity, Input, Output, ScoreRule
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
            git_commit=git_commit(),
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
    """One line when the held-out images are too few for the false-alarm budget, else None."""
    c = card.calibration
    needed = images_needed(c.false_alarms)
    if c.images >= needed:
        return None
    return (
        f"{c.images} good images can vouch for a false-alarm rate of {c.achievable:.1%} at best; for "
        f"{c.false_alarms:.1%} it takes {needed}, {needed - c.images} more"
    )


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, if it is one."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        out = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
