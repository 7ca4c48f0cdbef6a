"""The format coreai (beta): an asset for iOS 27 and macOS 27, beside it the ONNX fallback for every other machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vtad_export.coreai_format.asset import read_asset_card
from vtad_export.coreai_format.packages import missing
from vtad_export.proof.exporter import Export, Exporter, Precision, Request
from vtad_runtime.contract.card import Card

if TYPE_CHECKING:
    from vtad_export.proof.material import Material


class CoreAI(Exporter):
    """An .aimodel."""

    name = "coreai"
    suffix = ".aimodel"
    runs = "iOS 27, macOS 27 and later (beta); elsewhere vtad-run takes its ONNX fallback"
    batches = False
    proofs = {  # noqa: RUF012 - a constant
        "fp32": "executed by Apple's Core AI runtime where it is made, against torch and the ONNX fallback",
        "fp16": "structure only, not executed; its arithmetic in torch's float16, within its drift",
    }

    def available(self) -> str | None:
        """Whether Apple's pair of packages is installed."""
        return missing()

    def export(self, material: Material, precision: Precision, request: Request) -> Export:
        """See `to_coreai`."""
        from vtad_export.coreai_format.exporter import to_coreai  # takes torch

        return to_coreai(
            material.run,
            self.path(request, material.card.identity.category, precision),
            precision=precision,
            tolerance=request.tolerance,
            max_flips=request.max_flips,
            material=material,
        )

    def read_card(self, path: Path) -> Card:
        """The card of a program that is what its hash was written for. Raises CardError."""
        return read_asset_card(path)
