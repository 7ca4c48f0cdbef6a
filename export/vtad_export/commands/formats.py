"""What vtad-export makes: formats, precisions, where each runs, and how each is proven. And the card of any of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vtad_runtime.contract.card import Card, CardError, read_card


@dataclass(frozen=True)
class Format:
    """One kind of artefact."""

    name: str
    suffix: str
    runs: str
    proofs: dict[str, str]  # by precision, the default one first

    @property
    def precisions(self) -> tuple[str, ...]:
        """The first is the default."""
        return tuple(self.proofs)

    def file_name(self, category: str, precision: str) -> str:
        """pill.onnx; pill-int8.onnx where the precision is not the default."""
        return f"{category}{'' if precision == self.precisions[0] else f'-{precision}'}{self.suffix}"


_REFERENCE = "reference execution, not device proof: the saved package, operation by operation, against torch"

FORMATS = (
    Format(
        "onnx",
        ".onnx",
        "any machine, by vtad-run",
        {
            "fp32": "from the image file by vtad_runtime itself (onnxruntime), against torch; no verdict may differ",
            "int8": "the same, within its drift; AUROC and AUPRO before and after; 1 % of the verdicts may differ",
        },
    ),
    Format(
        "coreml",
        ".mlpackage",
        "iOS 16, macOS 13 and later; elsewhere vtad-run takes its ONNX twin",
        {
            "fp16": f"{_REFERENCE}, within its drift; no verdict may differ",
            "fp32": _REFERENCE,
            "int8": f"{_REFERENCE}, within its drift; AUROC and AUPRO before and after",
        },
    ),
    Format(
        "coreai",
        ".aimodel",
        "iOS 27, macOS 27 and later (beta); elsewhere vtad-run takes its ONNX twin",
        {
            "fp32": "executed by Apple's Core AI runtime where it is made, against torch and the ONNX twin",
            "fp16": "structure only, not executed; its arithmetic in torch's float16, within its drift",
        },
    ),
)


def format_named(name: str) -> Format:
    """The format of that name."""
    return next(f for f in FORMATS if f.name == name)


def listing() -> str:
    """The table of formats."""
    lines = []
    for f in FORMATS:
        lines.append(f"{f.name:<8} {f.suffix:<11} {' '.join(f.precisions)}")
        lines.append(f"         runs    {f.runs}")
        lines += [f"         {precision:<7} proof: {proof}" for precision, proof in f.proofs.items()]
    return "\n".join(lines)


def for_one_picture(card: Card) -> Card:
    """The card of an artefact that takes one picture at a time: the first axis of its outputs is 1, not a free batch."""
    return dataclasses.replace(
        card, outputs=tuple(dataclasses.replace(o, shape=(1, *o.shape[1:])) for o in card.outputs)
    )


def card_of(path: Path) -> Card:
    """The card in an artefact, or of a run folder or card.json. Raises CardError or PackageError.

    The program of an .aimodel is compared with its hash, and that of an .onnx with its card.
    """
    if path.suffix == ".mlpackage":
        from vtad_export.coreml_format.exporter import read_package_card

        return read_package_card(path)
    if path.suffix == ".aimodel":
        from vtad_export.coreai_format.exporter import read_asset_card

        return read_asset_card(path)
    if path.suffix == ".onnx":
        from vtad_runtime.engine.model import ModelError
        from vtad_runtime.engine.onnxruntime_engine import OnnxSession

        try:
            return OnnxSession(path).card
        except ModelError as e:
            raise CardError(str(e)) from e
    if path.is_dir():
        return read_card(path / "card.json")
    if path.suffix == ".json":
        return read_card(path)
    kinds = ", ".join(f.suffix for f in FORMATS)
    raise CardError(f"{path}: expected an artefact ({kinds}), a run folder or a card.json, got another kind of file")
