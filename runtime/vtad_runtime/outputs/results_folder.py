"""Where results go: a new numbered folder per run with results.jsonl, results.csv, summary.json and heatmaps/.

Rows are flushed one by one, so a run that is killed leaves whole lines. Nothing is ever mixed with an earlier run.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vtad_runtime.contract.errors import NOT_WRITTEN, VtadError
from vtad_runtime.contract.files import Lines, fitting_name, write_whole
from vtad_runtime.contract.json_values import finite
from vtad_runtime.drawing.encoding import RGB, Suffix, encode
from vtad_runtime.sources.folder import RESULTS_FILE
from vtad_runtime.verdict.detector import Region
from vtad_runtime.verdict.verdict import Verdict

if TYPE_CHECKING:
    from vtad_runtime.outputs.retention import Retention

COLUMNS = (
    "file",
    "verdict",
    "score",
    "p_value",
    "threshold",
    "regions",
    "decode_ms",
    "infer_ms",
    "write_ms",
    "heatmap",
    "error",
)


class SinkError(VtadError):
    """Results that cannot be written. One line."""

    exit_code = NOT_WRITTEN


@dataclass(frozen=True)
class Row:
    """One judged file, as it is written. Times are of this file alone; infer_ms is its share of the batch."""

    file: str  # as found: the source's path and the name below it
    group: str  # its folder below the source, "" for the source itself; not written
    verdict: Verdict
    score: float  # NaN when not judged
    p_value: float
    threshold: float
    regions: tuple[Region, ...]
    decode_ms: float
    infer_ms: float
    write_ms: float
    heatmap: str | None  # below the output folder; None when not saved
    error: str | None  # why ERROR or UNSURE


class Sink:
    """An output folder of its own for one run. Use as a context manager."""

    def __init__(self, parent: Path, suffix: Suffix = ".jpg", keep_bytes: int | None = None) -> None:
        """Make the next free folder 0001, 0002, ... in `parent`. Raises SinkError when that cannot be written to.

        Heatmaps get this suffix; those of this and earlier ended runs take `keep_bytes` at most, where given.
        """
        self._suffix = suffix
        self._retention: Retention | None = None
        try:
            self.folder = next_folder(parent)
            self._jsonl = Lines(self.folder / RESULTS_FILE)
            self._csv = Lines(self.folder / "results.csv")
            self._csv.write(csv_line(COLUMNS))
            if keep_bytes is not None:
                from vtad_runtime.outputs.retention import Retention

                self._retention = Retention(self.folder, keep_bytes)
        except OSError as e:
            raise unwritable(parent, e) from e

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jsonl.close()
        self._csv.close()
        if self._retention is not None:
            self._retention.close()

    def write_row(self, row: Row) -> None:
        """Append one row to both files, whole or not at all in each. Raises SinkError."""
        values = {name: finite(getattr(row, name)) for name in COLUMNS}
        line = json.dumps({**values, "regions": [_rounded(r) for r in row.regions]}, allow_nan=False) + "\n"
        try:
            self._jsonl.write(line)
            self._csv.write(csv_line([{**values, "regions": len(row.regions)}[name] for name in COLUMNS]))
        except OSError as e:
            raise failed(self.folder, e) from e

    def write_picture(self, relative: Path, rgb: RGB) -> str | None:
        """Save heatmaps/<relative>.jpg, (H, W, 3) RGB, whole or not at all. Returns its path below the folder.

        The source's suffix stays in the name (part.png.jpg), so part.png and part.jpg do not collide. None where the
        retention has no room for it. Raises SinkError, PictureError.
        """
        name = Path("heatmaps", *(p for p in relative.parts if p not in ("..", relative.anchor)))
        name = name.with_name(fitting_name(name.name, self._suffix))
        data = encode(rgb, self._suffix)
        if self._retention is not None and not self._retention.room_for(len(data)):
            return None
        self._write_whole(self.folder / name, data)
        if self._retention is not None:
            self._retention.added(self.folder / name)
        return name.as_posix()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Save summary.json. Raises SinkError."""
        self._write_whole(self.folder / "summary.json", summary_text(summary))

    def _write_whole(self, path: Path, data: bytes) -> None:
        try:
            write_whole(path, data)
        except OSError as e:
            raise failed(self.folder, e) from e


def summary_text(summary: dict[str, Any]) -> bytes:
    """What summary.json holds."""
    return (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode()


def unwritable(parent: Path, error: OSError) -> SinkError:
    """The error of a folder in which no results folder can be made."""
    got = "a file" if parent.is_file() else error.strerror or error
    return SinkError(f"{parent}: expected a folder to write results to, got {got}; choose another by --out")


def failed(folder: Path, error: OSError) -> SinkError:
    """The error of a results folder that takes no more."""
    return SinkError(f"{folder}: cannot write results: {error.strerror or error}; rows written so far are whole")


def next_folder(parent: Path) -> Path:
    """Make and return the folder after the highest numbered one. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(name) for name in os.listdir(parent) if name.isdecimal()), default=0)
    while True:
        number += 1
        folder = parent / f"{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run was faster
            continue
        return folder


def _rounded(region: Region) -> dict[str, Any]:
    return {k: finite(v) for k, v in dataclasses.asdict(region).items()}


def csv_line(values: Sequence[Any]) -> str:
    """One line of CSV, with its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
