"""What an export proved, on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vtad_export.proof.show import error_lines
from vtad_runtime.contract.card import Card, Parity

if TYPE_CHECKING:
    from vtad_export.coreai_format.exporter import CoreAIExport
    from vtad_export.coreml_format.exporter import CoreMLExport
    from vtad_export.onnx_format.exporter import OnnxExport
    from vtad_export.proof.parity import Flip, TwinComparison
    from vtad_export.proof.quality import Quality

LISTED = 8  # flips on a certificate


def onnx_certificate(made: OnnxExport) -> str:
    """Lines of text."""
    parity = proof_of(made.card)
    lines = [
        *_head(made.path, made.card, made.operations),
        f"  proven against torch on {_images(parity)},",
        "  each from its file by vtad_runtime itself; its pixels are those of the training, bit for bit:",
        *_indented(error_lines(parity)),
        *flip_lines(made.flipped),
        *quality_lines(made.quality, "torch", "this artefact"),
    ]
    return "\n".join([*lines, *note_lines(made.note)])


def coreml_certificate(made: CoreMLExport, note: str | None = None) -> str:
    """Lines of text: the same, how it was proven, and what the lint says."""
    proof, parity = made.proof, made.proof.parity
    lines = [
        *_head(made.path, made.card, made.operations, f"for {made.target} and later, layout {made.layout}"),
        f"  {proof.method}, against torch on {_images(parity)}:",
        *_indented(error_lines(parity)),
        *flip_lines(proof.flipped),
    ]
    if parity.precision != "fp32":
        lines += [
            f"    near threshold  {proof.near} of the images: nearer than the score may drift, so rounding may decide there",
            f"    float16         largest activation {proof.largest_float16:.0f} of 65504",
        ]
    lines += twin_lines(proof.against_twin)
    held = proof.constants_equal + len(proof.constants_derived)
    how = "bit for bit" + ("" if parity.precision == "fp32" else ", here rounded")
    lines += [
        f"    constants       {proof.constants_equal} of {held} tensors equal the checkpoint's {how}, the rest are folded",
        *quality_lines(proof.quality, "torch", "this package, by reference execution"),
        *(f"  {line}" for line in made.lint.lines()),
        f"  no Mac here? vtad-run takes the ONNX twin: {made.twin}",
        f"  on a Mac: vtad-export --device-check {made.path}",
    ]
    return "\n".join([*lines, *note_lines(note)])


def coreai_certificate(made: CoreAIExport) -> str:
    """Lines of text."""
    parity = proof_of(made.card)
    lines = [
        *_head(made.path, made.card, made.operations, "(beta)"),
        f"  {made.method};",
        f"  against torch on {_images(parity)}:",
        *_indented(error_lines(parity)),
        *flip_lines(made.flipped),
    ]
    lines += twin_lines(made.against_twin)
    lines.append(f"  no Apple device here? vtad-run takes the ONNX twin: {made.twin}")
    return "\n".join([*lines, *note_lines(made.note)])


def twin_lines(found: TwinComparison | None) -> list[str]:
    """How the artefact and its ONNX twin differ."""
    if found is None:
        return []
    return [
        f"    ONNX twin       on the same images: score {found.apart['score']:.1e} of the calibration spread apart, "
        f"{_differing(found.flips)}"
    ]


def flip_lines(flipped: tuple[Flip, ...]) -> list[str]:
    """One line an image that is judged otherwise, up to LISTED of them."""
    lines = [
        f"      {flip.image}: score {flip.expected:.6g} in torch, {flip.got:.6g} here" for flip in flipped[:LISTED]
    ]
    more = len(flipped) - LISTED
    return [*lines, f"      and {more} more, see the parity file beside it"] if more > 0 else lines


def quality_lines(quality: Quality | None, before: str, after: str) -> list[str]:
    """AUROC and AUPRO of both."""
    if quality is None:
        return []
    several = f"{quality.images} of {quality.of}" if quality.images < quality.of else str(quality.images)
    return [
        f"    {several} test images: image AUROC {_share(quality.before.image_auroc)} by {before}, "
        f"{_share(quality.after.image_auroc)} by {after};",
        f"      AUPRO at the model's size {_share(quality.before.aupro)} and {_share(quality.after.aupro)}; "
        f"{_differing(len(quality.flipped))}",
    ]


def note_lines(note: str | None) -> list[str]:
    """What to know about the images of the proof."""
    return [f"  note: {note}"] if note else []


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def proof_of(card: Card) -> Parity:
    """The proof on the card of an export."""
    assert card.parity is not None
    return card.parity


def _head(path: Path, card: Card, operations: int, note: str = "") -> list[str]:
    parity = proof_of(card)
    kind = " ".join(filter(None, (parity.format, parity.precision, note)))
    return [
        f"{path}",
        f"  {kind}, {size(path) / 1e6:.1f} MB, {operations} operations, "
        f"{card.input.width}x{card.input.height} {card.input.colour}, threshold {card.calibration.threshold:.3f}",
    ]


def _differing(flips: int) -> str:
    return "1 verdict differs" if flips == 1 else f"{flips} verdicts differ"


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _images(parity: Parity) -> str:
    return f"{parity.images_good} good images and {parity.images_defective} synthetic defects"


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
