"""The format coreml: a package for iOS and macOS, beside it the ONNX fallback for every other machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vtad_export.coreml_format.choices import Layout, Target
from vtad_export.coreml_format.mlpackage import read_package_card
from vtad_export.proof.exporter import Export, Exporter, Precision, Request
from vtad_runtime.contract.card import Card

if TYPE_CHECKING:
    from vtad_export.proof.material import Material

_REFERENCE = "reference execution, not device proof: the saved package, operation by operation, against torch"


@dataclass(frozen=True)
class CoreML(Exporter):
    """An .mlpackage."""

    target: Target = "iOS16"  # the oldest system that it is to run on
    layout: Layout = "ane"
    with_backbone: bool = False  # compress the backbone's weights as well

    name = "coreml"
    suffix = ".mlpackage"
    runs = "iOS 16, macOS 13 and later; elsewhere vtad-run takes its ONNX fallback"
    batches = False
    proofs = {  # noqa: RUF012 - a constant
        "fp16": f"{_REFERENCE}, within its drift; no verdict may differ",
        "fp32": _REFERENCE,
        "int8": f"{_REFERENCE}, within its drift; AUROC and AUPRO before and after",
        "palettized6": "as int8; weights out of 64 values each; made when asked for by name",
        "palettized4": "as int8; weights out of 16 values each; made when asked for by name",
    }

    def available(self) -> str | None:
        """Whether coremltools is installed."""
        if find_spec("coremltools") is None:
            return "Core ML packages need coremltools, which is not installed: pip install 'vtad[export]'"
        return None

    def export(self, material: Material, precision: Precision, request: Request) -> Export:
        """See `to_coreml`."""
        from vtad_export.coreml_format.exporter import to_coreml  # takes torch
        from vtad_export.proof.tolerance import COMPRESSED

        return to_coreml(
            material.run,
            self.path(request, material.card.identity.category, precision),
            precision=precision,
            target=self.target,
            layout=self.layout,
            with_backbone=self.with_backbone and precision in COMPRESSED,
            tolerance=request.tolerance,
            max_flips=request.max_flips,
            material=material,
        )

    def read_card(self, path: Path) -> Card:
        """The card. Raises PackageError, CardError."""
        return read_package_card(path)
