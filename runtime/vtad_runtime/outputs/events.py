"""Outputs that say what happens over the frames of a run: alarms going on and off, drift of the scores."""

from __future__ import annotations

from collections.abc import Callable

from vtad_runtime.contract.log import event, warning
from vtad_runtime.verdict.drift import Drift
from vtad_runtime.verdict.judgement import Judgement, Output


class AlarmEvents(Output):
    """An event when the alarm goes on, and when it goes off."""

    def __init__(self) -> None:
        self._on = False

    def write(self, judgement: Judgement) -> None:
        """Compare with the last one."""
        on = bool(judgement.alarm)
        if on != self._on:
            word = "on" if on else "off"
            event(f"alarm_{word}", f"alarm {word} at frame {judgement.number}", frame=judgement.number)
        self._on = on


class DriftEvents(Output):
    """Watches whether scores drift from the calibration, and warns once per excursion."""

    def __init__(self, drift: Drift, show: Callable[[str | None], None] | None, quiet: bool = False) -> None:
        """`show` gets the warning while an excursion lasts, None after it. `quiet`: scores are counted, nothing is said."""
        self._drift, self._show, self._quiet = drift, show, quiet
        self._shown: str | None = None

    def write(self, judgement: Judgement) -> None:
        """Take one score. Frames that are not trusted or not judged are left out: they say nothing of the parts."""
        if judgement.result is None or judgement.verdict not in ("OK", "NG"):
            return
        found = self._drift.add(judgement.score)
        if found is not None and not self._quiet:
            warning("drift", found, **self._drift.state())
        lasting = self._drift.state()["warning"]
        if lasting != self._shown and self._show is not None:
            self._shown = lasting
            self._show(lasting)
