"""Saves pictures of judgements: the heatmap over the frame or a side-by-side panel, and the frame itself if asked for.

heatmaps/20261124T083000.123Z-000123-NG.jpg     when it was captured (UTC), which frame, the verdict
originals/20261124T083000.123Z-000123-NG.png    the same frame, unmarked, lossless
heatmaps/crack/1.png.jpg                        of a folder of files: as the file below the folder is called
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from vtad_runtime.contract.disk.files import fitting_name, write_whole
from vtad_runtime.contract.json_values import iso_utc
from vtad_runtime.contract.log import warning
from vtad_runtime.drawing import heatmap
from vtad_runtime.drawing.encoding import RGB, PictureError, Suffix, drawing, encode
from vtad_runtime.outputs.retention import Retention
from vtad_runtime.verdict.detector import Result
from vtad_runtime.verdict.judgement import Judgement
from vtad_runtime.verdict.verdict import Verdict

RETRY_S = 30.0  # after a picture could not be written, the next try comes this much later


@dataclass(frozen=True)
class PictureOptions:
    """Which pictures are saved, and how."""

    save: Literal["all", "ng", "none"] = "ng"  # ng: everything that is not OK
    view: Literal["overlay", "panel"] = "overlay"
    suffix: Suffix = ".jpg"  # of heatmaps
    originals: bool = False  # the frame itself too
    root: Path | None = None  # pictures are named as the files below this folder; None: by moment, frame and verdict
    keep: int | None = None  # bytes of all pictures, those of earlier ended runs included
    reserve: bool = True  # stop before the disk is full, and let later runs with `keep` delete these pictures


class Saved(NamedTuple):
    """Where the pictures of one judgement are, below the results folder; None: not saved."""

    heatmap: str | None = None
    original: str | None = None


class PictureWriter:
    """What cannot be drawn or saved is said once and left out; it never costs a row or ends a run."""

    def __init__(self, folder: Path, options: PictureOptions) -> None:
        """Save into heatmaps/ and originals/ of the results folder. Raises OSError when that cannot be written to."""
        self._folder, self._options = folder, options
        self._draw = heatmap.overlay
        if options.view == "panel":
            from vtad_runtime.drawing.panel import panel

            self._draw = panel
        self._retention = Retention(folder, options.keep) if options.reserve or options.keep is not None else None
        self._retry_at: float | None = None  # time.monotonic(); None while writing works
        self._undrawn = False  # whether it was said that one could not be drawn
        self.left_out = 0  # pictures that were asked for and are not there, whyever
        self.unwritten = 0  # of these, by a disk or a folder that did not take them

    def save(self, judgement: Judgement) -> Saved:
        """Save what is asked for of one judgement, and count what is not saved."""
        asked = self._asked(judgement)
        if not asked:
            return Saved()
        saved = self._saved(judgement) if self._can_save(asked) else Saved()
        self.left_out += asked - (saved.heatmap is not None) - (saved.original is not None)
        return saved

    def leave_out(self, judgement: Judgement) -> None:
        """Count what is asked for of one judgement, for which there is no time."""
        self.left_out += self._asked(judgement)

    def _asked(self, judgement: Judgement) -> int:
        """How many pictures of one judgement are asked for."""
        if judgement.frame is None or not self._wants(judgement.verdict):
            return 0
        return (judgement.result is not None) + self._options.originals

    def _saved(self, judgement: Judgement) -> Saved:
        frame, result = judgement.frame, judgement.result
        if frame is None:
            return Saved()
        drawn = original = None
        if result is not None:
            name = f"heatmaps/{self._name(judgement, self._options.suffix)}"
            drawn = self._save(name, lambda: self._draw(frame.rgb, _as_judged(result, judgement)))
        if self._options.originals:
            original = self._save(f"originals/{self._name(judgement, '.png')}", lambda: frame.rgb)
        return Saved(drawn, original)

    def close(self) -> None:
        """Free the results folder for the retention of later runs."""
        if self._retention is not None:
            self._retention.close()

    def _wants(self, verdict: Verdict) -> bool:
        return self._options.save == "all" or (self._options.save == "ng" and verdict is not Verdict.OK)

    def _can_save(self, asked: int) -> bool:
        """Whether drawing so many pictures is worth while."""
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            self.unwritten += asked
            return False
        return self._retention is None or self._retention.room_for(0)

    def _name(self, judgement: Judgement, suffix: str) -> str:
        """The picture's name below heatmaps/ or originals/; that of a file keeps the file's suffix: part.png.jpg."""
        if self._options.root is not None and judgement.file is not None:
            below = Path(judgement.file).relative_to(self._options.root)
            below = Path(*(p for p in below.parts if p not in ("..", below.anchor)))
            return below.with_name(fitting_name(below.name, suffix)).as_posix()
        moment = iso_utc(judgement.captured_at).replace("-", "").replace(":", "")
        return f"{moment}-{judgement.number:06d}-{judgement.verdict}{suffix}"

    def _save(self, name: str, draw: Callable[[], RGB]) -> str | None:
        """Draw and save one picture, whole or not at all; its name, or None."""
        path = self._folder / name
        try:
            with drawing():
                data = encode(draw(), ".jpg" if name.endswith(".jpg") else ".png")
            if self._retention is not None and not self._retention.room_for(len(data)):
                return None
            write_whole(path, data)
            if self._retention is not None:
                self._retention.added(path)
        except PictureError as e:
            said = f"{self._folder}: {name} is left out: {e}; judging goes on, others like it are not said"
            if not self._undrawn:
                warning("pictures", said)
            self._undrawn = True
            return None
        except OSError as e:
            self._failed(e)
            return None
        if self._retry_at is not None:
            self._retry_at = None
            warning("pictures", f"{self._folder}: pictures are saved again")
        return name

    def _failed(self, error: OSError) -> None:
        self.unwritten += 1
        if self._retry_at is None:
            consequence = f"judging goes on, saving is tried again every {RETRY_S:.0f} s"
            warning("pictures", f"{self._folder}: cannot save pictures: {error.strerror or error}; {consequence}")
        self._retry_at = time.monotonic() + RETRY_S


def _as_judged(result: Result, judgement: Judgement) -> Result:
    """The result with the words of the judgement, so that the picture says what the row says."""
    reason = None if judgement.verdict in (Verdict.OK, Verdict.NG) else judgement.reason or result.error
    return dataclasses.replace(result, verdict=judgement.verdict, threshold=judgement.threshold, error=reason)
