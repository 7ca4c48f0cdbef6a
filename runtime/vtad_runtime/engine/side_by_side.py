"""A batch in parts that run at the same time: threads that share each operation wait for the slowest of them every time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.engine.declared import joined
from vtad_runtime.engine.model import Found

MOST = 4  # parts; each holds what its pictures take inside the graph


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parts_for(threads: int | None) -> int:
    """How many parts keep so many CPU threads busy (None: all cores)."""
    return min(threads or cores(), cores(), MOST)


def side_by_side(batch: NDArray[np.uint8], parts: int, unit: int, run: Callable[[NDArray[np.uint8]], Found]) -> Found:
    """What `run` gives for a batch (n, 3, height, width), `parts` at once; each but the last has a multiple of `unit` pictures.

    Raises what a part raises, once none runs any more.
    """
    runs = -(-len(batch) // unit)
    if min(parts, runs) < 2:
        return run(batch)
    size = -(-runs // min(parts, runs)) * unit
    first, *others = (batch[i : i + size] for i in range(0, len(batch), size))
    with ThreadPoolExecutor(len(others), "vtad-model") as pool:
        beside = [pool.submit(run, part) for part in others]
        return joined([run(first), *(future.result() for future in beside)], len(batch))
