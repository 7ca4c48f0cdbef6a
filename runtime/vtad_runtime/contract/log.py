"""What is said beside the judging, on Python's own logging: lines to read, or one JSON object a line for machines.

`event` says what happens, with a name and fields; `warning` does so where somebody should look; `note` is what a person at
the terminal reads. A command says where they go by `logging_to`; in a program of your own, your logging set-up decides. The
logger is "vtad"; a record has the attributes `event` and `fields`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from vtad_runtime.contract.errors import NOT_WRITTEN, VtadError, one_line
from vtad_runtime.contract.json_values import finite, iso_utc
from vtad_runtime.contract.progress import aside

LOGGER = logging.getLogger("vtad")
NOTE = "note"  # the event of what `note` says


def event(name: str, message: str, **fields: Any) -> None:
    """Say what happened: `name` is a fixed word for machines, `message` one line for people, `fields` its details."""
    LOGGER.info(message, extra={"event": name, "fields": fields})


def warning(name: str, message: str, **fields: Any) -> None:
    """`event`, where something went wrong and the work goes on."""
    LOGGER.warning(message, extra={"event": name, "fields": fields})


def note(text: str) -> None:
    """Tell the person at the terminal one line or several.

    Raises BrokenPipeError when the reader went away; VtadError when stdout takes no more.
    """
    LOGGER.info(text, extra={"event": NOTE, "fields": {}})


@contextmanager
def logging_to(
    *, json_lines: bool = False, notes: Literal["stdout", "stderr"] = "stdout", stream: TextIO | None = None
) -> Iterator[None]:
    """Write what is said inside the block: events to stderr, notes to `notes`; with `json_lines` both as JSON to stderr.

    `stream` takes all of it instead. A log on stderr that cannot be written ends nothing, except where the reader of notes
    went away.
    """
    machines, handlers = JsonFormatter(), list[logging.Handler]()
    if json_lines:
        handlers.append(_Lines(machines, stream or "stderr", everything=True))
    else:
        handlers.append(_Lines(PlainFormatter(), stream or "stderr", notes=False))
        handlers.append(_Lines(PlainFormatter(), stream or notes, notes=True))
    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    for handler in handlers:
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


class JsonFormatter(logging.Formatter):
    """One object a line: `ts` (ISO 8601 UTC), `event`, `message`, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        values = {key: finite(value) for key, value in fields.items()}
        name = getattr(record, "event", record.levelname.lower())
        said = {"ts": iso_utc(record.created), "event": name, "message": plain_line(record.getMessage())}
        return json.dumps({**values, **said}, default=str)


class PlainFormatter(logging.Formatter):
    """A note as it is; of an event the local time and the message: "08:30:00 camera lost: ..."."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        if getattr(record, "event", None) == NOTE:
            return record.getMessage()
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {plain_line(record.getMessage())}"


class _Lines(logging.Handler):
    """Writes whole lines, from any thread, to a stream or to sys.stdout or sys.stderr as it is at that moment."""

    def __init__(
        self, formatter: logging.Formatter, stream: TextIO | str, *, notes: bool = False, everything: bool = False
    ) -> None:
        """`notes`: these alone, or all but these; `everything`: both."""
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self.addFilter(lambda record: everything or (getattr(record, "event", None) == NOTE) == notes)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        stream = getattr(sys, self._stream) if isinstance(self._stream, str) else self._stream
        if stream is None:  # closed
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = self.format(record).encode(encoding, "replace").decode(encoding)  # file names need not be valid text
        try:
            with aside():
                stream.write(text + "\n")
                stream.flush()
        except BrokenPipeError:
            if getattr(record, "event", None) == NOTE:
                raise
        except ValueError:  # closed
            pass
        except OSError as e:
            if self._stream == "stdout":
                raise VtadError(f"stdout: cannot write: {one_line(e)}", NOT_WRITTEN) from e


def plain_line(message: str) -> str:
    """Text without line breaks and control characters: names of files and answers of servers may hold anything."""
    text = " ".join(message.split()).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "?" for c in text)
