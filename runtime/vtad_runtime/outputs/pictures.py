"""Saves pictures of judgements: the heatmap over the frame or a side-by-side panel, and the frame itself if asked for.

heatmaps/20261124T083000.123Z-000123-NG.jpg     when it was captured (UTC), which frame, the verdict
originals/20261124T083000.123Z-000123-NG.png    the same frame, unmarked, lossless
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vtad_runtime.contract.files import write_whole
from vtad_runtime.contract.json_values import iso_utc
from vtad_runtime.contract.log import warning
from vtad_runtime.drawing import heatmap, panel
from vtad_runtime.drawing.encoding import RGB, PictureError, Suffix, encode
from vtad_runtime.outputs.retention import Retention
from vtad_runtime.verdict.detector import Result
from vtad_runtime.verdict.judgement import Judgement
from vtad_runtime.verdict.verdict import Verdict

RETRY_S = 30.0  # after a picture could not be written, the next try comes this much later


class PictureWriter:
    """An output of judgements. What cannot be saved is said once and left out; it never ends a run."""

    def __init__(
        self,
        folder: Path,
        save: Literal["all", "ng", "none"],
        view: Literal["overlay", "panel"],
        suffix: Suffix,
        retention: Retention | None,
        originals: bool = False,
    ) -> None:
        """Save into heatmaps/ and originals/ of the results folder. `save="ng"` is everything that is not OK."""
        self._folder = folder
        self._save = save
        self._draw = panel.panel if view == "panel" else heatmap.overlay
        self._suffix = suffix
        self._retention = retention
        self._originals = originals
        self._undrawable = False  # whether that was said
        self._retry_at: float | None = None  # time.monotonic(); None while writing works
        self.last: str | None = None  # the picture of the last judgement, below the folder
        self.last_original: str | None = None  # likewise its unmarked frame

    def write(self, judgement: Judgement) -> None:
        """Save what is asked for of one judgement; sets `last` and `last_original`."""
        self.last = self.last_original = None
        frame, result = judgement.frame, judgement.result
        if frame is None or not self._wants(judgement.verdict) or not self._can_save():
            return
        moment = iso_utc(judgement.captured_at).replace("-", "").replace(":", "")
        stem = f"{moment}-{judgement.number:06d}-{judgement.verdict}"
        if result is not None:
            self.last = self._write(
                f"heatmaps/{stem}{self._suffix}", lambda: self._draw(frame.rgb, _as_judged(result, judgement))
            )
        if self._originals:
            self.last_original = self._write(f"originals/{stem}.png", lambda: frame.rgb)

    def close(self) -> None:
        """Free the results folder for the retention of later runs."""
        if self._retention is not None:
            self._retention.close()

    def _wants(self, verdict: Verdict) -> bool:
        return self._save == "all" or (self._save == "ng" and verdict is not Verdict.OK)

    def _can_save(self) -> bool:
        """Whether drawing is worth while."""
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return False
        return self._retention is None or self._retention.room_for(0)

    def _write(self, name: str, draw: Callable[[], RGB]) -> str | None:
        """Draw and save one picture whole or not at all; its name, or None."""
        try:
            data = encode(draw(), ".jpg" if name.endswith(".jpg") else ".png")
        except PictureError as e:
            if not self._undrawable:
                line = f"{self._folder}: {name} is left out: {e}; judging goes on, further ones are not said"
                warning("pictures", line)
            self._undrawable = True
            return None
        path = self._folder / name
        try:
            if self._retention is not None and not self._retention.room_for(len(data)):
                return None
            write_whole(path, data)
            if self._retention is not None:
                self._retention.added(path)
        except OSError as e:
            self._failed(e)
            return None
        if self._retry_at is not None:
            self._retry_at = None
            warning("pictures", f"{self._folder}: pictures are saved again")
        return name

    def _failed(self, error: OSError) -> None:
        if self._retry_at is None:
            warning(
                "pictures",
                f"{self._folder}: cannot save pictures: {error.strerror or error}; "
                f"judging goes on, saving is tried again every {RETRY_S:.0f} s",
            )
        self._retry_at = time.monotonic() + RETRY_S


def _as_judged(result: Result, judgement: Judgement) -> Result:
    """The result with the words of the judgement, so that the picture says what the row says."""
    reason = None if judgement.verdict in (Verdict.OK, Verdict.NG) else judgement.reason or result.error
    return dataclasses.replace(result, verdict=judgement.verdict, threshold=judgement.threshold, error=reason)
