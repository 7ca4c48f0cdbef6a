"""Core AI: an .aimodel with the card inside, executed by Apple's runtime on this machine before it is kept.

Beta: coreai-torch and coreai-core are pinned as a pair (extra `coreai`). Float32 is executed; float16 is checked for structure
only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from vtad.run_folder import Run, RunError, make_folder, replacing_folder, write_text
from vtad_export.coreai_format.asset import verify
from vtad_export.coreai_format.conversion import check_structure, operations, program_of, save_asset, write_card
from vtad_export.coreai_format.packages import VERSIONS, missing
from vtad_export.coreai_format.reading_back import read_back
from vtad_export.coreai_format.rounded import Rounded
from vtad_export.coreai_format.runtime import Runtime
from vtad_export.onnx_format.fallback import fallback_for
from vtad_export.proof.certificate import fallback_lines, head_lines, images, measured_lines, note_lines
from vtad_export.proof.exporter import Export, Precision, Status, for_one_picture
from vtad_export.proof.material import Material, check_pixels, load_material
from vtad_export.proof.parity import FallbackComparison, accept, compare
from vtad_export.proof.tolerance import limits
from vtad_runtime.engine.integrity import contents

EXECUTED = "executed by Apple's Core AI runtime on this machine"
STRUCTURE = "structure only, not executed: signature, precision of the weights; its arithmetic in torch's float16"
IMAGES = 6  # of each kind: Apple's runtime takes seconds a picture here


@dataclasses.dataclass(frozen=True)
class CoreAIExport(Export):
    """An asset, and what was shown of it."""

    method: str
    fallback: Path
    against_fallback: FallbackComparison | None  # all three were compared

    @property
    def status(self) -> Status:
        """Float16 is not executed."""
        return "proven" if self.method == EXECUTED else "structure only"

    @property
    def certificate(self) -> str:
        """What was proven and how, on one screen."""
        lines = [
            *head_lines(self, "(beta)"),
            f"  {self.method};",
            f"  against torch on {images(self.parity)}:",
            *measured_lines(self),
            *fallback_lines(self.against_fallback),
            f"  no Apple device here? vtad-run takes the ONNX fallback: {self.fallback}",
            *note_lines(self.note),
        ]
        return "\n".join(lines)


def to_coreai(
    run: Run,
    path: Path | str | None = None,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp32",
    tolerance: Mapping[str, float] | None = None,
    max_flips: int | None = None,
    material: Material | None = None,
) -> CoreAIExport:
    """Export a complete run, by default to its export/<category>.aimodel, with parity-coreai.json beside it.

    The ONNX fallback is made beside it unless one that judges alike is there. Arguments as of `to_onnx`. Raises RunError (the
    packages are absent or of another version), CardError, DataError, WriteError, or ParityError when the asset does not
    agree with torch; nothing is left then.
    """
    if reason := missing():
        raise RunError(reason)
    if precision not in ("fp32", "fp16"):
        raise RunError(f"expected a Core AI asset in fp32 or fp16, got {precision}")
    material = material or load_material(run, data)
    card, detector = for_one_picture(material.card), material.detector
    suffix = "" if precision == "fp32" else f"-{precision}"
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}{suffix}.aimodel"
    if path.suffix != ".aimodel":
        raise RunError(f"{path}: expected a name that ends in .aimodel, for Core AI takes no other")
    make_folder(path.parent)
    few = material.sample.first(IMAGES)
    allowed = limits(precision, detector, card.calibration, few.ungraded, tolerance, max_flips)
    plain = path.with_stem(path.stem.removesuffix("-fp16"))
    with fallback_for(plain, material) as fallback, replacing_folder(path) as beside:
        sample = dataclasses.replace(few, fallback=fallback)
        check_pixels(sample, card.input)
        if precision == "fp32":
            save_asset(program_of(detector), card, beside)
            verify(beside)
            with Runtime(beside) as execute:
                found = compare(detector, execute, sample, card.calibration, allowed)
            method = EXECUTED
        else:
            half = Rounded(detector)
            save_asset(program_of(half), card, beside)
            verify(beside)
            check_structure(beside, half)
            found = compare(detector, half.execute, sample, card.calibration, allowed)
            method = STRUCTURE
        parity = accept(found, sample, format="coreai", precision=precision, tolerance=allowed)
        card = dataclasses.replace(card, parity=parity).sealed(contents(beside).files)
        write_card(beside, card)
        read_back(beside, card)
        count = operations(beside)
        report = {
            "method": method,
            "packages": VERSIONS,
            **dataclasses.asdict(parity),
            "flipped": [dataclasses.asdict(f) for f in found.flipped],
            "onnx_fallback": dataclasses.asdict(found.fallback) if found.fallback else None,
        }
        write_text(path.with_name(f"parity-coreai{suffix}.json"), json.dumps(report, indent=2) + "\n")
    fallback.path.touch()  # vtad-run takes the newest export: this one, of which it runs the ONNX fallback
    return CoreAIExport(path, card, count, found.flipped, material.sample.note, method, fallback.path, found.fallback)
