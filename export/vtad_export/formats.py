"""What vtad-export makes: formats, precisions, where each runs, and how each is proven. And the card of any of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vtad_runtime.card import Card, CardError, read_card


@dataclass(frozen=True)
class Format:
    """One line of --list."""

    name: str
    suffix: str
    precisions: tuple[str, ...]  # the first is the default
    runs: str
    proof: str


FORMATS = (
    Format(
        "onnx",
        ".onnx",
        ("fp32",),
        "any machine, by vtad-run",
        "executed by the runtime itself (onnxruntime) against torch",
    ),
    Format(
        "coreml",
        ".mlpackage",
        ("fp16", "fp32"),
        "iOS 16, macOS 13 and later; elsewhere vtad-run takes its ONNX twin",
        "reference execution, not device proof: the saved package, operation by operation, against torch",
    ),
)


def listing() -> str:
    """The table of formats."""
    lines = []
    for f in FORMATS:
        lines += [
            f"{f.name:<8} {f.suffix:<11} {' '.join(f.precisions)}",
            f"         runs    {f.runs}",
            f"         proven  {f.proof}",
        ]
    return "\n".join(lines)


def card_of(path: Path) -> Card:
    """The card in an artefact, or of a run folder or card.json. Raises CardError, ModelError or PackageError."""
    if path.suffix == ".mlpackage":
        from vtad_export.coreml import read_package_card

        return read_package_card(path)
    if path.suffix == ".onnx":
        from vtad_runtime.session import ModelError, Session

        try:
            return Session(path).card
        except ModelError as e:
            raise CardError(str(e)) from e
    if path.is_dir():
        return read_card(path / "card.json")
    if path.suffix == ".json":
        return read_card(path)
    kinds = ", ".join(f.suffix for f in FORMATS)
    raise CardError(f"{path}: expected an artefact ({kinds}), a run folder or a card.json, got another kind of file")
