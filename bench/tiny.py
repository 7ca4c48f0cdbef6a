"""The tests' model of a few kilobytes: what is around a model costs as much with it, and the model itself nearly nothing."""

from __future__ import annotations

import sys
from pathlib import Path


def tiny_model(folder: Path) -> Path:
    """Write it into a folder; its file."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))
    from tiny_model import write_model

    return write_model(folder / "tiny.onnx")
