"""What vtad-export makes: the tuple of formats, their table, and the card of any artefact."""

from __future__ import annotations

from pathlib import Path

from vtad_export.coreai_format.format import CoreAI
from vtad_export.coreml_format.choices import Layout, Target
from vtad_export.coreml_format.format import CoreML
from vtad_export.onnx_format.format import Onnx
from vtad_export.proof.exporter import Exporter
from vtad_runtime.contract.card import Card, CardError, read_card


def exporters(target: Target = "iOS16", layout: Layout = "ane", with_backbone: bool = False) -> tuple[Exporter, ...]:
    """Every format; the arguments are Core ML's."""
    return (Onnx(), CoreML(target, layout, with_backbone), CoreAI())


EXPORTERS = exporters()


def listing() -> str:
    """The table of formats."""
    lines = []
    for format in EXPORTERS:
        lines.append(f"{format.name:<8} {format.suffix:<11} {' '.join(format.precisions)}")
        lines.append(f"         runs    {format.runs}")
        lines += [f"         {precision:<7} proof: {proof}" for precision, proof in format.proofs.items()]
    return "\n".join(lines)


def card_of(path: Path) -> Card:
    """The card in an artefact, or of a run folder or card.json. Raises CardError or another VtadError."""
    for format in EXPORTERS:
        if path.suffix == format.suffix:
            return format.read_card(path)
    if path.is_dir():
        return read_card(path / "card.json")
    if path.suffix == ".json":
        return read_card(path)
    kinds = ", ".join(format.suffix for format in EXPORTERS)
    raise CardError(f"{path}: expected an artefact ({kinds}), a run folder or a card.json, got another kind of file")
