"""What the first NG of a line needs is opened before it comes, once the line is running."""

from __future__ import annotations

import threading
from contextlib import suppress

from vtad_runtime.engine.model import ModelError
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.judgement import Judgement, Output

JOIN_S = 4.0  # an engine may compile for minutes; then its thread is left behind


class OpenedAhead(Output):
    """Opens what explains a picture in a thread of its own, after the first judgement: the start does not wait for it either."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._thread = threading.Thread(target=self._open, name="vtad-ahead", daemon=True)

    def write(self, judgement: Judgement) -> None:
        """Begin, at the first one."""
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """Wait for it."""
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    def _open(self) -> None:
        with suppress(ModelError):  # whoever needs it says so
            self._detector.open_whole()
