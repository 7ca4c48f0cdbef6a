"""Hands judgements to the results folder and the outputs in a thread of its own.

At the end what waits is written within seconds: after `DRAWING_S` rows go without their pictures, and outputs are closed
beside each other, for each may wait for a receiver.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence

from vtad_runtime.outputs.results_folder import ResultsFolder
from vtad_runtime.verdict.judgement import Judgement, Output

DRAWING_S = 3.0  # after the end of a run
QUIET_S = 3.0  # without a judgement, until the writing thread asks why
WAITING = 8  # judgements that wait to be written, each with its frame


class Writer:
    """Writes in order; what waits is bounded. Use as a context manager."""

    def __init__(
        self,
        outputs: Sequence[Output],
        results: ResultsFolder | None = None,
        waiting: int = WAITING,
        quiet: Callable[[], Judgement | None] = lambda: None,
    ) -> None:
        """A row is in `results` before an output hears of it. The outputs are closed at the end, also after a failure.

        While no judgement comes `quiet` is asked every three seconds, and what it gives is written.
        """
        self._outputs, self._results, self._quiet = outputs, results, quiet
        self._waiting: queue.Queue[Judgement | None] = queue.Queue(waiting)
        self._failure: Exception | None = None
        self.written = self.unwritten = 0  # judgements that everybody got; and those that not everybody did
        self._drawn_until = math.inf  # time.monotonic()
        self._thread = threading.Thread(target=self._run, name="vtad-write", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._drawn_until = time.monotonic() + DRAWING_S
        self._waiting.put(None)
        self._thread.join()
        if error is None:
            self.check()

    def put(self, judgement: Judgement) -> None:
        """Queue one judgement; waits while the queue is full. Raises what an output raised before."""
        self.check()
        self._waiting.put(judgement)

    def check(self) -> None:
        """Raise what an output raised, if one did."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while self._write_next():
            pass
        closing = [self._results.close] if self._results is not None else []
        closing += [output.close for output in self._outputs]
        threads = [threading.Thread(target=self._closed, args=(close,), name="vtad-close") for close in closing]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _write_next(self) -> bool:
        """Write the next judgement, if one comes, and let go of it; False after the last."""
        try:
            judgement = self._waiting.get(timeout=QUIET_S)
        except queue.Empty:
            if (judgement := self._quiet()) is None:
                return True
        if judgement is None:
            return False
        if self._failure is not None:
            self.unwritten += 1
            return True  # taken out only, so that `put` never waits for ever
        try:
            if self._results is not None:
                judgement = self._results.write(judgement, pictures=time.monotonic() < self._drawn_until)
            for output in self._outputs:
                output.write(judgement)
            self.written += 1
        except Exception as e:  # the main thread tells it
            self._failure = e
            self.unwritten += 1
        return True

    def _closed(self, close: Callable[[], None]) -> None:
        try:
            close()
        except Exception as e:
            self._failure = self._failure or e
