"""Tells that an answer is overdue: an engine whose driver hangs, or a disk, says nothing of it, and no row would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vtad_runtime.contract.log import event, warning
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.judgement import Judgement

SILENT_S = 10.0  # after which an answer is overdue; no picture takes an engine that works so long


class Silence:
    """Since when an answer is due. `look` may be called in any thread, the rest in the one that judges."""

    def __init__(self, name: str, detector: Detector, gone: Callable[[str], Judgement] | None = None) -> None:
        """`name` is the source's. `gone` makes the judgement that there is no verdict; None: nobody waits for one."""
        self._name, self._detector, self._gone = name, detector, gone
        self._changing = threading.Lock()
        self._since: float | None = None  # time.monotonic()
        self._said = False

    def begin(self) -> None:
        """An answer is due from now on, if none was before."""
        with self._changing:
            if self._since is None:
                self._since = time.monotonic()

    def no_frame(self) -> None:
        """None has come: where nobody waits for a verdict, of files and videos, the next one is due."""
        if self._gone is None:
            self.begin()

    def end(self) -> None:
        """It is there."""
        with self._changing:
            since, self._since = self._since, None
            said, self._said = self._said, False
        if said and since is not None:
            event("answered", f"{self._name}: judging goes on, after {time.monotonic() - since:.0f} s")

    @contextmanager
    def due(self) -> Iterator[None]:
        """An answer is due from the beginning of the block, and there at its end."""
        self.end()
        self.begin()
        try:
            yield
        finally:
            self.end()

    def look(self) -> Judgement | None:
        """The judgement that there is no verdict, where one is overdue and somebody waits for it; the first time it is logged."""
        with self._changing:
            if self._since is None or (seconds := time.monotonic() - self._since) < SILENT_S:
                return None
            first, self._said = not self._said, True
        engine = f"engine {self._detector.engine}"
        if first:
            who = engine if self._gone is not None else f"a file or {engine}"
            warning("silent", f"{self._name}: nothing was judged for {seconds:.0f} s: {who} does not answer")
        return None if self._gone is None else self._gone(f"{engine} has not answered for {seconds:.0f} s")
