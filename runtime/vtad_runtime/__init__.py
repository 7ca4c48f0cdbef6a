"""vtad_runtime: runs an exported detector, on pictures (`Detector`) and on a line (`watch`).

Needs numpy, opencv, pillow, simplejpeg, onnxruntime and click; no torch.

Names are imported when first used, so that training can import the card and the pixel path alone. Nothing else is imported
here, not even `typing` (20 ms): every command begins with this file.
"""

from __future__ import annotations

import os

# From 1.29 on onnxruntime for Linux tells Microsoft of every session, unless this is there when it is loaded:
# https://github.com/microsoft/onnxruntime/pull/27379. No command of ours may use the network unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from typing import Any

    from vtad_runtime.contract.card import Card
    from vtad_runtime.contract.errors import VtadError
    from vtad_runtime.contract.image import ImageError, read_rgb
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.line.summary import Summary
    from vtad_runtime.line.watch import watch
    from vtad_runtime.verdict.detector import Detector, Region, Result
    from vtad_runtime.verdict.judgement import Judgement
    from vtad_runtime.verdict.verdict import Verdict

__all__ = [
    "Card",
    "Detector",
    "ImageError",
    "Judgement",
    "ModelError",
    "Region",
    "Result",
    "Summary",
    "Verdict",
    "VtadError",
    "read_rgb",
    "watch",
]

_HOME = {
    "Card": "contract.card",
    "Detector": "verdict.detector",
    "ImageError": "contract.image",
    "Judgement": "verdict.judgement",
    "ModelError": "engine.model",
    "Region": "verdict.detector",
    "Result": "verdict.detector",
    "Summary": "line.summary",
    "Verdict": "verdict.verdict",
    "VtadError": "contract.errors",
    "read_rgb": "contract.image",
    "watch": "line.watch",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'vtad_runtime' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"vtad_runtime.{_HOME[name]}"), name)
