"""Builds what a run needs from its options: the detector, the mask, the outputs. Extras are imported only when asked for."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full
from vtad_runtime.contract.log import note
from vtad_runtime.line.options import RunOptions

if TYPE_CHECKING:
    from vtad_runtime.contract.card import Card
    from vtad_runtime.verdict.detector import Detector
    from vtad_runtime.verdict.geometry import Geometry
    from vtad_runtime.verdict.judgement import Output
    from vtad_runtime.verdict.mask import Mask


def open_detector(options: RunOptions) -> Detector:
    """The named model or the newest export, and a line about it. Raises VtadError."""
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.engine.opening import newest_model
    from vtad_runtime.verdict.detector import Detector

    try:
        path = options.model or newest_model()
        detector = Detector(path, options.threads)
    except ModelError as e:
        raise VtadError(e, USAGE) from e
    card = detector.card
    which = "" if options.model else ", the newest export"
    note(
        f"model: {path}{which}; {card.identity.category}, {card.identity.created}, "
        f"threshold {card.calibration.threshold:.4g}, {card.input.width}x{card.input.height}"
    )
    _check_thresholds(options, card)
    return detector


def geometry_of(options: RunOptions) -> Geometry:
    """What is done to each frame first."""
    from vtad_runtime.verdict.geometry import Geometry

    return Geometry(options.roi, options.rotate, options.flip)


def mask_of(options: RunOptions, card: Card) -> Mask | None:
    """The mask of --roi-mask. Raises VtadError."""
    if options.roi_mask is None:
        return None
    from vtad_runtime.contract.image import ImageError
    from vtad_runtime.verdict.mask import Mask

    try:
        return Mask(options.roi_mask, geometry_of(options), card)
    except ImageError as e:
        raise VtadError(e, USAGE) from e


def shared_outputs(options: RunOptions, card: Card, source: str, fps: float) -> list[Output]:
    """The outputs that any source can have: JSON Lines, video, broker, webhook. Raises VtadError; what was begun is closed."""
    from vtad_runtime.outputs.results_folder import SinkError
    from vtad_runtime.receivers.message import OutputError

    outputs: list[Output] = []
    try:
        for make in _wanted(options, card, source, fps):
            outputs.append(make())
    except (OutputError, SinkError) as e:
        for output in outputs:
            output.close()
        raise VtadError(e, NOT_WRITTEN if disk_full(e) else USAGE) from e
    return outputs


def states(outputs: list[Output]) -> list[dict[str, Any]]:
    """How the outputs to others are doing, of those that can say."""
    return [output.state() for output in outputs if hasattr(output, "state")]


def short_hash(text: str) -> str:
    """Eight characters to tell names apart."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def _wanted(options: RunOptions, card: Card, source: str, fps: float) -> list[Callable[[], Output]]:
    """A maker for each output asked for."""

    def spool(kind: str, url: str) -> Path:
        return options.out / "spool" / f"{kind}-{short_hash(f'{url} {source}')}"  # of this source and receiver, kept

    def json_lines() -> Output:
        from vtad_runtime.outputs.json_lines import JsonLines

        target: Path | TextIO = sys.stdout if options.json == "-" else Path(options.json or "")
        return JsonLines(target)

    def video() -> Output:
        from vtad_runtime.outputs.video import VideoOutput

        return VideoOutput(options.write_video or Path(), fps)

    def mqtt() -> Output:
        from vtad_runtime.receivers.mqtt import MqttOutput

        url = options.mqtt or ""
        return MqttOutput(url, spool("mqtt", url), card=card)

    def webhook() -> Output:
        from vtad_runtime.receivers.webhook import WebhookOutput

        url = options.post or ""
        return WebhookOutput(url, spool("webhook", url), card=card)

    asked = [(options.json, json_lines), (options.write_video, video), (options.mqtt, mqtt), (options.post, webhook)]
    return [make for wanted, make in asked if wanted]


def _check_thresholds(options: RunOptions, card: Card) -> None:
    threshold = card.calibration.threshold
    for name, value in (("--unsure-from", options.unsure_from), ("--alarm-off", options.alarm_off)):
        if value is not None and not value <= threshold:
            raise VtadError(
                f"{name}: expected a score up to the threshold {threshold:.4g} on the card, got {value:g}", USAGE
            )
