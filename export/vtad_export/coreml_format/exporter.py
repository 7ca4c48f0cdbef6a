"""Core ML: an .mlpackage (ML Program) with the card inside, proven by reference execution before it is kept."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.export import ExportedProgram

import vtad
from vtad.models.detector import Judgement
from vtad.run_folder import Run, RunError, make_folder, not_written, write_text
from vtad_export.commands.formats import for_one_picture
from vtad_export.coreml_format.apple import coremltools, quiet
from vtad_export.coreml_format.graph import FLOAT32, Layout, layout_of, prepared, trace
from vtad_export.coreml_format.lint import Lint, lint
from vtad_export.coreml_format.mlpackage import PackageError, model_file, read_program, specification, weight_file
from vtad_export.coreml_format.reference_proof import DRIFT, Precision, ReferenceProof, prove_package
from vtad_export.onnx_format.exporter import Export, open_twin, place_twin
from vtad_export.onnx_format.int8 import INT8_DRIFT, PACKAGE_TESTS, category_tests, int8_weights
from vtad_export.proof.parity import (
    TOLERANCE,
    Execute,
    Limits,
    Material,
    ParityError,
    Twin,
    allowed_flips,
    check_pixels,
    load_material,
)
from vtad_export.proof.quality import Quality, measured
from vtad_export.proof.reference import make_reference, reference_file, write_reference
from vtad_runtime.contract.card import ONNX_KEY, Card, CardError, ComputeUnits

# From iOS 16 on there is pixel_unshuffle; macOS 13 is iOS 16's twin, and so on.
Target = Literal["iOS16", "iOS17", "iOS18", "iOS26", "macOS13", "macOS14", "macOS15", "macOS26"]
# Float32 has nothing to do on the Neural Engine.
COMPUTE_UNITS: dict[Precision, ComputeUnits] = {"fp16": "CPU_AND_NE", "int8": "CPU_AND_NE", "fp32": "CPU_AND_GPU"}
# What Xcode draws in its preview tab. It has no type for heatmaps; this one takes a picture and draws a map in grey.
PREVIEW_KEY, PREVIEW = "com.apple.coreml.model.preview.type", "depthEstimation"

_OUTPUTS = {
    "score": "Score of the picture: mean of the highest cells of the heatmap, a z-score: in standard deviations of good "
    "pictures. NG if and only if it is above calibration.threshold of the card.",
    "heatmap": "How unlike good parts each pixel is, as a z-score.",
    "ssim_map": "How unlike its reconstruction each pixel is (1 - SSIM), as a z-score.",
    "density_map": "How unlikely the features at each pixel are (negative log-likelihood), as a z-score.",
    "reconstruction": "The picture as the model expects it, RGB, intensity about 0 to 1.",
}


@dataclasses.dataclass(frozen=True)
class CoreMLExport(Export):
    """A package on disk, proven, with what was found on the way, its ONNX twin and what a device is to be checked against."""

    proof: ReferenceProof
    lint: Lint
    twin: Path
    reference: Path
    target: Target
    layout: Layout


def to_coreml(
    run: Run,
    path: Path | str | None = None,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp16",
    target: Target = "iOS16",
    layout: Layout = "ane",
    tolerance: dict[str, float] | None = None,
    max_flips: int | None = None,
    material: Material | None = None,
) -> CoreMLExport:
    """Export a complete run, by default to its export/<category>.mlpackage.

    Beside it: parity-coreml.json, <category>.reference.npz for `device_check`, and the ONNX twin, for machines that are no
    Macs, made unless one of the same weights is there; the proof compares all three. `layout`: ane is the transformer as the
    Neural Engine likes it, standard as it was trained. The other arguments are as of `to_onnx`. Raises RunError, CardError,
    DataError, WriteError, or ParityError when the package does not agree with torch; nothing new is left then.
    """
    coremltools()
    material = material or load_material(run, data)
    card, detector = for_one_picture(material.card), material.detector
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}.mlpackage"
    if path.suffix != ".mlpackage":
        raise RunError(f"{path}: expected a name that ends in .mlpackage, for Core ML takes no other")
    make_folder(path.parent)
    tests = category_tests(material, PACKAGE_TESTS) if precision == "int8" else ()
    images = len(material.sample.good) + len(material.sample.defective) + len(tests)

    def judge(execute: Execute) -> Quality:
        return measured(tests, card, detector, execute, len(category_tests(material)))

    budget = {"fp32": TOLERANCE, "fp16": DRIFT, "int8": INT8_DRIFT}[precision]
    limits = Limits(budget | (tolerance or {}), allowed_flips(precision, max_flips, images))
    with _twin(path, material) as twin, replacing_folder(path) as beside:
        sample = dataclasses.replace(material.sample, twin=twin)
        check_pixels(sample, card.input)
        arranged = prepared(detector, layout)
        program = trace(arranged)
        model = convert(program, precision, target)
        write_package(int8_weights(model) if precision == "int8" else model, card, beside)
        full = beside
        if precision != "fp32":
            full = beside.with_name("float32.mlpackage")
            write_package(convert(program, "fp32", target), card, full)
        try:
            lower: Any = "fp16" if precision == "fp32" else precision
            proof = prove_package(
                beside,
                full,
                detector,
                sample,
                card.calibration,
                arranged,
                precision=lower,
                tolerance=limits,
                judge=judge if tests else None,
            )
        except PackageError as e:
            raise ParityError(f"the Core ML package cannot be executed: {e}; nothing was kept") from e
        card = dataclasses.replace(card, parity=proof.parity, compute_units=COMPUTE_UNITS[precision])
        write_card(beside, card)
        saved = read_program(beside)
        findings = lint(saved)
        chosen = {"target": target, "layout": layout_of(arranged)}
        report = {**chosen, **dataclasses.asdict(proof), "neural_engine_lint": dataclasses.asdict(findings)}
        reference = reference_file(path)
        write_reference(reference, make_reference(detector, sample, card.weights_sha256))
        write_text(parity_file(path, precision), json.dumps(report, indent=2) + "\n")
    return CoreMLExport(
        path, card, len(saved.operations), proof, findings, twin.path, reference, target, layout_of(arranged)
    )


def parity_file(package: Path, precision: Precision) -> Path:
    """Where the report of the proof is: parity-coreml.json, or parity-coreml-int8.json, beside the package."""
    return package.with_name(f"parity-coreml{'' if precision == 'fp16' else f'-{precision}'}.json")


def convert(program: ExportedProgram, precision: Precision, target: Target) -> Any:
    """A traced detector as coremltools' MLModel, not yet on disk. Raises RunError when the target is not known."""
    ct = coremltools()
    known = getattr(ct.target, target, None)
    if known is None:
        raise RunError(f"expected a target that coremltools {ct.__version__} knows, got {target}")
    shape = next(n for n in program.graph.nodes if n.name == program.graph_signature.user_inputs[0]).meta["val"].shape
    half = ct.transform.FP16ComputePrecision(op_selector=_takes_float16)
    with quiet():
        own = copy.deepcopy(program)  # a constant subtracted after a convolution is negated in place by coremltools 9
        return ct.convert(
            own,
            inputs=[ct.ImageType(name="image", shape=tuple(shape), color_layout=ct.colorlayout.RGB)],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in Judgement._fields],
            convert_to="mlprogram",
            minimum_deployment_target=known,
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else half,
            skip_model_load=True,
        )


