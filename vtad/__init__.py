"""vtad: visual anomaly detection trained from good images only. Training, calibration, evaluation."""

from __future__ import annotations

TYPE_CHECKING = False  # for type checkers it is true; `typing` takes 20 ms, and every command begins with this file
if TYPE_CHECKING:
    from typing import Any

    from vtad.config import Config
    from vtad.evaluation.evaluate import evaluate
    from vtad.training import train
    from vtad.version import VERSION as __version__

__all__ = ["Config", "__version__", "evaluate", "train"]

_HOMES = {
    "Config": ("vtad.config", "Config"),
    "__version__": ("vtad.version", "VERSION"),
    "evaluate": ("vtad.evaluation.evaluate", "evaluate"),
    "train": ("vtad.training", "train"),
}


def __getattr__(name: str) -> Any:
    """`vtad.train`, `vtad.evaluate` and so on, imported when first used: torch takes seconds."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'vtad' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
