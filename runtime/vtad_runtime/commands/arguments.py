"""What options of the command line take besides plain text and numbers: text in, a value out, or one line of an error."""

from __future__ import annotations

import re

import click

UNITS = {"": 1, "B": 1}  # of bytes
UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)}
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds of a time with its unit: 200ms, 2s, 30m, 1h. Raises BadParameter."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", text, re.ASCII)
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"expected a time above 0 with its unit, such as 200ms, 2s, 30m or 1h, got {text!r}")
    return float(match[1]) * UNITS_S[match[2]]


def rectangle(text: str) -> tuple[int, int, int, int]:
    """(x, y, width, height) of "x,y,w,h" in pixels. Raises BadParameter."""
    match = re.fullmatch(r"(\d+),(\d+),([1-9]\d*),([1-9]\d*)", text, re.ASCII)
    if match is None:
        raise click.BadParameter(f"expected x,y,width,height in whole pixels, such as 100,50,640,480, got {text!r}")
    x, y, width, height = (int(part) for part in match.groups())
    return x, y, width, height


def picture_size(text: str) -> tuple[int, int]:
    """(width, height) of "1920x1080". Raises BadParameter."""
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text, re.ASCII)
    if match is None:
        raise click.BadParameter(f"expected WIDTHxHEIGHT such as 1920x1080, got {text!r}")
    return int(match[1]), int(match[2])


def alarm_rule(text: str) -> tuple[int, int]:
    """(N, M) of "N/M": at least N of the last M. Raises BadParameter."""
    match = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text, re.ASCII)
    if match is None or int(match[1]) > int(match[2]):
        raise click.BadParameter(f"expected N/M such as 3/5, at least N NG of the last M, got {text!r}")
    return int(match[1]), int(match[2])


def size_in_bytes(text: str) -> int:
    """Bytes of "10GB" (10**10), "1.5 MB", "512MiB", "2000000". Raises BadParameter."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise click.BadParameter(f"expected a size such as 10GB, 500MB or 512MiB, got {text!r}")
    return round(float(match[1]) * unit)


def names(text: str) -> frozenset[str]:
    """Names separated by commas; "none" of them."""
    return frozenset() if text == "none" else frozenset(part.strip() for part in text.split(","))
