"""A simulated line for the tests of the live page: judgements of the tiny model, one after another."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tiny_model import make_card, write_model

from vtad_runtime import Detector, Verdict
from vtad_runtime.page.server import PageServer
from vtad_runtime.page.state import PageState
from vtad_runtime.verdict.judgement import Frame, Judgement

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Line:
    """Judges pictures by the tiny model and writes them to a page's state."""

    def __init__(self, folder: Path, quiet_s: float = 3.0, oldest_s: float | None = 3.0) -> None:
        self.detector = Detector(write_model(folder / "tiny.onnx", make_card(64, 64)), threads=1)
        self.state = PageState(self.detector.card, "camera 0", "tiny.onnx", quiet_s, oldest_s=oldest_s)
        self.numbers = itertools.count(1)

    def judge(self, rgb: Pixels, **changes: Any) -> Judgement:
        """The judgement of a picture that is taken now; `changes` replace its fields."""
        number, now = next(self.numbers), time.time()
        result = self.detector(rgb)
        values: dict[str, Any] = {
            "source": "camera 0",
            "number": number,
            "captured_at": now,
            "verdict": result.verdict,
            "reason": None,
            "alarm": None,
            "threshold": result.threshold,
            "frame": Frame(number, now, time.monotonic(), 4.0, 0, rgb),
            "result": result,
            "queue_age_ms": 2.0,
        }
        return Judgement(**(values | changes))

    def show(self, rgb: Pixels, **changes: Any) -> Judgement:
        """Judge a picture and write it."""
        judgement = self.judge(rgb, **changes)
        self.state.write(judgement)
        return judgement

    def lose_source(self, reason: str) -> None:
        """Write that the source is gone."""
        self.state.write(
            Judgement("camera 0", 0, time.time(), Verdict.ERROR, reason, None, 2.0, frame=None, result=None)
        )


@contextmanager
def serving(line: Line, address: str = "0") -> Iterator[PageServer]:
    """The page of a line, served inside the block."""
    server = PageServer(line.state, address)
    try:
        yield server
    finally:
        server.close()
