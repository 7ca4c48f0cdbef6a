"""How many threads run a model at once: those that share each operation wait for the slowest of them every time."""

from __future__ import annotations

import os

MOST = 4  # callers; each holds what its picture takes inside the graph


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def callers_for(threads: int | None) -> int:
    """How many callers keep so many CPU threads busy (None: all cores)."""
    return min(threads or cores(), cores(), MOST)
