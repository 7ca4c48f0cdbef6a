"""What is said about one frame of a live source, and the row that is written of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.json_values import finite, iso_utc
from vtad_runtime.verdict.detector import Result
from vtad_runtime.verdict.verdict import Verdict


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source, after region, rotation and flip."""

    source: str  # as the user named it: "camera 0", "rtsp://...", a file's path
    number: int  # counts every frame that the source gave, dropped ones too; from 1
    captured_at: float  # seconds since the epoch
    captured: float  # the same moment by time.monotonic(); ages are measured by this one
    capture_ms: float  # reading, decoding and converting it
    dropped: int  # frames dropped since the last one handed on
    rgb: NDArray[np.uint8]  # (H, W, 3)
    path: str | None = None  # of the file, where the frame is one


@dataclass(frozen=True, eq=False)
class Judgement:
    """One judged frame; or, without a frame, the news that the source is gone (ERROR)."""

    source: str
    number: int  # of the frame; the last one seen while the source is gone
    captured_at: float  # seconds since the epoch; of the news while the source is gone
    verdict: Verdict
    reason: str | None  # why UNSURE, STALE or ERROR; one line
    alarm: bool | None  # whether the alarm is on after this frame; None without --alarm
    threshold: float
    frame: Frame | None
    result: Result | None  # None when it was not judged
    dropped: int = 0  # frames dropped since the last row
    queue_age_ms: float = 0.0  # from capture to the start of inference
    capture_ms: float = 0.0
    prepare_ms: float = 0.0
    infer_ms: float = 0.0
    file: str | None = None  # path of a file that could not be read; a readable one's is in the frame

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
            "verdict": str(self.verdict),
            "reason": self.reason,
            "alarm": self.alarm,
            "score": finite(self.score),
            "p_value": finite(result.p_value) if result else None,
            "threshold": finite(self.threshold),
            "regions": [{k: finite(v) for k, v in dataclasses.asdict(region).items()} for region in result.regions]
            if result
            else [],
            "dropped": self.dropped,
            "queue_age_ms": finite(self.queue_age_ms),
            "capture_ms": finite(self.capture_ms),
            "prepare_ms": finite(self.prepare_ms),
            "infer_ms": finite(self.infer_ms),
            "file": self.frame.path if self.frame else self.file,
        }


class Output(Protocol):
    """Where judgements go: a file, a video, a broker, a page. Called from the writing thread, in order."""

    def write(self, judgement: Judgement) -> None:
        """Take one judgement. Never waits for a receiver."""

    def close(self) -> None:
        """Write what is still held and free everything."""
