"""Ctrl-C and SIGTERM ask a run to finish what is in flight and stop. A second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Calling it says whether a signal has come; `signal` is its number."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM inside the block (in the main thread only; elsewhere the flag stays down)."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, earlier[signal.Signals(number)])

    for number in earlier:
        signal.signal(number, remember)
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
