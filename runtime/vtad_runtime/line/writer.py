"""Hands judgements to the results folder and the outputs in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from vtad_runtime.outputs.results_folder import ResultsFolder
from vtad_runtime.verdict.judgement import Judgement, Output

WAITING = 8  # judgements that wait to be written, each with its frame


class Writer:
    """Writes in order; what waits is bounded. Use as a context manager."""

    def __init__(self, outputs: Sequence[Output], results: ResultsFolder | None = None, waiting: int = WAITING) -> None:
        """A row is in `results` before an output hears of it. The outputs are closed at the end, also after a failure."""
        self._outputs, self._results = outputs, results
        self._waiting: queue.Queue[Judgement | None] = queue.Queue(waiting)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="vtad-write", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
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
        while (judgement := self._waiting.get()) is not None:
            if self._failure is not None:
                continue  # taken out only, so that `put` never waits for ever
            try:
                if self._results is not None:
                    judgement = self._results.write(judgement)
                for output in self._outputs:
                    output.write(judgement)
            except Exception as e:  # the main thread tells it
                self._failure = e
        closing = [output.close for output in self._outputs]
        for close in (self._results.close, *closing) if self._results is not None else closing:
            try:
                close()
            except Exception as e:
                self._failure = self._failure or e
