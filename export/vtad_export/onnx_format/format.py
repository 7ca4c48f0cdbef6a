"""The format onnx: one file that vtad-run takes anywhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vtad_export.proof.exporter import Export, Exporter, Precision, Request
from vtad_runtime.contract.card import Card

if TYPE_CHECKING:
    from vtad_export.proof.material import Material


class Onnx(Exporter):
    """An .onnx file."""

    name = "onnx"
    suffix = ".onnx"
    runs = "any machine, by vtad-run"
    batches = True
    proofs = {  # noqa: RUF012 - a constant
        "fp32": "from the image file by vtad_runtime itself (onnxruntime), against torch; no verdict may differ",
        "int8": "the same, within its drift; AUROC and AUPRO before and after; 1 % of the verdicts may differ",
    }

    def available(self) -> str | None:
        """Whether onnx is installed."""
        missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
        return f"ONNX files need {missing[0]}, which is not installed: pip install 'vtad[export]'" if missing else None

    def export(self, material: Material, precision: Precision, request: Request) -> Export:
        """See `to_onnx`."""
        from vtad_export.onnx_format.exporter import to_onnx  # takes torch

        return to_onnx(
            material.run,
            self.path(request, material.card.identity.category, precision),
            precision=precision,
            tolerance=request.tolerance,
            max_flips=request.max_flips,
            batch=request.batch,
            material=material,
        )

    def read_card(self, path: Path) -> Card:
        """The card, which the graph was compared with, also of a file that was changed since. Raises ModelError."""
        # onnxruntime is not needed to say what a format is, and --help is to be quick
        from vtad_runtime.engine.onnxruntime_engine import OnnxSession

        return OnnxSession(path, allow_changed=True).card
