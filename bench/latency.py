"""How long one picture takes: `make bench` judges a picture by the newest export and by torch, in turn, in one process.

Times of a shared machine drift, so the two run alternately and their ratio is printed beside the medians. Last comes what the
verdict alone costs of everything that the model can show, in CPU time of one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from bench.clock import cpu_milliseconds, milliseconds
from vtad.models.trained import load_detector
from vtad.run_folder import open_run
from vtad_runtime.engine.engines import CPU
from vtad_runtime.engine.integrity import integrity
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.opening import newest_model, open_model
from vtad_runtime.verdict.detector import Detector, Result
from vtad_runtime.verdict.engine_choice import others

ROUNDS = 30


def everything(edge: Detector, rgb: NDArray[np.uint8]) -> list[Result]:
    """The result with all maps."""
    return edge.judge([edge.prepare(rgb)], explain=True)


def verdict_beside_everything(path: Path, engine: str) -> str:
    """What score and heatmap cost of all outputs. Raises ModelError."""
    session = open_model(path, threads=1, engine=engine)
    shape = (1, 3, session.card.input.height, session.card.input.width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    opening = cpu_milliseconds(lambda: session.run(pixels))
    session.verdict(pixels)
    pairs = [
        (cpu_milliseconds(lambda: session.verdict(pixels)), cpu_milliseconds(lambda: session.run(pixels)))
        for _ in range(ROUNDS)
    ]
    share, (verdict, whole) = median(a / b for a, b in pairs), (median(of) for of in zip(*pairs, strict=True))
    return (
        f"  verdict alone / everything   median {share:6.2f} by {engine} ({verdict:.1f} of {whole:.1f} ms CPU time, one thread; "
        f"opening the whole graph at the first look {opening - whole:.0f} ms)"
    )


def main() -> None:
    """Print latency of the export and of torch, their ratio, the time that the digests take, and what a verdict costs."""
    path = newest_model()
    edge = Detector(path)
    model = load_detector(open_run(path.parent.parent))
    spec = edge.card.input
    rgb = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    pixels = torch.from_numpy(rgb.transpose(2, 0, 1)[None].copy())

    def by_torch() -> object:
        with torch.inference_mode():
            return model(pixels)

    everything(edge, rgb), by_torch()  # the first call prepares
    pairs = [(milliseconds(lambda: everything(edge, rgb)), milliseconds(by_torch)) for _ in range(ROUNDS)]
    print(f"{path}: {spec.width}x{spec.height}, one picture, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print(f"  vtad_runtime (with all maps) median {median(a for a, _ in pairs):6.1f} ms")
    print(f"  torch (graph alone)          median {median(b for _, b in pairs):6.1f} ms")
    print(f"  ratio runtime / torch        median {median(a / b for a, b in pairs):6.2f}")
    compared = median(milliseconds(lambda: integrity(path)) for _ in range(5))
    print(f"  comparing the digests        median {compared:6.1f} ms")
    for engine in (CPU, *others()):
        try:
            print(verdict_beside_everything(path, engine))
        except ModelError as e:  # no such device here
            print(f"  {e}")


if __name__ == "__main__":
    Path("runs").is_dir() or sys.exit("bench: expected ./runs with an exported model: run make demo first")
    main()
