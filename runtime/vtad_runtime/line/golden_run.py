"""Golden samples within a run: before it starts, again and again while it goes on, or alone without a source."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from vtad_runtime.contract.errors import USAGE, VtadError
from vtad_runtime.contract.log import event, warning
from vtad_runtime.line import wiring
from vtad_runtime.line.options import RunOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vtad_runtime.line.golden import Golden, GoldenReport
    from vtad_runtime.page.state import PageState
    from vtad_runtime.sources.capture import FrameSource
    from vtad_runtime.verdict.detector import Detector

AS_RECORDED, NOT_JUDGED, SHIFTED = 0, 3, 5  # exit codes
SETTLE_S, MOST_S = 1.0, 15.0  # cameras take about a second to find their exposure; no frame for so long: none will come
POLL_S = 0.1  # how soon a signal is answered between two checks

Checked = tuple["Golden", "GoldenReport"]


def checked(options: RunOptions, detector: Detector, frame: NDArray[np.uint8] | None = None) -> Checked | None:
    """The golden samples of --golden and their check, said as events; None without them.

    `frame`, (H, W, 3), shows a known good part before the camera. Raises VtadError: unusable; or shifted, and --strict.
    """
    if options.golden is None:
        return None
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.line.golden import Golden, GoldenError

    try:
        golden = Golden(options.golden, detector)
        report = golden.check(frame)
    except GoldenError as e:
        raise VtadError(e, USAGE) from e
    except ModelError as e:
        raise VtadError(e, NOT_JUDGED) from e
    tell(report)
    if options.strict and not report.ok:
        raise VtadError(
            f"{options.golden}: golden samples are not judged as they were (--strict): {report.lines[0]}", SHIFTED
        )
    return golden, report


def check_alone(options: RunOptions) -> int:
    """Without a source: once, or every so often until a signal. 0 when all is as recorded, else 5. Raises VtadError.

    The model is opened anew for each check, so a file that was replaced is noticed.
    """
    from vtad_runtime.contract.stopping import stoppable

    code = AS_RECORDED
    with stoppable() as stop:
        while not stop():
            due = time.monotonic() + (options.every or 0)
            result = checked(options, wiring.open_detector(options))
            code = AS_RECORDED if result is not None and result[1].ok else SHIFTED
            if options.every is None:
                break
            while not stop() and time.monotonic() < due:
                time.sleep(POLL_S)
    return code


def part_before(
    source: FrameSource, apply: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], stop: Callable[[], bool]
) -> NDArray[np.uint8] | None:
    """The frame that a camera or stream gives after it had a second to settle; `apply` cuts and turns it. None on `stop`.

    Raises VtadError: no usable frame, or one that --roi does not fit.
    """
    from vtad_runtime.contract.image import ImageError

    start, first = time.monotonic(), None
    try:
        while not stop() and time.monotonic() - start < MOST_S:
            shot = source.read(stop)
            if shot is None:
                break
            if shot.rgb is None:
                continue
            first = first or time.monotonic()
            if time.monotonic() - first >= SETTLE_S:
                return apply(shot.rgb)
    except ImageError as e:
        raise VtadError(e, USAGE) from e
    except Exception as e:  # a driver may raise anything
        raise VtadError(f"--golden-frame: expected a frame, got {e}", USAGE) from e
    if stop():
        return None
    raise VtadError(f"--golden-frame: expected a frame of a golden part, got none within {MOST_S:.0f} s", USAGE)


class GoldenTurn:
    """Checks the golden samples again when they are due. Frames that come meanwhile are dropped and counted."""

    def __init__(self, golden: Golden, every_s: float, page: PageState | None) -> None:
        self._golden, self._every_s, self._page = golden, every_s, page
        self._due = time.monotonic() + every_s

    def __call__(self) -> None:
        """Check if due. What cannot be checked is said, and does not end the run."""
        from vtad_runtime.line.golden import GoldenError

        if time.monotonic() < self._due:
            return
        try:
            report = self._golden.check()
            tell(report)
            show(self._page, report.ok, report.lines)
        except GoldenError as e:
            warning("golden", f"golden samples: {e}", ok=False)
            show(self._page, False, (str(e),))
        self._due = time.monotonic() + self._every_s


def tell(report: GoldenReport) -> None:
    """Every finding of a check as an event."""
    for line in report.lines:
        event("golden", f"golden samples: {line}", ok=report.ok, cause=report.cause)


def show(page: PageState | None, ok: bool, lines: tuple[str, ...]) -> None:
    """The findings of a check on the page."""
    if page is not None:
        page.set_golden("; ".join(lines), ok)
