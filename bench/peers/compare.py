"""Time an export of vtad and other detectors' ONNX files in turns: one thread each, CPU time of this process, one run.

    python -m bench.peers.compare DIR [MODEL]

DIR holds what `bench/peers/export.py` wrote; MODEL is an export of 256 x 256 pixels, by default the newest below ./runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from bench import bare
from bench.clock import cpu_milliseconds
from vtad_runtime.engine.engines import CPU
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.opening import newest_model, open_model
from vtad_runtime.verdict.engine_choice import others

SIDE = 256  # pixels, of all of them
ROUNDS = 15


def ours(model: Path) -> dict[str, Callable[[], object]]:
    """The verdict alone, by each engine that runs here."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE), dtype=np.uint8)
    found: dict[str, Callable[[], object]] = {}
    for engine in (CPU, *others()):
        try:
            opened = open_model(model, threads=1, engine=engine)
        except ModelError as e:
            print(f"left out: {e}", file=sys.stderr)
            continue
        if (opened.card.input.height, opened.card.input.width) != (SIDE, SIDE):
            raise SystemExit(f"{model}: expected an export of {SIDE} x {SIDE} pixels; train with --image-height {SIDE}")
        found[f"vtad, {engine}"] = lambda opened=opened: opened.verdict(pixels)
    return found


def theirs(folder: Path) -> dict[str, Callable[[], object]]:
    """Each peer by onnxruntime on the CPU."""
    image = np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)
    found: dict[str, Callable[[], object]] = {}
    for file in sorted(folder.glob("*.onnx")):
        session = bare.session(file.read_bytes(), threads=1)
        found[file.stem] = lambda session=session: session.run(None, {"image": image})
    if not found:
        raise SystemExit(f"{folder}: expected the files of bench/peers/export.py, got none")
    return found


def main(folder: Path, model: Path) -> None:
    """Print a table: CPU time a picture, and pictures a second beside those of the fastest peer."""
    mine, peers = ours(model), theirs(folder)
    for run in (*mine.values(), *peers.values()):  # the first call prepares
        run(), run()
    times: dict[str, list[float]] = {name: [] for name in (*mine, *peers)}
    for _ in range(ROUNDS):
        for name, run in (*mine.items(), *peers.items()):
            times[name].append(cpu_milliseconds(run))
    fastest = min(peers, key=lambda name: median(times[name]))
    print(
        f"| {SIDE} x {SIDE} pixels, one thread, {ROUNDS} rounds in turns | CPU ms a picture | pictures beside {fastest} |"
    )
    print("|---|---|---|")
    for name, of in sorted(times.items(), key=lambda item: median(item[1])):
        ratio = median(peer / own for peer, own in zip(times[fastest], of, strict=True))
        print(f"| {name} | {median(of):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else newest_model())
