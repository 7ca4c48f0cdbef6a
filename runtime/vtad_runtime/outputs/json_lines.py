"""Judgements as JSON Lines, one object a line: to a file that grows, or to an open stream such as stdout."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from vtad_runtime.outputs.results_folder import SinkError
from vtad_runtime.verdict.judgement import Judgement


class JsonLines:
    """An output of one row per judgement, each flushed at once. docs/results.md documents the fields."""

    def __init__(self, target: Path | TextIO) -> None:
        """A file to append to (its folders are made), or a stream, which stays open. Raises SinkError."""
        self._out: _Appended | TextIO = _Appended(target) if isinstance(target, Path) else target

    def write(self, judgement: Judgement) -> None:
        """Append one line, in a file whole or not at all. Raises SinkError; BrokenPipeError when the reader went away."""
        self._out.write(json.dumps(judgement.row(), allow_nan=False) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Close the file; a stream stays open."""
        if isinstance(self._out, _Appended):
            self._out.close()


class _Appended:
    """A file that grows by whole lines, also when two processes append to it. Raises SinkError, BrokenPipeError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torn = _ends_in_half_a_line(path)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as e:
            raise self._failed(e) from e
        if torn:  # by a power cut: ended, so that it does not swallow the next line
            self.write("\n")

    def write(self, line: str) -> None:
        """One write call per line; where the disk takes only part of it, the part is cut off again."""
        data = line.encode("ascii")
        try:
            written = os.write(self._file, data)
            if written < len(data):
                self._write_rest(data, written)
        except BrokenPipeError:
            raise
        except OSError as e:
            raise self._failed(e) from e

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        os.close(self._file)

    def _write_rest(self, data: bytes, written: int) -> None:
        start = os.fstat(self._file).st_size - written
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                os.ftruncate(self._file, start)
            raise

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(
            f"{self._path}: cannot write JSON Lines: {error.strerror or error}; lines written so far are whole"
        )


def _ends_in_half_a_line(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
