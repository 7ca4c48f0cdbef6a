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
from vtad_runtime.line.golden import Golden, GoldenError, GoldenReport
from vtad_runtime.line.options import RunOptions
from vtad_runtime.line.silence import Silence
from vtad_runtime.sources.capture import FrameSource
from vtad_runtime.verdict.detector import Detector

if TYPE_CHECKING:
    from vtad_runtime.page.state import PageState

AS_RECORDED, SHIFTED = 0, 5  # exit codes
SETTLE_S, MOST_S = 1.0, 15.0  # cameras take about a second to find their exposure; no frame for so long: none will come
POLL_S = 0.1  # how soon a signal is answered between two checks


class GoldenSamples:
    """The golden samples of a run: checked at its start, and again when they are due."""

    def __init__(self, options: RunOptions, detector: Detector) -> None:
        """Nothing is judged yet. Raises GoldenError: they cannot be used."""
        assert options.golden is not None
        self._options, self._golden = options, Golden(options.golden, detector)
        self._every_s, self._due = options.golden_every or math.inf, math.inf  # the next check, by time.monotonic()
        self._page: PageState | None = None

    def begin(
        self,
        device: FrameSource | None = None,
        page: PageState | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> GoldenReport:
        """The first check, with a frame of `device` for --golden-frame; what was found, which `page` shows from now on.

        Raises VtadError: they cannot be judged; or have shifted, and --strict.
        """
        options, self._page = self._options, page
        frame = _frame_before(device, options, stop) if device is not None and options.golden_frame else None
        report = self._check(frame)
        if options.strict and not report.ok:
            raise VtadError(
                f"{options.golden}: golden samples are not judged as they were (--strict): {report.lines[0]}", SHIFTED
            )
        return report

    def turn(self, silence: Silence) -> None:
        """Check again if due; frames that come meanwhile are dropped and counted. What cannot be checked ends no run."""
        if time.monotonic() < self._due:
            return
        try:
            with silence.due():
                self._check()
        except GoldenError as e:
            warning("golden", f"golden samples: {e}", ok=False)
            self._show(False, (str(e),))
            self._due = time.monotonic() + self._every_s

    def _check(self, frame: NDArray[np.uint8] | None = None) -> GoldenReport:
        """Check them, and say every finding."""
        report = self._golden.check(frame)
        for line in report.lines:
            event("golden", f"golden samples: {line}", ok=report.ok, cause=report.cause)
        self._show(report.ok, report.lines)
        self._due = time.monotonic() + self._every_s
        return report

    def _show(self, ok: bool, lines: tuple[str, ...]) -> None:
        if self._page is not None:
            self._page.set_golden("; ".join(lines), ok)


def check_alone(options: RunOptions) -> int:
    """Without a source: once, or every so often until a signal. 0 when all is as recorded, else 5. Raises VtadError.

    The model is opened anew for each check, so a file that was replaced is noticed. One that cannot be opened or judged by, as
    while it is being copied, ends nothing after the first check, unless --strict.
    """
    code: int | None = None
    with stoppable() as stop:
        while not stop():
            due = time.monotonic() + (options.every or 0)
            try:
                detector, prove = wiring.open_detector(options)
                samples = GoldenSamples(options, detector)
                prove()
                code = AS_RECORDED if samples.begin().ok else SHIFTED
            except VtadError as e:
                if code is None or options.strict:
                    raise
                code = SHIFTED
                warning("golden", f"golden samples: {e}", ok=False)
            if options.every is None:
                break
            while not stop() and time.monotonic() < due:
                time.sleep(POLL_S)
    return code or AS_RECORDED


def _frame_before(device: FrameSource, options: RunOptions, stop: Callable[[], bool]) -> NDArray[np.uint8] | None:
    """The frame of --golden-frame, (H, W, 3), cut and turned, once the camera had a second to settle. None: `stop`.

    Raises VtadError: no usable frame, or one that --roi does not fit.
    """
    start, first = time.monotonic(), None
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
    if stop():
        return None
    raise VtadError(f"--golden-frame: expected a frame of a golden part, got none within {MOST_S:.0f} s")
