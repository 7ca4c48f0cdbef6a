"""Reads back what vtad-run wrote: the rows of a results.jsonl, and where the picture of each row is now.

The pixels that were judged are, in this order: the saved `original` of the row, the `file` where it was sorted to
(moves.jsonl), the `file` where it was. What was done to a frame before, and by which rules it was judged, is in run.json;
runs of an older vtad-run have none.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.outputs.run_file import RUN_FILE, RunFile
from vtad_runtime.sources.folder import RESULTS_FILE
from vtad_runtime.verdict.verdict import Verdict

MOVES_FILE = "moves.jsonl"  # beside the results: where --sort-to moved the files
CLOCK_S = 2.0  # file systems round times of change, some to two seconds

Gone = Literal["not saved", "missing"]


@dataclass(frozen=True)
class Recorded:
    """One row, as far as replay needs it."""

    name: str  # the file, or the source and its frame number
    captured_at: str | None  # ISO 8601, UTC; None in --folder runs of an older vtad-run
    verdict: Verdict
    score: float  # NaN when it was not judged
    threshold: float  # NaN when the row has none
    picture: Path | None  # whose pixels were judged
    whole: bool  # whether that is the source's file, before --roi, --rotate and --flip
    gone: Gone | None  # why there is none: none was ever kept, or it is not there any more
    why: str  # one line on `gone`
    heatmap: Path | None  # the picture saved with the row, if it is still there


@dataclass(frozen=True)
class Run:
    """The rows of one results file."""

    file: Path
    rows: tuple[Recorded, ...]
    how: RunFile | None  # None: it has no run.json
    torn: bool  # whether the last line is not whole: the run was killed


def read_run(path: Path) -> Run:
    """Read a results.jsonl, or that of a results folder. Raises VtadError: none there, or damaged."""
    file = path / RESULTS_FILE if path.is_dir() else path
    rows, torn = _read_rows(file)
    if not rows:
        raise VtadError(f"{file}: expected rows of vtad-run, got none")
    places = _Places(file.parent, rows)
    recorded = tuple(_recorded(row, f"{file}, line {i}", places) for i, row in enumerate(rows, 1))
    return Run(file, recorded, RunFile.read(file.with_name(RUN_FILE)), torn)


class _Places:
    """Finds pictures again. Files are asked for in the order of the rows."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._later = Counter(str(row.get("file")) for row in rows)  # how many rows with this file are still to come
        self._moves: dict[str, list[dict[str, Any]]] = {}  # by file
        for move in _objects(folder / MOVES_FILE):
            self._moves.setdefault(str(move.get("file")), []).append(move)

    def saved(self, name: Any) -> Path | None:
        """A picture below the results folder, if the row names one and it is there."""
        path = self._folder / str(name) if name else None
        return path if path is not None and path.is_file() else None

    def original(self, row: dict[str, Any]) -> tuple[Path | None, Gone | None, str]:
        """The pixels that a row was judged by, or why they are not at hand."""
        file = str(row.get("file"))
        self._later[file] -= 1
        move = self._move(file, row.get("frame"))
        moved = move.get("to")
        if row.get("original"):
            saved = self.saved(row["original"])
            return (saved, None, "") if saved else (None, "missing", f"{row['original']} is gone")
        if not row.get("file"):
            return None, "not saved", "the frame was not saved"
        path = Path(moved or file)
        if not path.is_file():
            return None, "missing", f"{path} is not there"
        if moved is None and (self._later[file] or _is_another(path, move)):
            return None, "missing", f"{path} was replaced by a file of the same name"
        if moved is None and _changed_since(path, row.get("captured_at")):
            return None, "missing", f"{path} was changed after it was judged"
        return path, None, ""

    def _move(self, file: str, frame: Any) -> dict[str, Any]:
        """What was noted of the file of a row, nothing where nothing was: by its frame; an older vtad-run noted none."""
        moves = self._moves.get(file, [])
        found = next((i for i, move in enumerate(moves) if move.get("frame", frame) == frame), None)
        return {} if found is None else moves.pop(found)


def _recorded(row: dict[str, Any], where: str, places: _Places) -> Recorded:
    try:
        verdict = Verdict(row["verdict"])
        score, threshold = _number(row["score"]), _number(row.get("threshold"))
    except (KeyError, ValueError, TypeError) as e:
        raise VtadError(f"{where}: expected a row of vtad-run with verdict and score, got {row!s:.80}") from e
    name = row.get("file") or f"{row.get('source', 'frame')}, frame {row.get('frame', '?')}"
    picture, gone, why = places.original(row)
    return Recorded(
        name=str(name),
        captured_at=row.get("captured_at"),
        verdict=verdict,
        score=score,
        threshold=threshold,
        picture=picture,
        whole=not row.get("original"),
        gone=gone,
        why=why,
        heatmap=places.saved(row.get("heatmap")),
    )


def _read_rows(file: Path) -> tuple[list[dict[str, Any]], bool]:
    """All rows, and whether the last line is torn."""
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except OSError as e:
        got = "nothing there" if isinstance(e, FileNotFoundError) else e.strerror or e
        raise VtadError(f"{file}: expected a results.jsonl of vtad-run, got {got}; check the path") from e
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) and not line.endswith(b"\n"):
                return rows, True
            row = None
        if not isinstance(row, dict):
            raise VtadError(f"{file}, line {number}: expected a JSON object, got {line[:60]!r}")
        rows.append(row)
    return rows, False


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file that may be absent or torn."""
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _is_another(path: Path, move: dict[str, Any]) -> bool:
    """Whether a file that was left where it was is not, by size and time of change, the one that was judged."""
    size, mtime_ns, status = move.get("size"), move.get("mtime_ns"), path.stat()
    if not (isinstance(size, int) and isinstance(mtime_ns, int)):
        return False
    return status.st_size != size or abs(status.st_mtime - mtime_ns / 1e9) > CLOCK_S


def _changed_since(path: Path, captured_at: Any) -> bool:
    """Whether the file is younger than its row; rows of --folder runs of an older vtad-run do not say."""
    try:
        then = datetime.fromisoformat(str(captured_at)).timestamp()
    except ValueError:
        return False
    return path.stat().st_mtime > then + CLOCK_S


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
