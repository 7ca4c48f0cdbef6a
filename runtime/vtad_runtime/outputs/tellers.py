"""Outputs that tell of a live run as it goes: a line per frame, alarms going on and off, drift of the scores."""

from __future__ import annotations

from collections.abc import Callable

from vtad_runtime.contract.log import event, note, warning
from vtad_runtime.verdict.drift import Drift
from vtad_runtime.verdict.judgement import Judgement


class FrameLines:
    """One line for people per judgement."""

    def write(self, judgement: Judgement) -> None:
        """Print it. Raises BrokenPipeError when the reader went away."""
        note(frame_line(judgement))

    def close(self) -> None:
        """Nothing is held back."""


class AlarmEvents:
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

    def close(self) -> None:
        """Nothing is held open."""


class DriftEvents:
    """Watches whether scores drift from the calibration, and warns once per excursion."""

    def __init__(self, drift: Drift, show: Callable[[str | None], None]) -> None:
        """`show` gets the warning while an excursion lasts, None after it."""
        self.drift = drift
        self._show = show
        self._shown: str | None = None

    def write(self, judgement: Judgement) -> None:
        """Take one score. Frames that are not trusted or not judged are left out: they say nothing of the parts."""
        if judgement.result is None or judgement.verdict not in ("OK", "NG"):
            return
        found = self.drift.add(judgement.score)
        if found is not None:
            warning("drift", found, **self.drift.state())
        lasting = self.drift.state()["warning"]
        if lasting != self._shown:
            self._shown = lasting
            self._show(lasting)

    def close(self) -> None:
        """Nothing is held open."""


def frame_line(judgement: Judgement) -> str:
    """One judgement for people."""
    words = [f"frame {judgement.number}" if judgement.frame or judgement.file else "no frame", str(judgement.verdict)]
    result = judgement.result
    if result is not None:
        age_ms = judgement.queue_age_ms + judgement.prepare_ms + judgement.infer_ms
        words += [
            f"score {result.score:.3f}",
            f"threshold {judgement.threshold:.3f}",
            f"p {result.p_value:.3g}",
            f"regions {len(result.regions)}",
            f"age {age_ms:.0f} ms",
        ]
    if judgement.dropped:
        words.append(f"dropped {judgement.dropped}")
    if judgement.alarm:
        words.append("ALARM")
    path = judgement.frame.path if judgement.frame else judgement.file
    return "  ".join(words + [word for word in (path, judgement.reason) if word])
