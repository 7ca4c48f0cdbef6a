"""Core ML: an .mlpackage (ML Program) with the card inside, proven by reference execution before it is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from vtad.run_folder import Run, RunError, make_folder, replacing_folder, write_text
from vtad_export.coreml_format.choices import FROM_IOS18, Layout, Target
from vtad_export.coreml_format.conversion import compressed, convert, write_functions, write_package
from vtad_export.coreml_format.graph import OUTPUTS, EngineDetector, layout_of, prepared, trace
from vtad_export.coreml_format.lint.generations import REFERENCE
from vtad_export.coreml_format.lint.report import Lint
from vtad_export.coreml_format.mlpackage import PackageError, coremltools, read_program
from vtad_export.coreml_format.reading_back import read_back
from vtad_export.coreml_format.reference_proof import ReferenceProof, prove_package, prove_verdict
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
from vtad_export.proof.interface import EVERYTHING, MAIN
from vtad_export.proof.material import Execute, Material, check_pixels, load_material
from vtad_export.proof.quality import Quality, measured
from vtad_export.proof.tolerance import COMPRESSED, limits
from vtad_runtime.contract.card import ComputeUnits
from vtad_runtime.engine.coreml_engine import verdict_package
from vtad_runtime.engine.integrity import write_sealed

# Float32 has nothing to do on the Neural Engine.
COMPUTE_UNITS: dict[Precision, ComputeUnits] = {
    **dict.fromkeys(get_args(Precision), "CPU_AND_NE"),
    "fp32": "CPU_AND_GPU",
}
TESTS = 24  # test images for AUROC and AUPRO before and after: the reference execution takes a third of a second each


@dataclasses.dataclass(frozen=True)
class CoreMLExport(Export):
    """A package, with what was found on the way, and its ONNX fallback."""

    proof: ReferenceProof
    fallback: Path
    target: Target
    layout: Layout
    verdict: Lint  # of the function of that name
    verdict_path: Path | None  # where it is, when not in the package itself

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
                f"    float16         largest activation {proof.largest_float16:.0f} of {proof.float16_limit:.0f}",
                f"    subnormals      {self._subnormals()}",
            ]
        lines += fallback_lines(proof.against_fallback)
        held = proof.constants_equal + len(proof.constants_derived)
        how = "bit for bit" + (", here rounded" if rounded else "")
        lines += [
            f"    constants       {proof.constants_equal} of {held} tensors equal the checkpoint's {how}, the rest are folded",
            *quality_lines(proof.quality, "torch", "this package, by reference execution"),
            *(f"  {line}" for line in proof.neural_engine_lint.lines()),
            f"  score and heatmap alone, the same program: {self._verdict()}",
            f"  no Mac here? vtad-run takes the ONNX fallback: {self.fallback}",
            f"  on a Mac: vtad-export --device-check {self.path}",
            *note_lines(self.note),
        ]
        return "\n".join(lines)

    def _subnormals(self) -> str:
        """The weight that has the most of them, and what taking them for 0 does."""
        proof = self.proof
        most = proof.subnormal[0] if proof.subnormal else None
        held = f"{most.share:.1%} of {most.weight.removesuffix('_to_fp16')}" if most else "in no weight"
        return f"{held}; as 0 (M1), score off by {proof.flushed_error['score']:.1e}"

    def _verdict(self) -> str:
        """Where the shorter function is, and what it saves."""
        held, saved = self.verdict, self.proof.neural_engine_lint
        mb, mb_before = (lint.activations_mb * (1 - lint.generations[REFERENCE].bytes_share) for lint in (held, saved))
        where = self.verdict_path or "function verdict; explain is the default"
        return f"{where}; {held.operations} operations, {mb:.1f} MB beside the engine instead of {mb_before:.1f}"


def to_coreml(
    run: Run,
    path: Path | str | None = None,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp16",
    target: Target = "iOS16",
    layout: Layout = "ane",
    with_backbone: bool = False,
    tolerance: Mapping[str, float] | None = None,
    max_flips: int | None = None,
    material: Material | None = None,
) -> CoreMLExport:
    """Export a complete run, by default to its export/<category>.mlpackage.

    It has two functions: `explain`, the default one, gives everything; `verdict` score and heatmap alone. A target before iOS 18
    knows one function a package: there `verdict` is a package of its own, <category>.verdict.mlpackage, with the same card.
    Beside it: parity-coreml.json and the ONNX fallback, for machines that are no Macs, made unless one that judges alike is
    there; the proof compares all three. `layout`: ane is the transformer as the Neural Engine likes it, standard as it was
    trained. `with_backbone`: compress its weights too, not the transformer's alone. The other arguments are as of `to_onnx`.
    Raises RunError, CardError, DataError, WriteError, or ParityError when the package does not agree with torch; nothing new is
    left then.
    """
    coremltools()
    material = material or load_material(run, data)
    card, detector = for_one_picture(material.card), material.detector
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}.mlpackage"
    if path.suffix != ".mlpackage":
        raise RunError(f"{path}: expected a name that ends in .mlpackage, for Core ML takes no other")
    make_folder(path.parent)
    tests = material.sample.tests if precision in COMPRESSED else ()
    number = material.sample.ungraded + min(TESTS, len(tests))

    def judge(execute: Execute) -> Quality:
        return measured(tests, card, detector, execute, TESTS)

    allowed = limits(precision, detector, card.calibration, number, tolerance, max_flips)
    several, beside_it = target in FROM_IOS18, verdict_package(path)
    with contextlib.ExitStack() as stack:
        fallback = stack.enter_context(fallback_for(path, material))
        beside = stack.enter_context(replacing_folder(path))
        shortened = beside if several else stack.enter_context(replacing_folder(beside_it))
        sample = dataclasses.replace(material.sample, fallback=fallback)
        check_pixels(sample, card.input)
        arranged = prepared(detector, layout, fused=several)
        programs = {name: trace(EngineDetector(arranged, name)) for name in OUTPUTS}
        models = {name: convert(programs[name], precision, target, OUTPUTS[name]) for name in OUTPUTS}
        if precision in COMPRESSED:
            models = {name: compressed(model, precision, with_backbone) for name, model in models.items()}
        if several:
            write_functions(models, card, beside, material.references)
        else:
            write_package(models["explain"], card, beside, material.references)
            write_package(models["verdict"], card, shortened, material.references)
        full = beside
        if precision != "fp32" or several:
            full = beside.with_name("float32.mlpackage")
            write_package(convert(programs["explain"], "fp32", target), card, full)
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
            verdict = prove_verdict(read_program(shortened, "verdict" if several else None), read_program(beside))
        except PackageError as e:
            raise ParityError(f"the Core ML package cannot be executed: {e}; nothing was kept") from e
        units = COMPUTE_UNITS[precision]
        proven = dataclasses.replace(card, parity=proof.parity, compute_units=units)
        if not several:
            read_back(shortened, write_sealed(shortened, proven), target, {MAIN: OUTPUTS["verdict"]})
        card = write_sealed(beside, proven)
        read_back(beside, card, target, {str(name): OUTPUTS[name] for name in OUTPUTS} if several else EVERYTHING)
        saved = read_program(beside)
        chosen = {"target": target, "layout": layout_of(arranged), "with_backbone": with_backbone}
        report = chosen | dataclasses.asdict(proof) | {"verdict": dataclasses.asdict(verdict)}
        write_text(parity_file(path, precision), json.dumps(report, indent=2) + "\n")
    if several:
        shutil.rmtree(beside_it, ignore_errors=True)  # of an earlier export
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
        verdict,
        None if several else beside_it,
    )


def parity_file(package: Path, precision: Precision) -> Path:
    """Where the report of the proof is: parity-coreml.json, or parity-coreml-int8.json, beside the package."""
    return package.with_name(f"parity-coreml{'' if precision == 'fp16' else f'-{precision}'}.json")
