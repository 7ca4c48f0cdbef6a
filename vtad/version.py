"""The version of the distribution, as its metadata have it."""

from __future__ import annotations

from importlib import metadata

try:
    VERSION = metadata.version("vtad")
except metadata.PackageNotFoundError:  # a source tree that is not installed
    VERSION = "0"
