"""One engine on this machine: does it judge the reference pictures in a model as torch did at its export, and how fast is it?

`python -m vtad_runtime.verdict.engine_trial '["pill.onnx", null, "openvino", false]'` prints a `Trial` as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np

from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.engine.engines import CPU, ENGINES
from vtad_runtime.engine.model import OpenModel
from vtad_runtime.engine.opening import open_model
from vtad_runtime.verdict.engine_choice import Trial
from vtad_runtime.verdict.reference_check import check_references

ROUNDS = 7  # of timed runs


def trial(model: Path, threads: int | None, engine: str, *, allow_changed: bool = False) -> Trial:
    """Let an engine judge the reference pictures, then time it beside the first engine."""
    try:
        ours = open_model(model, threads, engine=engine, allow_changed=allow_changed)
        _timed(ours)  # the first run sets things up
        found = check_references(ours, reduced=ENGINES[engine].reduced)
        first = open_model(model, threads, engine=CPU, allow_changed=allow_changed)
        _timed(first)
        pairs = [(_timed(ours), _timed(first)) for _ in range(ROUNDS)]
    except VtadError as e:
        return Trial(engine, False, one_line(e), None, None)
    ms, of_first = (median(values) for values in zip(*pairs, strict=True))
    ok, said = (None, "no reference pictures in the model") if found is None else (found.ok, str(found))
    return Trial(engine, ok, said, ms, of_first / ms)


def _timed(session: OpenModel) -> float:
    """Milliseconds of the verdict on one picture of noise."""
    shape = (1, 3, session.card.input.height, session.card.input.width)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    start = time.perf_counter()
    session.verdict(noise)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    asked_model, asked_threads, asked_engine, changed = json.loads(sys.argv[1])
    print(json.dumps(asdict(trial(Path(asked_model), asked_threads, asked_engine, allow_changed=changed))))
