"""How far a long piece of work is: one line with a bar and the time left, on a terminal only.

Work says where it stands, wherever it is done: `for picture in watched(pictures, "judging")`, or a `Bar` of its own. A command
opens `bars`; a thread then draws the innermost bar as the last line of the terminal, once its work has taken a second. The line
goes when the work ends, and `aside` while other lines are written. In pipes, in a log and in a program of your own nothing is
drawn. Standard library only.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import TextIO, TypeVar

Thing = TypeVar("Thing")

AFTER_S = 1.0  # work that is done sooner shows no bar
EVERY_S = 0.25  # between two drawings
CELLS = 24  # of the bar
EIGHTHS = " ▏▎▍▌▋▊▉█"
COLUMNS = 80  # of a terminal that does not say
WIPE = "\r\x1b[K"  # to the start of the line, which is then cleared

_open: list[Bar] = []  # those whose work goes on, the outermost first
_screens: list[_Screen] = []  # one at most: it is the process that has a terminal


class Bar:
    """A piece of work in a `with` block. Without a `total` nobody knows how long it takes: the time so far is shown."""

    def __init__(self, label: str, total: float | None = None) -> None:
        self.label, self.total, self.done, self.text = label, total, 0.0, ""
        self.done_before, self._started_s = 0.0, time.monotonic()

    def __enter__(self) -> Bar:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        """The work begins, or goes on, now. Where no `with` block can hold it, `end` must follow."""
        self.done_before, self._started_s = self.done, time.monotonic()
        _open.append(self)

    def end(self) -> None:
        """It is done, or was given up."""
        with aside():
            _open.remove(self)

    def advance(self, by: float = 1.0) -> None:
        """So much more is done."""
        self.done += by

    def to(self, done: float, text: str = "") -> None:
        """So much of `total` is done; `text` says more of it."""
        self.done, self.text = done, text

    def seconds(self) -> float:
        """Since the work began."""
        return time.monotonic() - self._started_s


@contextmanager
def bars(shown: bool = True) -> Iterator[None]:
    """Draw the bars of the work inside the block on stderr, if that is a terminal."""
    if _screens or not shown or not _is_terminal(sys.stderr):
        yield
        return
    _screens.append(_Screen())
    try:
        yield
    finally:
        _screens.pop().close()


@contextmanager
def aside() -> Iterator[None]:
    """What is written inside the block, on stdout or stderr, has lines of its own: the bar is drawn again later."""
    with ExitStack() as held:
        for screen in _screens:
            held.enter_context(screen.mutex)
            screen.wipe()
        yield


def watched(things: Iterable[Thing], label: str, total: int | None = None) -> Iterator[Thing]:
    """The things one by one, with a bar. `total` is their number, where they do not know it themselves."""
    if total is None and isinstance(things, Collection):
        total = len(things)
    with Bar(label, total) as bar:
        for thing in things:
            yield thing
            bar.advance()


def line(bar: Bar, seconds: float, columns: int, blocks: bool) -> str:
    """A bar after so many seconds, in less than `columns` characters; `blocks`: the terminal has Unicode's."""
    if not bar.total:
        return f"{bar.label}  {duration(seconds)}  {bar.text}".rstrip()[: columns - 1]
    share, lately = min(1.0, max(0.0, bar.done / bar.total)), bar.done - bar.done_before
    left = f"{duration(seconds * max(0.0, bar.total - bar.done) / lately)} left" if lately > 0 else ""
    return f"{bar.label}  {_cells(share, blocks)} {share:4.0%}  {left}  {bar.text}".rstrip()[: columns - 1]


def duration(seconds: float) -> str:
    """0:07, 12:00, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def has_blocks(stream: TextIO) -> bool:
    """Whether a stream can show the blocks of bars and curves."""
    try:
        "▁█▏".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def columns_of(stream: TextIO) -> int:
    """How wide its terminal is, in characters."""
    with suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    return COLUMNS


class _Screen:
    """The thread that draws, and the last line of the terminal."""

    def __init__(self) -> None:
        self.mutex = threading.RLock()
        self._drawn, self._ended = False, threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="vtad-progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        with self.mutex:
            self.wipe()

    def wipe(self) -> None:
        if self._drawn:
            self._write(WIPE)
            self._drawn = False

    def _draw_on(self) -> None:
        while not self._ended.wait(EVERY_S):
            with self.mutex:
                if _open and (seconds := _open[-1].seconds()) >= AFTER_S:
                    text = line(_open[-1], seconds, columns_of(sys.stderr), has_blocks(sys.stderr))
                    self._write(WIPE + text)
                    self._drawn = True

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a bar that cannot be drawn ends nothing
            sys.stderr.write(text)
            sys.stderr.flush()


def _cells(share: float, blocks: bool) -> str:
    if not blocks:
        return f"[{'#' * round(CELLS * share):-<{CELLS}}]"
    full, part = divmod(round(8 * CELLS * share), 8)
    return f"{'█' * full}{EIGHTHS[part] if part else '':<{CELLS - full}}"


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
