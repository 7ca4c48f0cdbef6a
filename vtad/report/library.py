"""Whether what draws the page is installed: the extra `report`."""

from __future__ import annotations

from importlib.util import find_spec


def missing() -> str | None:
    """Why no page can be made here, in one line; None where it can."""
    absent = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    return f"no report.html: {absent[0]} is not installed: pip install 'vtad[report]'" if absent else None
