"""`--show`: the newest judged frame in a window, where the OpenCV build has windows."""

from __future__ import annotations

from contextlib import suppress

import cv2

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.drawing.annotated import annotated
from vtad_runtime.drawing.encoding import PictureError
from vtad_runtime.verdict.judgement import Judgement, Output

TITLE = "vtad-run (q or Esc: stop)"
CLOSING_KEYS = (ord("q"), 27)


class WindowError(VtadError):
    """No window can be shown. One line."""


class Window(Output):
    """Keeps the newest judgement; `draw` shows it and `end` closes the window: in the main thread, as macOS demands."""

    def __init__(self) -> None:
        """Open the window. Raises WindowError where the OpenCV build or the screen has none."""
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as e:
            raise WindowError(
                "--show: expected an OpenCV with windows and a screen, got none (opencv-python-headless has no windows); "
                "use --live to watch in a browser"
            ) from e
        self._newest: Judgement | None = None
        self.closed = False  # whether its user asked to stop

    def write(self, judgement: Judgement) -> None:
        """Keep it for `draw`."""
        self._newest = judgement

    def draw(self) -> None:
        """Show the newest judgement and answer keys."""
        newest, self._newest = self._newest, None
        if newest is not None:
            with suppress(PictureError):  # the next one comes soon
                cv2.imshow(TITLE, cv2.cvtColor(annotated(newest), cv2.COLOR_RGB2BGR))
        self.closed = (
            self.closed
            or (cv2.waitKey(1) & 0xFF) in CLOSING_KEYS
            or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1  # closed by the mouse
        )

    def end(self) -> None:
        """Close the window; in the main thread."""
        cv2.destroyAllWindows()
