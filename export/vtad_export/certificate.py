"""What an export proved, on one screen."""

from __future__ import annotations

from pathlib import Path

from vtad_runtime.card import Card


def certificate(path: Path, card: Card, operations: int) -> str:
    """Lines of text. The card must carry a parity entry."""
    parity = card.parity
    assert parity is not None
    lines = [
        f"{path}",
        f"  {parity.format} {parity.precision}, {path.stat().st_size / 1e6:.1f} MB, {operations} operations, "
        f"{card.input.width}x{card.input.height} {card.input.colour}, threshold {card.calibration.threshold:.3f}",
        f"  proven against torch on {parity.images_good} good images and {parity.images_defective} synthetic defects:",
    ]
    units = {"reconstruction": "of full intensity", "score": "of the calibration spread"}
    for name, error in parity.max_error.items():
        unit = units.get(name, "units of normal variation")
        lines.append(f"    {name:<15} largest error {error:.1e}, allowed {parity.tolerance[name]:.0e} {unit}")
    lines.append(f"    verdict flips   {parity.verdict_flips} of {parity.images_good + parity.images_defective}")
    return "\n".join(lines)
