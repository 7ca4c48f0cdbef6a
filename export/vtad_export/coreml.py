"""Core ML: an .mlpackage (ML Program) with the card inside, proven by reference execution before it is kept."""

from __future__ import annotations

import contextlib
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
from vtad.detector import Judgement
from vtad.run_folder import Run, RunError, make_folder, not_written, write_text
from vtad.trained import load_detector
from vtad_export.apple import coremltools, quiet
from vtad_export.graph import FLOAT32, Layout, layout_of, prepared, trace
from vtad_export.lint import Lint, lint
from vtad_export.mlpackage import PackageError, model_file, read_program, specification, weight_file
from vtad_export.onnx import Export, to_onnx
from vtad_export.parity import ParityError, samples
from vtad_export.reference_proof import Precision, ReferenceProof, prove_package
from vtad_runtime.card import ONNX_KEY, Card, CardError

# From iOS 16 on there is pixel_unshuffle; macOS 13 is iOS 16's twin, and so on.
Target = Literal["iOS16", "iOS17", "iOS18", "iOS26", "macOS13", "macOS14", "macOS15", "macOS26"]
PARITY_FILE = "parity-coreml.json"

_OUTPUTS = {
    "score": "Score of the picture: mean of the highest cells of the heatmap, in units of normal variation. NG if and only "
    "if it is above calibration.threshold of the card.",
    "heatmap": "How unlike good parts each pixel is, in units of normal variation.",
    "ssim_map": "How unlike its reconstruction each pixel is (1 - SSIM), in units of normal variation.",
    "nll_map": "How unlikely the features at each pixel are (negative log-likelihood), in units of normal variation.",
    "reconstruction": "The picture as the model expects it, RGB, intensity about 0 to 1.",
}


@dataclasses.dataclass(frozen=True)
class CoreMLExport(Export):
    """A package on disk, proven, with what was found on the way and its ONNX twin."""

    proof: ReferenceProof
    lint: Lint
    twin: Path
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
) -> CoreMLExport:
    """Export a complete run, by default to its export/<category>.mlpackage, with parity-coreml.json beside it.

    `layout`: ane is the transformer as the Neural Engine likes it, standard as it was trained. The ONNX twin, for machines
    that are no Macs, is made beside it unless one of the same weights is there. `data`: where the held-out good images of
    the proof are, by default where the run was trained from. Raises RunError, CardError, DataError, WriteError, or
    ParityError when the package does not agree with torch; no package is left then.
    """
    coremltools()
    card = run.card()
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}.mlpackage"
    if path.suffix != ".mlpackage":
        raise RunError(f"{path}: expected a name that ends in .mlpackage, for Core ML takes no other")
    data = Path(data) if data else None
    sample = samples(run, data)
    detector = load_detector(run)
    make_folder(path.parent)
    with replacing_folder(path) as beside:
        arranged = prepared(detector, layout)
        program = trace(arranged)
        write_package(convert(program, precision, target), card, beside)
        full = beside
        if precision == "fp16":
            full = beside.with_name("float32.mlpackage")
            write_package(convert(program, "fp32", target), card, full)
        try:
            proof = prove_package(beside, full, detector, sample, card.calibration, arranged)
        except PackageError as e:
            raise ParityError(f"the Core ML package cannot be executed: {e}; nothing was kept") from e
        card = dataclasses.replace(card, parity=proof.parity)
        write_card(beside, card)
        saved = read_program(beside)
        findings = lint(saved)
        twin = _twin(run, path.with_suffix(".onnx"), data)
        chosen = {"target": target, "layout": layout_of(arranged)}
        report = {**chosen, **dataclasses.asdict(proof), "neural_engine_lint": dataclasses.asdict(findings)}
        write_text(path.with_name(PARITY_FILE), json.dumps(report, indent=2) + "\n")
    return CoreMLExport(path, card, len(saved.operations), proof, findings, twin, target, layout_of(arranged))


def convert(program: ExportedProgram, precision: Precision, target: Target) -> Any:
    """A traced detector as coremltools' MLModel, not yet on disk. Raises RunError when the target is not known."""
    ct = coremltools()
    known = getattr(ct.target, target, None)
    if known is None:
        raise RunError(f"expected a target that coremltools {ct.__version__} knows, got {target}")
    shape = next(n for n in program.graph.nodes if n.name == program.graph_signature.user_inputs[0]).meta["val"].shape
    half = ct.transform.FP16ComputePrecision(op_selector=_takes_float16)
    with quiet():
        return ct.convert(
            program,
            inputs=[ct.ImageType(name="image", shape=tuple(shape), color_layout=ct.colorlayout.RGB)],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in Judgement._fields],
            convert_to="mlprogram",
            minimum_deployment_target=known,
            compute_precision=half if precision == "fp16" else ct.precision.FLOAT32,
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
        if path.exists():
            path.rename(old)
        try:
            beside.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as e:
        raise not_written(path, e) from e
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _twin(run: Run, path: Path, data: Path | None) -> Path:
    """The ONNX artefact of the same weights: the one that is there, or a new one."""
    from vtad_runtime.session import ModelError, Session

    try:
        if path.is_file() and Session(path).card.weights_sha256 == run.card().weights_sha256:
            return path
    except ModelError:
        pass  # not ours, or damaged: replaced
    return to_onnx(run, path, data=data).path
