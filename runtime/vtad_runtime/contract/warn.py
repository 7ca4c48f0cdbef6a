"""How the parts of a run that go on regardless tell what went wrong: one line to a function that the caller gives."""

from __future__ import annotations

import sys
from collections.abc import Callable

Warn = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Print one line on stderr; file names may hold bytes that are no valid text."""
    print(line.encode("utf-8", "replace").decode("utf-8"), file=sys.stderr, flush=True)
