"""How long one picture takes: `make bench` judges a picture by the newest export and by torch, in turn, in one process.

Times of a shared machine drift, so the two run alternately and their ratio is printed beside the medians.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from vtad.models.trained import load_detector
from vtad.run_folder import open_run
from vtad_runtime.engine.integrity import integrity
from vtad_runtime.engine.opening import newest_model
from vtad_runtime.verdict.detector import Detector

ROUNDS = 30


def milliseconds(f: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    f()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print latency of the export and of torch, their ratio, and the time from start to the first verdict."""
    path = newest_model()
    edge = Detector(path)
    model = load_detector(open_run(path.parent.parent))
    spec = edge.card.input
    rgb = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), dtype=np.uint8)
    pixels = torch.from_numpy(rgb.transpose(2, 0, 1)[None].copy())

    def by_torch() -> object:
        with torch.inference_mode():
            return model(pixels)

    edge(rgb), by_torch()  # the first call prepares
    pairs = [(milliseconds(lambda: edge(rgb)), milliseconds(by_torch)) for _ in range(ROUNDS)]
    print(f"{path}: {spec.width}x{spec.height}, one picture, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print(f"  vtad_runtime (with regions)  median {median(a for a, _ in pairs):6.1f} ms")
    print(f"  torch (graph alone)          median {median(b for _, b in pairs):6.1f} ms")
    print(f"  ratio runtime / torch        median {median(a / b for a, b in pairs):6.2f}")
    code = (
        f"import numpy; from vtad_runtime import Detector; d = Detector({str(path)!r}); "
        f"d(numpy.zeros(({spec.height}, {spec.width}, 3), numpy.uint8))"
    )
    starts = [milliseconds(lambda: subprocess.run([sys.executable, "-c", code], check=True)) for _ in range(5)]
    print(f"  python start to first verdict  median {median(starts):6.0f} ms")
    compared = median(milliseconds(lambda: integrity(path)) for _ in range(5))
    print(f"    of it the digests            median {compared:6.0f} ms, {100 * compared / median(starts):.1f} %")


if __name__ == "__main__":
    Path("runs").is_dir() or sys.exit("bench: expected ./runs with an exported model: run make demo first")
    main()
