"""vtad: visual anomaly detection trained from good images only. Training, calibration, evaluation."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtad.config import Config
    from vtad.evaluation.evaluate import evaluate
    from vtad.training import train

try:
    __version__ = metadata.version("vtad")
except metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

__all__ = ["Config", "evaluate", "train"]


def __getattr__(name: str) -> Any:
    """`vtad.train` and its kin, imported when first asked for: torch takes seconds."""
    from importlib import import_module

    homes = {"Config": "vtad.config", "evaluate": "vtad.evaluation.evaluate", "train": "vtad.training"}
    if name not in homes:
        raise AttributeError(f"module 'vtad' has no attribute {name!r}")
    return getattr(import_module(homes[name]), name)
