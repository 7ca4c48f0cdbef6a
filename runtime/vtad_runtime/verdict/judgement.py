"""One frame of a source, what is said about it, and the row that is written of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.json_values import finite, iso_utc
from vtad_runtime.verdict.detector import Prepared, Result
from vtad_runtime.verdict.verdict import Verdict

STAGES = ("capture", "queue_age", "prepare", "infer", "write")


@dataclass(frozen=True, eq=False)
class Ahead:
    """What of a frame's judgement the threads of its source have done."""

    prepared: Prepared
    prepare_ms: float  # fitting it to the model's input
    result: Result | None = None  # where the model has seen it already
    queue_age_ms: float = 0.0  # from capture to the start of that
    infer_ms: float = 0.0  # how long that took


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source, after region, rotation and flip."""

    number: int  # counts every frame that the source gave, dropped ones too; from 1
    captured_at: float  # seconds since the epoch
    captured: float  # the same moment by time.monotonic(); ages are measured by this one
    capture_ms: float  # reading, decoding and converting it
    dropped: int  # frames dropped since the last one handed on
    rgb: NDArray[np.uint8]  # (H, W, 3)
    path: str | None = None  # of the file, where the frame is one
    doubt: str | None = None  # why its pixels are not to be trusted
    ahead: Ahead | None = None


@dataclass(frozen=True, eq=False)
class Unusable:
    """A frame without usable pixels: a damaged file, a region outside the frame, a driver's nonsense."""

    number: int
    captured_at: float  # seconds since the epoch
    captured: float  # time.monotonic()
    capture_ms: float
    dropped: int
    reason: str  # one line
    path: str | None = None
    misfit: bool = False  # the frame is whole, --roi does not fit it


@dataclass(frozen=True, eq=False)
class Judgement:
    """One judged frame; or, without a frame, that the source is gone or the engine does not answer (ERROR)."""

    source: str
    number: int  # of the frame; without one, of the last one seen
    captured_at: float  # seconds since the epoch; without a frame, of the moment when that was noticed
    verdict: Verdict
    reason: str | None  # why UNSURE, STALE or ERROR; one line
    alarm: bool | None  # whether the alarm is on after this frame; None without --alarm
    threshold: float
    frame: Frame | None
    result: Result | None  # None when it was not judged
    dropped: int = 0  # frames dropped since the last row
    queue_age_ms: float = 0.0  # from capture to the start of inference
    capture_ms: float = 0.0  # reading, decoding and converting the frame
    prepare_ms: float = 0.0  # fitting it to the model's input, and frame checks
    infer_ms: float = 0.0  # its share of the model's run
    file: str | None = None  # path of the file, where the frame is one
    misfit: bool = False  # ERROR since --roi or --roi-mask does not fit the frame
    model_changed: str | None = None  # what of the model's file was changed since its export, with --allow-changed
    heatmap: str | None = None  # the saved picture, below the results folder; set there, as is what follows
    original: str | None = None  # the saved unmarked frame
    write_ms: float = 0.0  # drawing and saving both

    @property
    def score(self) -> float:
        """The raw score; NaN when not judged."""
        return self.result.score if self.result else math.nan

    def row(self) -> dict[str, Any]:
        """One JSON object; docs/results.md documents the fields. Numbers that are not finite become null."""
        result = self.result
        return {
            "source": self.source,
            "frame": self.number,
            "captured_at": iso_utc(self.captured_at),
            "file": self.file,
            "verdict": str(self.verdict),
            "reason": self.reason,
            "alarm": self.alarm,
            "score": finite(self.score),
            "p_value": finite(result.p_value) if result else None,
            "threshold": finite(self.threshold),
            "regions": [{k: finite(v) for k, v in dataclasses.asdict(r).items()} for r in result.regions]
            if result
            else [],
            "dropped": self.dropped,
            **{f"{stage}_ms": finite(getattr(self, f"{stage}_ms")) for stage in STAGES},
            "heatmap": self.heatmap,
            "original": self.original,
            "model_changed": self.model_changed,
        }


class Output(Protocol):
    """Where judgements go: a file, a video, a broker, a page. Called from the writing thread, in order."""

    def write(self, judgement: Judgement) -> None:
        """Take one judgement. Never waits for a receiver."""

    def close(self) -> None:
        """Write what is still held and free everything; nothing where nothing is held."""
        return


class Calls(Output):
    """Hands each judgement to a function."""

    def __init__(self, function: Callable[[Judgement], None]) -> None:
        self._function = function

    def write(self, judgement: Judgement) -> None:
        """Call it."""
        self._function(judgement)
