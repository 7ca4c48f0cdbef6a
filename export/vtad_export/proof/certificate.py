"""Lines that the certificates of all formats share: what an export proved, on one screen."""

from __future__ import annotations

from pathlib import Path

from vtad.report.card_words import error_lines
from vtad_export.proof.exporter import Export
from vtad_export.proof.parity import FallbackComparison
from vtad_export.proof.quality import Quality
from vtad_runtime.contract.card import Parity

LISTED = 8  # flips on a certificate


def head_lines(made: Export, kind: str = "") -> list[str]:
    """Where the artefact is, what it is (`kind` says more), and what it takes."""
    card = made.card
    what = " ".join(filter(None, (made.parity.format, made.parity.precision, kind)))
    return [
        f"{made.path}",
        f"  {what}, {size(made.path) / 1e6:.1f} MB, {made.operations} operations, "
        f"{card.input.width}x{card.input.height} {card.input.colour}, threshold {card.calibration.threshold:.3f}",
    ]


def images(parity: Parity) -> str:
    """What the proof ran on."""
    near = parity.near.below + parity.near.above if parity.near else 0
    return f"{parity.images_good} good images, {parity.images_defective} synthetic defects, {near} near the threshold"


def measured_lines(made: Export) -> list[str]:
    """One line an output, one for the verdicts, and one for each image that is judged otherwise, up to LISTED of them."""
    flips = [
        f"      {flip.image}: score {flip.expected:.6g} in torch, {flip.got:.6g} here" for flip in made.flipped[:LISTED]
    ]
    more = len(made.flipped) - LISTED
    if more > 0:
        flips.append(f"      and {more} more, see the parity file beside it")
    return [*(f"    {line}" for line in error_lines(made.parity)), *flips]


def fallback_lines(found: FallbackComparison | None) -> list[str]:
    """How the artefact and its ONNX fallback differ."""
    if found is None:
        return []
    return [
        f"    ONNX fallback   on the same images: score {found.apart['score']:.1e} of the calibration spread apart, "
        f"{_differing(found.flips)}"
    ]


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


def _differing(flips: int) -> str:
    return "1 verdict differs" if flips == 1 else f"{flips} verdicts differ"


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
