"""Tells that an answer is overdue: an engine whose driver hangs, or a disk, says nothing of it, and no row would."""

from __future__ import annotations

import time
from collections.abc import Callable

from vtad_runtime.contract.log import event, warning
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.judgement import Judgement

SILENT_S = 10.0  # after which an answer is overdue; no picture takes an engine that works so long


class Silence:
    """Since when the next judgement is due. `look` may be called in any thread, the rest in the one that judges."""

    def __init__(self, name: str, detector: Detector, gone: Callable[[str], Judgement] | None = None) -> None:
        """`name` is the source's. `gone` makes the judgement that there is no verdict; None: nobody waits for one."""
        self._name, self._detector, self._gone = name, detector, gone
        self._since: float | None = None  # time.monotonic()
        self._said = False

    def begin(self) -> None:
        """A judgement is due from now on, if none was before."""
        if self._since is None:
            self._since = time.monotonic()

    def end(self) -> None:
        """It is there."""
        since, self._since = self._since, None
        if self._said and since is not None:
            self._said = False
            event("answered", f"{self._name}: judging goes on, after {time.monotonic() - since:.0f} s")

    def look(self) -> Judgement | None:
        """The judgement that there is no verdict, where one is overdue and somebody waits for it; the first time it is logged."""
        since = self._since
        if since is None or (seconds := time.monotonic() - since) < SILENT_S:
            return None
        engine = f"engine {self._detector.engine}"
        if not self._said:
            self._said = True
            who = engine if self._gone is not None else f"a file or {engine}"
            warning("silent", f"{self._name}: nothing was judged for {seconds:.0f} s: {who} does not answer")
        return None if self._gone is None else self._gone(f"{engine} has not answered for {seconds:.0f} s")
