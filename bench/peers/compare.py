"""How fast the verdict is beside other detectors: their ONNX files and an export of vtad of the same size, in turns.

One thread each, CPU time of this process. `bench/peers/export.py` makes the files, in an environment of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from bench import bare
from bench.clock import cpu_milliseconds
from bench.table import NotMeasured, Part, Ratio
from vtad_runtime.engine.engines import CPU
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.opening import open_model

SIDE = 256  # pixels, of all of them
ROUNDS = 15
FASTEST = "STFPM (ResNet18)"  # of those that export.py writes
AIMS = {CPU: 2.0, "openvino": None, "openvino-bf16": 3.0}
OURS = {
    engine: Ratio(
        f"pictures a second of CPU time at {SIDE} x {SIDE}, {engine} : {FASTEST} by onnxruntime", at_least=aim
    )
    for engine, aim in AIMS.items()
}
THEIRS = {
    name: Ratio(f"the same, {name} : {FASTEST}")
    for name in (
        "FastFlow (ResNet18)",
        "PaDiM (ResNet18)",
        "EfficientAD (S)",
        "PatchCore (Wide ResNet50, 20,000 patches)",
    )
}


def measure(asked: argparse.Namespace) -> Iterator[tuple[Ratio, float | str]]:
    """Each ratio, all from the same rounds. Raises NotMeasured: there are no files, or none of our size."""
    if asked.peers is None:
        raise NotMeasured(
            "name the folder of bench/peers/export.py by --peers, and a model of 256 x 256 by --peers-model"
        )
    peers = {file.stem: _peer(file) for file in sorted(asked.peers.glob("*.onnx"))}
    if FASTEST not in peers:
        raise NotMeasured(f"{asked.peers}: expected the files of bench/peers/export.py, got none of {FASTEST}")
    runs, missing = dict(peers), dict[str, str]()
    for engine in OURS:
        try:
            runs[engine] = _ours(asked.peers_model or bare.model_of(asked), engine)
        except ModelError as e:  # it is not installed, or there is no such device here
            missing[engine] = str(e)
    times = _times(runs)
    for name, ratio in (OURS | THEIRS).items():
        if name in times:
            yield ratio, median(peer / own for peer, own in zip(times[FASTEST], times[name], strict=True))
        else:
            yield ratio, missing.get(name, f"{asked.peers}: no such file")


def _times(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each, in rounds."""
    for run in runs.values():  # the first call prepares
        run(), run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(cpu_milliseconds(run))
    return times


def _ours(model: Path, engine: str) -> Callable[[], object]:
    """The verdict alone. Raises ModelError, NotMeasured."""
    opened = open_model(model, threads=1, engine=engine)
    if (opened.card.input.height, opened.card.input.width) != (SIDE, SIDE):
        raise NotMeasured(f"{model}: expected an export of {SIDE} x {SIDE} pixels; train with --image-height {SIDE}")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE), dtype=np.uint8)
    return lambda: opened.verdict(pixels)


def _peer(file: Path) -> Callable[[], object]:
    session = bare.session(file.read_bytes(), threads=1)
    image = np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)
    return lambda: session.run(None, {"image": image})


PART = Part("peers", (*OURS.values(), *THEIRS.values()), measure)
