"""Judgements as JSON Lines, one object a line: to a file that grows, or to an open stream such as stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from vtad_runtime.contract.disk.files import Lines
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, disk_full, one_line
from vtad_runtime.outputs.results_folder import SinkError
from vtad_runtime.verdict.judgement import Judgement


class JsonLines:
    """An output of one row per judgement, each flushed at once. docs/results.md documents the fields."""

    def __init__(self, target: Path | TextIO) -> None:
        """A file to append to (its folders are made), or a stream, which stays open. Raises SinkError."""
        self._target = target
        self._lines: Lines | None = None
        if isinstance(target, Path):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._lines = Lines(target, new=False)
            except OSError as e:
                raise self._failed(e, NOT_WRITTEN if disk_full(e) else USAGE) from e

    def write(self, judgement: Judgement) -> None:
        """Append one line, in a file whole or not at all. Raises SinkError; BrokenPipeError when the reader went away."""
        line = json.dumps(judgement.row(), allow_nan=False) + "\n"
        try:
            if self._lines is not None:
                self._lines.write(line)
            elif not isinstance(self._target, Path):
                self._target.write(line)
                self._target.flush()
        except BrokenPipeError:
            raise
        except OSError as e:
            raise self._failed(e, NOT_WRITTEN) from e

    def close(self) -> None:
        """Close the file; a stream stays open."""
        if self._lines is not None:
            self._lines.close()

    def _failed(self, error: OSError, exit_code: int) -> SinkError:
        where = self._target if isinstance(self._target, Path) else "stdout"
        message = f"{where}: cannot write JSON Lines: {one_line(error)}; lines written so far are whole"
        return SinkError(message, exit_code)
