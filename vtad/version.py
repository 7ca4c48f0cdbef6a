"""The version of the distribution, as its metadata have it, and what git says of its sources."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

try:
    VERSION = metadata.version("vtad")
except metadata.PackageNotFoundError:  # a source tree that is not installed
    VERSION = "0"


def git(*arguments: str) -> str | None:
    """One line of git about the checkout that this code runs from; None where it is none, or git is not there."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():  # an installed package, possibly below somebody else's checkout
        return None
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
