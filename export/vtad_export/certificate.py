"""What an export proved, on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vtad_runtime.card import Card, Parity

if TYPE_CHECKING:
    from vtad_export.coreml import CoreMLExport
    from vtad_export.lint import Lint
    from vtad_export.onnx import Export


def certificate(path: Path, card: Card, operations: int) -> str:
    """Lines of text. The card must carry a parity entry."""
    parity = _parity(card)
    return "\n".join(
        [*_head(path, card, operations), f"  proven against torch on {_images(parity)}:", *_errors(parity)]
    )


def coreml_certificate(made: CoreMLExport) -> str:
    """Lines of text: the same, how it was proven, and what the lint says."""
    proof, parity = made.proof, made.proof.parity
    lines = [
        *_head(made.path, made.card, made.operations, f"for {made.target} and later, layout {made.layout}"),
        f"  {proof.method}: the saved package, operation by operation, against torch on",
        f"  {_images(parity)}:",
        *_errors(parity),
    ]
    if parity.precision == "fp16":
        lines += [
            f"    undecided       {proof.undecided} nearer to the threshold than the allowed drift, "
            f"{proof.undecided_flips} of them judged otherwise",
            f"    float16         largest activation {proof.largest_float16:.0f} of 65504",
        ]
    held = proof.constants_equal + len(proof.constants_derived)
    how = "bit for bit" + (", here rounded" if parity.precision == "fp16" else "")
    lines += [
        f"    constants       {proof.constants_equal} of {held} tensors equal the checkpoint's {how}, the rest are folded",
        *_lint(made.lint),
        f"  no Mac here? vtad-run takes the ONNX twin: {made.twin}",
    ]
    return "\n".join(lines)


def table(made: Sequence[Export]) -> str:
    """Several exports, a line each."""
    rows = [("format", "precision", "MB", "operations", "score error", "flips", "file")]
    for export in made:
        parity = _parity(export.card)
        rows.append(
            (
                parity.format,
                parity.precision,
                f"{size(export.path) / 1e6:.1f}",
                str(export.operations),
                f"{parity.max_error['score']:.1e}",
                f"{parity.verdict_flips} of {parity.images_good + parity.images_defective}",
                str(export.path),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  " + "  ".join(f"{v:<{w}}" for v, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _head(path: Path, card: Card, operations: int, note: str = "") -> list[str]:
    parity = _parity(card)
    kind = " ".join(filter(None, (parity.format, parity.precision, note)))
    return [
        f"{path}",
        f"  {kind}, {size(path) / 1e6:.1f} MB, {operations} operations, "
        f"{card.input.width}x{card.input.height} {card.input.colour}, threshold {card.calibration.threshold:.3f}",
    ]


def _errors(parity: Parity) -> Iterator[str]:
    units = {"reconstruction": "of full intensity", "score": "of the calibration spread"}
    for name, error in parity.max_error.items():
        unit = units.get(name, "units of normal variation")
        yield f"    {name:<15} largest error {error:.1e}, allowed {parity.tolerance[name]:.0e} {unit}"
    yield f"    verdict flips   {parity.verdict_flips} of {parity.images_good + parity.images_defective}"


def _lint(found: Lint) -> Iterator[str]:
    yield (
        f"  Neural Engine, by rules of thumb: {found.likely_eligible} of {found.operations} operations likely eligible, "
        f"{found.flops_share:.1%} of {found.gflops:.2f} GFLOP"
    )
    for f in found.findings:
        effect = "likely elsewhere" if f.off_engine else "likely slower"
        yield f"    {f.rule:<10} {f.operations:>4} {effect}, {f.flops_share:.1%} of FLOPs: {f.reason}; {f.advice}"


def _images(parity: Parity) -> str:
    return f"{parity.images_good} good images and {parity.images_defective} synthetic defects"


def _parity(card: Card) -> Parity:
    assert card.parity is not None
    return card.parity
