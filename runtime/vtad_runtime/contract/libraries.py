"""What libraries say by themselves becomes warnings of our log, each kind once, with the name of the file that was read then.

They have three ways: Python's warnings, loggers that nobody listens to, and lines that C code (libtiff, libpng, OpenCV,
FFmpeg) prints on file descriptor 2. While `heard` is open, that descriptor is a pipe, and our own lines go to the real stderr
by another. The pipe never makes C code wait: what it cannot take is lost.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vtad_runtime.contract.log import PlainFormatter, warning

STDERR = 2
MOST_KINDS = 100  # that are said of one command
NO_NAME = "tempfile.tif: "  # what Pillow calls every file to libtiff
LONGEST = 300  # characters of what is said
_here = threading.local()  # `.file`: what this thread reads
_marks: int | None = None  # where `reading` notes in the pipe, between the lines of C code, what is read


@contextmanager
def reading(file: str) -> Iterator[None]:
    """What libraries say inside the block is about this file."""
    before, _here.file = getattr(_here, "file", None), file
    _mark("+", file)
    try:
        yield
    finally:
        _mark("-", file)
        _here.file = before


@contextmanager
def heard() -> Iterator[None]:
    """Warn of what libraries say inside the block. For commands: it changes what belongs to the whole process."""
    if _marks is not None:  # by a command that called this one
        yield
        return
    said = _Said()
    logger, show, last = _Unheard(said), warnings.showwarning, logging.lastResort
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):  # the others are for whoever writes code
            warnings.filterwarnings("always", category=kind, module="PIL")  # Python's default: each line of code once
        warnings.filterwarnings(
            "ignore", "Image size"
        )  # one that is too large is an error; a large one is not worth a word
        warnings.showwarning = lambda message, *_, **__: said(str(message), [_file()])
        logging.lastResort = logger
        try:
            with _stderr_of_c(said):
                yield
        finally:
            logging.lastResort, warnings.showwarning = last, show


class _Said:
    """Warns of the first of each kind."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._mutex = threading.Lock()

    def __call__(self, text: str, files: list[str | None]) -> None:
        """`files`: those that were read then."""
        text = " ".join(text.split())[:LONGEST]
        kind = re.sub(r"\d+", "#", text)
        with self._mutex:
            if not text or kind in self._kinds or len(self._kinds) >= MOST_KINDS:
                return
            self._kinds.add(kind)
        names = " or ".join(name for name in files if name)
        about = f"{names}: " if names else ""
        warning("library", f"{about}a library says: {text}; others like it are not said", file=names or None)


class _Unheard(logging.Handler):
    """Takes the records that no handler was made for."""

    def __init__(self, said: _Said) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Ours as a line, those of libraries by a warning."""
        if record.name.split(".")[0] != "vtad":
            self._said(record.getMessage(), [_file()])
            return
        with suppress(OSError, ValueError):
            print(PlainFormatter().format(record), file=sys.stderr, flush=True)


@contextmanager
def _stderr_of_c(said: Callable[[str, list[str | None]], None]) -> Iterator[None]:
    """Hand each line that C code prints to `said`, with the files that were being read."""
    global _marks  # it is the process that has one stderr
    try:
        real = os.dup(STDERR)
    except OSError:  # a service without stderr
        yield
        return
    mine, python = _over(real), sys.stderr
    outlet, inlet = os.pipe()
    with suppress(OSError, AttributeError):
        os.set_blocking(inlet, False)
    listener = threading.Thread(target=_listen, args=(outlet, said), name="vtad-stderr", daemon=True)
    listener.start()
    os.dup2(inlet, STDERR)
    _marks, sys.stderr = inlet, mine or python
    try:
        yield
    finally:
        _marks, sys.stderr = None, python
        os.dup2(real, STDERR)
        os.close(inlet)
        listener.join(2.0)
        if mine is not None:
            mine.close()
        os.close(real)


def _over(real: int) -> io.TextIOWrapper | None:
    """sys.stderr on another descriptor; None where it is no more the process's own."""
    try:
        if sys.stderr.fileno() != STDERR:
            return None
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return None
    raw: Any = os.fdopen(os.dup(real), "wb", buffering=0)
    return io.TextIOWrapper(raw, sys.stderr.encoding, sys.stderr.errors, write_through=True)


def _listen(outlet: int, said: Callable[[str, list[str | None]], None]) -> None:
    files: list[str | None] = []
    with os.fdopen(outlet, "rb") as lines:
        for line in lines:
            if not line.startswith(b"\0"):
                said(line.decode("utf-8", "replace").removeprefix(NO_NAME), files)
                continue
            with suppress(ValueError):  # a mark that the pipe did not take whole
                begins, file = json.loads(line[1:])
                files = [*files, file] if begins else [name for name in files if name != file]


def _mark(sign: str, file: str) -> None:
    if (pipe := _marks) is None:
        return
    with suppress(OSError):
        os.write(pipe, b"\n\0" + json.dumps([sign == "+", file[-1000:]]).encode() + b"\n")


def _file() -> str | None:
    return getattr(_here, "file", None)
