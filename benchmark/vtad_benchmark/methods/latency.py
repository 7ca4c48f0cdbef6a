"""How long one picture takes by an export, beside the bare onnxruntime session: in turns, in one process, on one thread.

Both compute everything; a good part alone costs less (`make bench`).

Times of a shared machine drift, so the two run alternately, and their ratio says more than either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from vtad_runtime.verdict.detector import Detector

ROUNDS = 20


@dataclass(frozen=True)
class Latency:
    """Medians; None where nothing was timed."""

    ms: float | None  # a picture by vtad_runtime: fitted to the input, judged, all maps; decoding aside
    ms_session: float | None  # the bare session on its pixels
    ratio: float | None  # of the two, by turn


def latency(model: Path, pictures: Sequence[Path], rounds: int = ROUNDS) -> Latency:
    """Judge some of the pictures, in turns with the bare session. Raises ImageError, ModelError."""
    detector = Detector(model, threads=1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    step = max(1, len(pictures) // rounds)
    pairs = []
    for i in range(-1, rounds):  # the first prepares
        rgb = detector.read(pictures[max(i, 0) * step % len(pictures)]).rgb
        pixels = np.ascontiguousarray(detector.prepare(rgb).pixels[None])  # (1, 3, height, width)

        def judge(rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = rgb) -> object:
            return detector.judge([detector.prepare(rgb)], explain=True)

        def run(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = pixels) -> object:
            return session.run(None, {name: pixels})

        pairs.append((milliseconds(judge), milliseconds(run)))
    return Latency(
        median(a for a, _ in pairs[1:]), median(b for _, b in pairs[1:]), median(a / b for a, b in pairs[1:])
    )


def milliseconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
