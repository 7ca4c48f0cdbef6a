"""How long one call takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def milliseconds(work: Callable[[], object]) -> float:
    """By the clock."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def cpu_milliseconds(work: Callable[[], object]) -> float:
    """Of the processor, by this process."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)