def _takes_float16(op: Any) -> bool:
    """Whether an operation was marked so by `trace`; what the converter added without a mark stays float32."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    marks = op.scopes.get(ScopeSource.EXIR_STACK_TRACE, [FLOAT32])
    return FLOAT32 not in marks


def write_package(model: Any, card: Card, path: Path) -> None:
    """Save a converted model with its card, descriptions and licence."""
    size = f"{card.input.width} x {card.input.height}"
    model.short_description = (
        f"Visual anomaly detection of {card.identity.category}: score, heatmap and reconstruction. "
        f"The inspection card is in the metadata under {ONNX_KEY}."
    )
    model.author = "vtad"
    model.license = "Apache-2.0"
    model.version = vtad.__version__
    model.input_description["image"] = f"Picture, RGB, {size} pixels, intensity 0 to 255; the scale is in the model."
    for name, text in _OUTPUTS.items():
        model.output_description[name] = text
    model.user_defined_metadata[ONNX_KEY] = card.to_json()
    model.user_defined_metadata[PREVIEW_KEY] = PREVIEW
    with quiet():
        model.save(str(path))
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # debugging aid of the converter
    for part in (path, *path.rglob("*")):  # coremltools makes most of them private
        shutil.copymode(path.parent if part.is_dir() else weight_file(path), part)


def write_card(path: Path, card: Card) -> None:
    """Replace the card in a saved package; its program and constants are not touched."""
    spec = specification(path)
    spec.description.metadata.userDefined[ONNX_KEY] = card.to_json()
    model_file(path).write_bytes(spec.SerializeToString())


def read_package_card(path: Path) -> Card:
    """The card of a saved package. Raises PackageError or CardError."""
    text = specification(path).description.metadata.userDefined.get(ONNX_KEY)
    if text is None:
        raise CardError(f"{path}: expected a package of vtad-export with its inspection card, got one without")
    return Card.from_json(text, str(path))


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A path to write a folder to; it takes the place of `path` when the block ends well, and goes when not.

    Two renames, not one: a folder cannot be renamed over another. Raises WriteError for an OSError inside the block.
    """
    room = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside, old = room / path.name, room / "old"
    try:
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir()
        yield beside
        try:
            if path.exists():
                path.rename(old)
            beside.rename(path)
        except BaseException:  # a signal's too, which can come between the two
            if old.exists() and not path.exists():
                old.rename(path)
            raise
    except OSError as e:
        raise not_written(path, e) from e
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextlib.contextmanager
def _twin(package: Path, material: Material) -> Iterator[Twin]:
    """The ONNX artefact of the same weights beside a package; one that was made for it goes when the block fails."""
    path = package.with_suffix(".onnx")
    plain = path.with_name(f"{material.card.identity.category}.onnx")
    own = {path, path.with_stem(path.stem.removesuffix("-int8")), plain, path.with_name("parity.json")}
    before = {p for p in own if p.exists()}
    try:
        twin = open_twin(place_twin(package, material), material.card.weights_sha256)
        assert twin is not None
        yield twin
    except BaseException:
        for made in own - before:
            made.unlink(missing_ok=True)
        raise
