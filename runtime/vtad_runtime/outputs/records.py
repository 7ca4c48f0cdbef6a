"""The results folder of a live run: a numbered folder with results.jsonl, results.csv, summary.json, pictures.

Rows are those of `Judgement.row`, with what was saved of the frame (`heatmap`, `original`: paths below the folder) and
how long saving took (`write_ms`). docs/results.md documents the fields.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vtad_runtime.contract.files import Lines, write_whole
from vtad_runtime.contract.json_values import finite
from vtad_runtime.outputs.pictures import PictureWriter
from vtad_runtime.outputs.results_folder import csv_line, failed, summary_text
from vtad_runtime.outputs.retention import LOCK_FILE
from vtad_runtime.sources.folder import RESULTS_FILE
from vtad_runtime.verdict.judgement import Judgement


class Records:
    """An output of one row per judgement, on disk (handed to the operating system) when `write` returns."""

    def __init__(self, folder: Path, pictures: PictureWriter) -> None:
        """Write into an empty results folder; `pictures` saves into the same one. Raises SinkError."""
        self.folder = folder
        self._pictures = pictures
        self._columns: list[str] | None = None
        try:
            self._jsonl = Lines(folder / RESULTS_FILE)
            self._csv = Lines(folder / "results.csv")
        except OSError as e:
            raise failed(folder, e) from e

    def write(self, judgement: Judgement) -> None:
        """Save the pictures, then the row that names them. Raises SinkError."""
        start = time.perf_counter()
        self._pictures.write(judgement)
        row = {**judgement.row(), "heatmap": self._pictures.last, "original": self._pictures.last_original}
        row["write_ms"] = finite(1000 * (time.perf_counter() - start))
        try:
            self._jsonl.write(json.dumps(row, allow_nan=False) + "\n")
            if self._columns is None:
                self._columns = list(row)
                self._csv.write(csv_line(self._columns))
            self._csv.write(csv_line(list({**row, "regions": len(row["regions"])}.values())))
        except OSError as e:
            raise failed(self.folder, e) from e

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Save summary.json. Raises SinkError."""
        try:
            write_whole(self.folder / "summary.json", summary_text(summary))
        except OSError as e:
            raise failed(self.folder, e) from e

    def discard_if_empty(self) -> None:
        """Close, and remove the folder of a run that failed before its first row: nothing half written stays."""
        self.close()
        if self._columns is None:
            with suppress(OSError):  # what else is in it stays
                for name in (RESULTS_FILE, "results.csv", LOCK_FILE):
                    (self.folder / name).unlink(missing_ok=True)
                self.folder.rmdir()

    def close(self) -> None:
        """Close the files. May be called twice."""
        self._jsonl.close()
        self._csv.close()
        self._pictures.close()
