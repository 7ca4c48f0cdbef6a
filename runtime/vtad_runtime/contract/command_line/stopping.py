"""Ctrl-C and SIGTERM end a run in good order.

`stoppable`: it is asked to finish what is in flight; a second signal, or `LAST_S` seconds, end it at once.
`interruptible`: for work that cannot ask, but cleans up when an exception leaves it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

from vtad_runtime.contract.errors import VtadError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST_S = 9.0  # nobody waits longer for the end of a run, whatever hangs; service managers send SIGKILL after ten
REPEAT_S = 1.0  # `timeout` and terminals may send one request twice; the second must not cut the cleaning up short


class Stop:
    """Calling it says whether a signal has come; `signal` is its number.

    `at_once`: what else is done when one comes, in a thread of its own; of `stoppable` with `too_late` alone.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.at_once: list[Callable[[], None]] = []

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None


class Stopped(BaseException):
    """A signal came. Not an Exception, so that nothing on the way takes it for a failure of its own."""


@contextmanager
def stoppable(too_late: Callable[[int], None] | None = None) -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM inside the block (in the main thread only; elsewhere the flag stays down).

    When the block has not ended `LAST_S` seconds after the signal, `too_late` is called with its number, in another thread.
    """
    stop, earlier = Stop(), {number: signal.getsignal(number) for number in SIGNALS}

    def remember(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, earlier[signal.Signals(number)])

    with _handled_by(remember), nullcontext() if too_late is None else _heard(stop, too_late):
        yield stop


@contextmanager
def _heard(stop: Stop, too_late: Callable[[int], None]) -> Iterator[None]:
    """Listen to signals in a thread of its own: the main one, where it hangs in a library, runs no handler of Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hears, tells = os.pipe()
    if hasattr(os, "set_blocking"):  # Python asks for it, except on Windows
        os.set_blocking(tells, False)
    ended = threading.Event()

    def listen() -> None:
        while (heard := os.read(hears, 1)) and heard[0] not in SIGNALS:
            pass
        if not heard:
            return
        stop.signal = heard[0]
        threading.Thread(target=_each, args=(stop.at_once,), name="vtad-last", daemon=True).start()
        if not ended.wait(LAST_S):
            too_late(heard[0])

    thread = threading.Thread(target=listen, name="vtad-signals", daemon=True)
    before = signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(tells)
        thread.join()
        os.close(hears)


def _each(acts: list[Callable[[], None]]) -> None:
    """Each in turn, whatever fails."""
    for act in acts:
        with suppress(Exception):
            act()


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Raise Stopped inside the block at SIGINT or SIGTERM (in the main thread only).

    A signal that comes within REPEAT_S of one that was heeded is the same request. A later one raises again: a library may
    have swallowed the first.
    """
    stop, heeded_s = Stop(), -REPEAT_S

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal heeded_s
        if time.monotonic() - heeded_s < REPEAT_S:
            return
        stop.signal, heeded_s = number, time.monotonic()
        raise Stopped

    with _handled_by(interrupt):
        yield stop


@contextmanager
def stopped_as_line(said: str, complete: str) -> Iterator[None]:
    """A signal inside the block as a VtadError with its exit code, when what was half written is gone.

    `complete`: what is said where the work ended all the same, as it does when a library swallows the signal.
    """
    with interruptible() as stop:
        try:
            yield
        except BaseException as e:  # also what a library made of the interruption
            if stop.signal is None:
                raise
            raise stopped(stop, said) from e
        if stop():
            raise stopped(stop, complete)


def stopped(stop: Stop, said: str) -> VtadError:
    """The error of a command that a signal ended."""
    return VtadError(f"stopped; {said}", 128 + (stop.signal or 0))


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` take both signals inside the block. In another thread than the main one nothing can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, handler)
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
