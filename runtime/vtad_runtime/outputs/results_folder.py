"""The results folder of a run: a numbered folder with run.json, results.jsonl, results.csv, summary.json and pictures.

Rows are flushed one by one, so a run that is killed leaves whole lines. Nothing is ever mixed with an earlier run.
docs/results.md documents the fields.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vtad_runtime.contract.disk.files import Lines, sweep_below, write_whole
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full, one_line
from vtad_runtime.outputs.csv_lines import Dialect, csv_line
from vtad_runtime.outputs.pictures import PictureOptions, PictureWriter, Saved
from vtad_runtime.outputs.retention import LOCK_FILE
from vtad_runtime.outputs.run_file import RUN_FILE, RunFile
from vtad_runtime.sources.folder import RESULTS_FILE
from vtad_runtime.verdict.judgement import Judgement

CSV_FILE, SUMMARY_FILE = "results.csv", "summary.json"
SWEPT = 3  # earlier folders that are looked through for what a killed run left half written


class SinkError(VtadError):
    """Results that cannot be written. One line."""

    exit_code = NOT_WRITTEN


class ResultsFolder:
    """A folder of its own for one run."""

    def __init__(self, parent: Path, pictures: PictureOptions, about: RunFile, dialect: Dialect = "excel") -> None:
        """Make the next free folder 0001, 0002, ... in `parent`. Raises SinkError when that cannot be written to.

        `about` becomes run.json; `dialect` is that of results.csv.
        """
        self._rows, self._dialect = 0, dialect
        try:
            self.folder = next_folder(parent)
            try:
                self._describe(about)
                self._jsonl = Lines(self.folder / RESULTS_FILE)
                self._csv = Lines(self.folder / CSV_FILE)
                self._pictures = PictureWriter(self.folder, pictures)
            except OSError:
                self._discard()
                raise
        except OSError as e:
            got = "a file" if parent.is_file() else e.strerror or e
            said = f"{parent}: expected a folder to write results to, got {got}; choose another by --out"
            raise SinkError(said, NOT_WRITTEN if disk_full(e) else USAGE) from e

    def describe(self, about: RunFile) -> None:
        """Write run.json anew, for what is known since. Raises SinkError."""
        try:
            self._describe(about)
        except OSError as e:
            raise self._failed(e) from e

    def write(self, judgement: Judgement, *, pictures: bool = True) -> Judgement:
        """Save the pictures, then the row that names them; the judgement with what was saved. Raises SinkError."""
        start = time.perf_counter()
        saved = Saved()
        if pictures:
            saved = self._pictures.save(judgement)
        else:
            self._pictures.leave_out(judgement)
        write_ms = 1000 * (time.perf_counter() - start)
        judgement = dataclasses.replace(judgement, heatmap=saved.heatmap, original=saved.original, write_ms=write_ms)
        row = judgement.row()
        try:
            self._jsonl.write(json.dumps(row, allow_nan=False) + "\n")
            if self._rows == 0:
                self._csv.write(csv_line(list(row), self._dialect, first=True))
            self._csv.write(csv_line(list({**row, "regions": len(row["regions"])}.values()), self._dialect))
        except OSError as e:
            raise self._failed(e) from e
        self._rows += 1
        return judgement

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Save summary.json. Raises SinkError."""
        try:
            write_whole(self.folder / SUMMARY_FILE, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
        except OSError as e:
            raise self._failed(e) from e

    @property
    def pictures_left_out(self) -> int:
        """Pictures that were asked for and are not there, whyever."""
        return self._pictures.left_out

    @property
    def pictures_unwritten(self) -> int:
        """Of these, by a disk or a folder that did not take them."""
        return self._pictures.unwritten

    def discard_if_empty(self) -> None:
        """Close, and remove the folder of a run that failed before its first row: nothing half written stays."""
        self.close()
        if self._rows == 0:
            self._discard()

    def close(self) -> None:
        """Close the files. May be called twice."""
        self._jsonl.close()
        self._csv.close()
        self._pictures.close()

    def _discard(self) -> None:
        with suppress(OSError):  # what else is in it stays
            for name in (RUN_FILE, RESULTS_FILE, CSV_FILE, LOCK_FILE):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()

    def _describe(self, about: RunFile) -> None:
        write_whole(self.folder / RUN_FILE, about.to_json().encode())

    def _failed(self, error: OSError) -> SinkError:
        got = one_line(error)
        return SinkError(f"{self.folder}: cannot write results: {got}; rows written so far are whole")


def next_folder(parent: Path) -> Path:
    """Make and return the folder after the highest numbered one; the last ones are swept. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    numbered = sorted((name for name in os.listdir(parent) if name.isdecimal()), key=int)
    for earlier in (parent / name for name in numbered[-SWEPT:]):
        if not (earlier / SUMMARY_FILE).exists():  # it did not end, or has not yet
            sweep_below(earlier)
    number = int(numbered[-1]) if numbered else 0
    while True:
        number += 1
        folder = parent / f"{number:04d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run was faster
            continue
        return folder
