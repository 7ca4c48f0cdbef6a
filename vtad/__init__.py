"""vtad: visual anomaly detection trained from good images only. Training, calibration, evaluation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vtad.version import VERSION as __version__

if TYPE_CHECKING:
    from vtad.config import Config
    from vtad.evaluation.evaluate import evaluate
    from vtad.training import train

__all__ = ["Config", "__version__", "evaluate", "train"]

_HOMES = {"Config": "vtad.config", "evaluate": "vtad.evaluation.evaluate", "train": "vtad.training"}


def __getattr__(name: str) -> Any:
    """`vtad.train`, `vtad.evaluate` and `vtad.Config`, imported when first used: torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vtad' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
