"""One engine on this machine: does it judge the reference pictures in a model as torch did at its export, and how fast is it?

`python -m vtad_runtime.verdict.engine_trial '["pill.onnx", null, "openvino", 1, false]'` prints a `Trial` as JSON,
if stdin stays open until then.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np

from vtad_runtime.contract.errors import STOPPED, VtadError, one_line
from vtad_runtime.engine.engines import CPU, ENGINES
from vtad_runtime.engine.model import OpenModel
from vtad_runtime.engine.opening import open_model
from vtad_runtime.verdict.engine_choice import Trial
from vtad_runtime.verdict.reference_check import check_references

ROUNDS = 7  # of timed runs


def trial(model: Path, threads: int | None, engine: str, *, callers: int = 1, allow_changed: bool = False) -> Trial:
    """Let an engine judge the reference pictures, then time it beside the first engine, for `callers` at once."""
    try:
        ours = open_model(model, threads, engine=engine, callers=callers, allow_changed=allow_changed)
        _timed(ours, callers)  # the first run sets things up
        found = check_references(ours, reduced=ENGINES[engine].reduced)
        first = open_model(model, threads, engine=CPU, callers=callers, allow_changed=allow_changed)
        _timed(first, callers)
        pairs = [(_timed(ours, callers), _timed(first, callers)) for _ in range(ROUNDS)]
    except VtadError as e:
        return Trial(engine, False, one_line(e), None, None)
    ms, of_first = (median(values) for values in zip(*pairs, strict=True))
    ok, said = (None, "no reference pictures in the model") if found is None else (found.ok, str(found))
    return Trial(engine, ok, said, ms, of_first / ms)


def _timed(session: OpenModel, callers: int) -> float:
    """Milliseconds a picture of noise, `callers` at once: each judged by a thread where the session has several callers."""
    shape = (callers, 3, session.card.input.height, session.card.input.width)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    parts = np.split(noise, session.callers)
    with ThreadPoolExecutor(len(parts)) as pool:
        start = time.perf_counter()
        list(pool.map(session.verdict, parts))
        return 1000 * (time.perf_counter() - start) / callers


def _end_with_parent() -> None:
    """End this process when its stdin ends, which the one that waits for it holds open."""
    os.read(0, 1)
    os._exit(STOPPED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asked_model, asked_threads, asked_engine, at_once, changed = json.loads(sys.argv[1])
    found = trial(Path(asked_model), asked_threads, asked_engine, callers=at_once, allow_changed=changed)
    print(json.dumps(asdict(found)))
