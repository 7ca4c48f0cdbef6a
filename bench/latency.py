"""How long one picture takes: what a verdict costs of everything that the model can show, and the newest export beside torch.

Times of a shared machine drift, so both sides of a ratio run in turns, in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench import bare
from bench.clock import cpu_milliseconds, milliseconds
from bench.table import Part, Ratio
from vtad_runtime.engine.engines import CPU
from vtad_runtime.engine.integrity import integrity
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.opening import open_model
from vtad_runtime.verdict.detector import Detector

ROUNDS = 30
VERDICT = {
    engine: Ratio(f"the verdict alone : everything that the model shows; {engine}, CPU time of one thread")
    for engine in (CPU, "openvino", "openvino-bf16")
}
TORCH = Ratio("vtad_runtime with all maps : torch's graph, one picture in memory")
DIGESTS = Ratio("comparing the digests : opening the model, which compares them too")


def measure(asked: argparse.Namespace) -> Iterator[tuple[Ratio, float | str]]:
    """Each ratio in turn. Raises VtadError, ImportError: no torch."""
    model = bare.model_of(asked)
    for engine, ratio in VERDICT.items():
        try:
            yield ratio, verdict_beside_everything(model, engine)
        except ModelError as e:  # it is not installed, or there is no such device here
            yield ratio, str(e)
    pairs = [
        (milliseconds(lambda: integrity(model)), milliseconds(lambda: open_model(model, asked.threads)))
        for _ in range(9)
    ]
    yield DIGESTS, median(a / b for a, b in pairs)
    yield TORCH, beside_torch(model, asked.threads)


def verdict_beside_everything(model: Path, engine: str) -> float:
    """What score and heatmap cost of all outputs. Raises ModelError."""
    session = open_model(model, threads=1, engine=engine)
    pixels = noise(session.card.input.height, session.card.input.width).transpose(2, 0, 1)[None].copy()
    session.run(pixels), session.verdict(pixels)  # the first call prepares
    pairs = [
        (cpu_milliseconds(lambda: session.verdict(pixels)), cpu_milliseconds(lambda: session.run(pixels)))
        for _ in range(ROUNDS)
    ]
    return median(a / b for a, b in pairs)


def beside_torch(model: Path, threads: int) -> float:
    """The whole result of a picture beside torch's graph alone. Raises VtadError: the model is not in the folder of its run."""
    import torch

    from vtad.models.trained import load_detector
    from vtad.run_folder import open_run

    edge, trained = Detector(model, threads), load_detector(open_run(model.parent.parent))
    torch.set_num_threads(threads)
    rgb = noise(edge.card.input.height, edge.card.input.width)
    pixels = torch.from_numpy(rgb.transpose(2, 0, 1)[None].copy())

    def ours() -> object:
        return edge.judge([edge.prepare(rgb)], explain=True)

    def by_torch() -> object:
        with torch.inference_mode():
            return trained(pixels)

    ours(), by_torch()  # the first call prepares
    return median(a / b for a, b in [(milliseconds(ours), milliseconds(by_torch)) for _ in range(ROUNDS)])


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


PART = Part("latency", (*VERDICT.values(), DIGESTS, TORCH), measure)
