"""Values as JSON and CSV have them: numbers that are finite, times as ISO 8601 text."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any


def iso_utc(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 UTC with milliseconds, e.g. 2026-11-24T08:30:00.123Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def finite(value: Any) -> Any:
    """A value for JSON: floats to six significant digits, None where not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
