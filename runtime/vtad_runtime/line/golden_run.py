"""Golden samples within a run: before it starts, again and again while it goes on, or alone without a source."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.command_line.stopping import stoppable
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.image import ImageError
from vtad_runtime.contract.log import event, warning
from vtad_runtime.line import wiring
from vtad_runtime.line.golden import Golden, GoldenError
from vtad_runtime.line.options import RunOptions
from vtad_runtime.verdict.detector import Detector

if TYPE_CHECKING:
    from vtad_runtime.page.state import PageState

AS_RECORDED, SHIFTED = 0, 5  # exit codes
SETTLE_S, MOST_S = 1.0, 15.0  # cameras take about a second to find their exposure; no frame for so long: none will come
POLL_S = 0.1  # how soon a signal is answered between two checks


class GoldenSamples:
    """The golden samples of a run: checked at its start, and again when they are due."""

    def __init__(self, options: RunOptions, detector: Detector, stop: Callable[[], bool] = lambda: False) -> None:
        """Check them and say what was found. Raises VtadError: they cannot be used; or have shifted, and --strict."""
        assert options.golden is not None
        self._golden = Golden(options.golden, detector)
        self._every_s, self._due = options.golden_every or math.inf, math.inf  # the next check, by time.monotonic()
        self._page: PageState | None = None
        frame = _frame_before(options, stop) if options.golden_frame else None
        self._check(frame)
        if options.strict and not self.report.ok:
            raise VtadError(
                f"{options.golden}: golden samples are not judged as they were (--strict): {self.report.lines[0]}",
                SHIFTED,
            )

    def show_on(self, page: PageState | None) -> None:
        """Show what was found on the page, from now on."""
        self._page = page
        self._show(self.report.ok, self.report.lines)

    def turn(self) -> None:
        """Check again if due; frames that come meanwhile are dropped and counted. What cannot be checked ends no run."""
        if time.monotonic() < self._due:
            return
        try:
            self._check()
        except GoldenError as e:
            warning("golden", f"golden samples: {e}", ok=False)
            self._show(False, (str(e),))
            self._due = time.monotonic() + self._every_s

    def _check(self, frame: NDArray[np.uint8] | None = None) -> None:
        """Check them, and say every finding."""
        self.report = self._golden.check(frame)
        for line in self.report.lines:
            event("golden", f"golden samples: {line}", ok=self.report.ok, cause=self.report.cause)
        self._show(self.report.ok, self.report.lines)
        self._due = time.monotonic() + self._every_s

    def _show(self, ok: bool, lines: tuple[str, ...]) -> None:
        if self._page is not None:
            self._page.set_golden("; ".join(lines), ok)


def check_alone(options: RunOptions) -> int:
    """Without a source: once, or every so often until a signal. 0 when all is as recorded, else 5. Raises VtadError.

    The model is opened anew for each check, so a file that was replaced is noticed.
    """
    code = AS_RECORDED
    with stoppable() as stop:
        while not stop():
            due = time.monotonic() + (options.every or 0)
            samples = GoldenSamples(options, wiring.open_detector(options))
            code = AS_RECORDED if samples.report.ok else SHIFTED
            if options.every is None:
                break
            while not stop() and time.monotonic() < due:
                time.sleep(POLL_S)
    return code


def _frame_before(options: RunOptions, stop: Callable[[], bool]) -> NDArray[np.uint8] | None:
    """The frame of --golden-frame, (H, W, 3), cut and turned, once the camera had a second to settle. None: `stop`.

    Raises VtadError: no usable frame, or one that --roi does not fit.
    """
    start, first = time.monotonic(), None
    device = wiring.open_device(options)
    try:
        while not stop() and time.monotonic() - start < MOST_S:
            shot = device.read(stop)
            if shot is None:
                break
            if shot.rgb is None:
                continue
            first = first or time.monotonic()
            if time.monotonic() - first >= SETTLE_S:
                return wiring.geometry_of(options).apply(shot.rgb)
    except ImageError:
        raise
    except Exception as e:  # a driver may raise anything
        raise VtadError(f"--golden-frame: expected a frame, got {e}") from e
    finally:
        device.close()
    if stop():
        return None
    raise VtadError(f"--golden-frame: expected a frame of a golden part, got none within {MOST_S:.0f} s")
