"""Core ML: an .mlpackage (ML Program) with the card inside, proven by reference execution before it is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from vtad.run_folder import Run, RunError, make_folder, replacing_folder, write_text
from vtad_export.coreml_format.choices import FROM_IOS18, Layout, Target
from vtad_export.coreml_format.conversion import convert, int8_weights, write_package
from vtad_export.coreml_format.graph import layout_of, prepared, trace
from vtad_export.coreml_format.mlpackage import PackageError, coremltools, read_program
from vtad_export.coreml_format.reference_proof import ReferenceProof, prove_package
from vtad_export.onnx_format.fallback import fallback_for
from vtad_export.proof.certificate import (
    fallback_lines,
    head_lines,
    images,
    measured_lines,
    note_lines,
    quality_lines,
)
from vtad_export.proof.errors import ParityError
from vtad_export.proof.exporter import Export, Precision, for_one_picture
from vtad_export.proof.material import Execute, Material, check_pixels, load_material
from vtad_export.proof.quality import Quality, measured
from vtad_export.proof.tolerance import limits
from vtad_runtime.contract.card import ComputeUnits
from vtad_runtime.engine.integrity import write_sealed

# Float32 has nothing to do on the Neural Engine.
COMPUTE_UNITS: dict[Precision, ComputeUnits] = {"fp16": "CPU_AND_NE", "int8": "CPU_AND_NE", "fp32": "CPU_AND_GPU"}
TESTS = (
    24  # test images for AUROC and AUPRO before and after int8: the reference execution takes a third of a second each
)


@dataclasses.dataclass(frozen=True)
class CoreMLExport(Export):
    """A package, with what was found on the way, and its ONNX fallback."""

    proof: ReferenceProof
    fallback: Path
    target: Target
    layout: Layout

    @property
    def certificate(self) -> str:
        """What was proven and how, and what the lint says, on one screen."""
        proof, rounded = self.proof, self.parity.precision != "fp32"
        lines = [
            *head_lines(self, f"for {self.target} and later, layout {self.layout}"),
            f"  {proof.method}, against torch on {images(self.parity)}:",
            *measured_lines(self),
        ]
        if rounded:
            lines += [
                f"    float16         largest activation {proof.largest_float16:.0f} of 65504",
            ]
        lines += fallback_lines(proof.against_fallback)
        held = proof.constants_equal + len(proof.constants_derived)
        how = "bit for bit" + (", here rounded" if rounded else "")
        lines += [
            f"    constants       {proof.constants_equal} of {held} tensors equal the checkpoint's {how}, the rest are folded",
            *quality_lines(proof.quality, "torch", "this package, by reference execution"),
            *(f"  {line}" for line in proof.neural_engine_lint.lines()),
            f"  no Mac here? vtad-run takes the ONNX fallback: {self.fallback}",
            f"  on a Mac: vtad-export --device-check {self.path}",
            *note_lines(self.note),
        ]
        return "\n".join(lines)


def to_coreml(
    run: Run,
    path: Path | str | None = None,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp16",
    target: Target = "iOS16",
    layout: Layout = "ane",
    tolerance: Mapping[str, float] | None = None,
    max_flips: int | None = None,
    material: Material | None = None,
) -> CoreMLExport:
    """Export a complete run, by default to its export/<category>.mlpackage.

    Beside it: parity-coreml.json and the ONNX fallback, for machines that are no Macs, made unless one of the same weights is
    there; the proof compares all three. `layout`: ane is the transformer as the Neural Engine likes it, standard as it was
    trained. The other arguments are as of `to_onnx`. Raises RunError, CardError, DataError, WriteError, or ParityError when the
    package does not agree with torch; nothing new is left then.
    """
    coremltools()
    material = material or load_material(run, data)
    card, detector = for_one_picture(material.card), material.detector
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}.mlpackage"
    if path.suffix != ".mlpackage":
        raise RunError(f"{path}: expected a name that ends in .mlpackage, for Core ML takes no other")
    make_folder(path.parent)
    tests = material.sample.tests if precision == "int8" else ()
    number = material.sample.ungraded + min(TESTS, len(tests))

    def judge(execute: Execute) -> Quality:
        return measured(tests, card, detector, execute, TESTS)

    allowed = limits(precision, detector, card.calibration, number, tolerance, max_flips)
    with fallback_for(path, material) as fallback, replacing_folder(path) as beside:
        sample = dataclasses.replace(material.sample, fallback=fallback)
        check_pixels(sample, card.input)
        arranged = prepared(detector, layout, fused=target in FROM_IOS18)
        program = trace(arranged)
        model = convert(program, precision, target)
        write_package(int8_weights(model) if precision == "int8" else model, card, beside, material.references)
        full = beside
        if precision != "fp32":
            full = beside.with_name("float32.mlpackage")
            write_package(convert(program, "fp32", target), card, full)
        try:
            proof = prove_package(
                beside,
                full,
                detector,
                sample,
                card.calibration,
                arranged,
                precision=precision,
                tolerance=allowed,
                judge=judge if tests else None,
            )
        except PackageError as e:
            raise ParityError(f"the Core ML package cannot be executed: {e}; nothing was kept") from e
        units = COMPUTE_UNITS[precision]
        card = write_sealed(beside, dataclasses.replace(card, parity=proof.parity, compute_units=units))
        saved = read_program(beside)
        chosen = {"target": target, "layout": layout_of(arranged)}
        report = chosen | dataclasses.asdict(proof)
        write_text(parity_file(path, precision), json.dumps(report, indent=2) + "\n")
    return CoreMLExport(
        path,
        card,
        len(saved.operations),
        proof.flipped,
        material.sample.note,
        proof,
        fallback.path,
        target,
        layout_of(arranged),
    )


def parity_file(package: Path, precision: Precision) -> Path:
    """Where the report of the proof is: parity-coreml.json, or parity-coreml-int8.json, beside the package."""
    return package.with_name(f"parity-coreml{'' if precision == 'fp16' else f'-{precision}'}.json")
