"""vtad_export: artefacts for the edge, each proven against torch before it is kept."""

from __future__ import annotations

import vtad_runtime  # noqa: F401  # before onnxruntime, whose telemetry it turns off

TYPE_CHECKING = False  # for type checkers it is true; `typing` takes 20 ms, and the command begins with this file
if TYPE_CHECKING:
    from typing import Any

    from vtad_export.coreai_format.exporter import to_coreai
    from vtad_export.coreml_format.exporter import to_coreml
    from vtad_export.onnx_format.exporter import to_onnx
    from vtad_export.proof.errors import ParityError

__all__ = ["ParityError", "to_coreai", "to_coreml", "to_onnx"]


def __getattr__(name: str) -> Any:
    """`vtad_export.to_onnx` and its kin, imported when first asked for: torch takes seconds."""
    from importlib import import_module

    homes = {
        "ParityError": "vtad_export.proof.errors",
        "to_coreai": "vtad_export.coreai_format.exporter",
        "to_coreml": "vtad_export.coreml_format.exporter",
        "to_onnx": "vtad_export.onnx_format.exporter",
    }
    if name not in homes:
        raise AttributeError(f"module 'vtad_export' has no attribute {name!r}")
    return getattr(import_module(homes[name]), name)
