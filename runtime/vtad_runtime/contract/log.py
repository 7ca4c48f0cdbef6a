"""What happens beside the judging, said as it happens: a line to read, or one JSON object a line for machines."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress
from typing import Any, TextIO

from vtad_runtime.contract.command import printable
from vtad_runtime.contract.json_values import finite, iso_utc


class EventLog:
    """Writes events, whole lines from any thread. Never raises: a log that cannot be written must not end the judging."""

    def __init__(self, json_lines: bool, stream: TextIO | None = None) -> None:
        """`json_lines`: one JSON object per event. `stream`: where to; None: sys.stderr as it is at each event."""
        self._json_lines, self._stream = json_lines, stream
        self._whole = threading.Lock()

    def event(self, name: str, message: str, **fields: Any) -> None:
        """Say one event.

        A line for people is the local time and the message: "08:30:00 camera lost: ...". A JSON line is an object of `ts`
        (ISO 8601 UTC), `event` (`name`, a fixed word for machines), `message`, and the fields.
        """
        text = _one_line(message)
        if self._json_lines:
            values = {key: finite(value) for key, value in fields.items()}
            line = json.dumps({**values, "ts": iso_utc(time.time()), "event": name, "message": text}, default=str)
        else:
            line = f"{time.strftime('%H:%M:%S')} {text}"
        with self._whole, suppress(OSError, ValueError):  # ValueError: closed
            stream = self._stream or sys.stderr
            stream.write(line + "\n")
            stream.flush()


def _one_line(message: str) -> str:
    """No line breaks and no control characters: names of files and answers of servers may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in printable(" ".join(message.split())))
