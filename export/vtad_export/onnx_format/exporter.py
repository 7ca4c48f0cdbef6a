"""ONNX: one file with weights and card inside, uint8 in, dynamic batch; proven through the runtime itself before it is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from vtad.models.detector import Detector, Judgement
from vtad.run_folder import Run, make_folder, replacing, write_text
from vtad_export.commands.formats import for_one_picture
from vtad_export.proof.parity import (
    TOLERANCE,
    Execute,
    Flip,
    Limits,
    Material,
    ParityError,
    Twin,
    Values,
    accept,
    allowed_flips,
    compare,
    decoded,
    image_files,
    load_material,
)
from vtad_export.proof.quality import Quality, measured
from vtad_runtime.contract.card import ONNX_KEY, Card
from vtad_runtime.contract.conformal import spread
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.verdict.detector import Detector as Runtime
from vtad_runtime.verdict.verdict import decide

OPSET = 20
MAX_BATCH = 64
Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Export:
    """An artefact on disk, proven."""

    path: Path
    card: Card
    operations: int


@dataclass(frozen=True)
class OnnxExport(Export):
    """An ONNX artefact, and what its proof says beyond the card."""

    flipped: tuple[Flip, ...]
    quality: Quality | None  # int8 with test images
    note: str | None  # set when the images are not those of the training


def to_onnx(
    run: Run,
    path: Path | str | None = None,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp32",
    tolerance: dict[str, float] | None = None,
    max_flips: int | None = None,
    material: Material | None = None,
) -> OnnxExport:
    """Export a complete run, by default to its export/<category>.onnx, with parity.json beside it.

    `data`: where the held-out good images of the proof are, by default where the run was trained from. `tolerance`: largest
    errors by output, in place of the default ones. `max_flips`: verdicts that may differ, by default none, for int8 one
    image in a hundred, rounded up. `material`: the run if it is loaded already. Raises RunError, CardError, DataError,
    or ParityError when the artefact does not agree with torch; nothing is left then.
    """
    from vtad_export.onnx_format.int8 import INT8_DRIFT, TESTS, category_tests, int8_matmuls

    material = material or load_material(run, data)
    card, sample, detector = material.card, material.sample, material.detector
    suffix = "" if precision == "fp32" else f"-{precision}"
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}{suffix}.onnx"
    make_folder(path.parent)
    tests = category_tests(material, TESTS) if precision == "int8" else ()
    limits = Limits(
        (TOLERANCE if precision == "fp32" else INT8_DRIFT) | (tolerance or {}),
        allowed_flips(precision, max_flips, len(sample.good) + len(sample.defective) + len(tests)),
    )
    if precision == "int8":
        card = for_one_picture(card)
    whole = model = _graph(detector)
    with replacing(path) as beside:
        quality = None
        try:
            if precision == "int8":
                model = int8_matmuls(whole, beside)
            _write(model, card, beside)
            execute = _executor(beside)
            found = compare(detector, execute, sample, card.calibration, limits)
            flipped = found.flipped
            if tests:
                quality = measured(tests, card, detector, execute, len(category_tests(material)))
                flipped += quality.flipped
            parity = accept(
                dataclasses.replace(found, flipped=flipped),
                sample,
                format="onnx",
                precision=precision,
                tolerance=limits,
                tests=len(tests),
            )
            card = dataclasses.replace(card, parity=parity)
            _write(model, card, beside)
            whole_path(beside, detector, material, limits, flipped)
        except ModelError as e:
            raise ParityError(f"the onnx artefact does not run: {e}; nothing was kept") from e
        report = dataclasses.asdict(parity)
        if precision == "int8":
            report["flipped"] = [dataclasses.asdict(f) for f in flipped]
            report["quality"] = dataclasses.asdict(quality) if quality else None
        write_text(path.with_name(f"parity{suffix}.json"), json.dumps(report, indent=2) + "\n")
    return OnnxExport(path, card, len(model.graph.node), flipped, quality, sample.note)


def whole_path(
    path: Path, detector: Detector, material: Material, limits: dict[str, float], flipped: tuple[Flip, ...] = ()
) -> None:
    """Judge every image from its file, as vtad_runtime does. Raises ParityError, ModelError.

    The runtime's pixels must be the training's, its score torch's within the tolerance, and its verdict that of torch's score but
    where the image is known to flip.
    """
    runtime, card, sample = Runtime(path), material.card, material.sample
    unit, known = spread(card.calibration.scores), {flip.image for flip in flipped}
    images = np.concatenate([sample.good, sample.defective])
    with image_files(sample) as files:
        for number, file in enumerate(files):
            pixels = decoded(file, card.input, images[number])
            with torch.inference_mode():
                score = float(detector(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))).score)
            said = runtime.file(file)
            name = sample.name(number)
            if said.error or not abs(said.score - score) <= limits["score"] * unit * max(1.0, abs(score)):
                raise ParityError(
                    f"{name}: expected the score {score:.6g} of torch, got {said.error or said.score} from the file by "
                    "vtad_runtime; nothing was kept"
                )
            if said.verdict is not decide(card.calibration, score) and name not in known:
                raise ParityError(
                    f"{name}: vtad_runtime says {said.verdict} of the file, torch otherwise; nothing was kept"
                )


def open_twin(path: Path, weights_sha256: str) -> Twin | None:
    """The proven ONNX artefact in a file; None where there is none of these weights."""
    try:
        session = OnnxSession(path)
    except ModelError:
        return None  # not there, not ours, or damaged
    if session.card.weights_sha256 != weights_sha256 or session.card.parity is None:
        return None
    return Twin(path, _run(session), session.card.parity)


def twin_beside(path: Path, material: Material) -> Twin:
    """The ONNX twin of an artefact, export/pill.onnx of pill.aimodel: the one that is there, or a new one.

    Raises ParityError, RunError, WriteError.
    """
    twin = open_twin(path, material.card.weights_sha256)
    if twin is None:
        to_onnx(material.run, path, material=material)
        twin = open_twin(path, material.card.weights_sha256)
    assert twin is not None
    return twin


@contextlib.contextmanager
def twin_during(path: Path, material: Material) -> Iterator[Twin]:
    """`twin_beside`; one that was made for it goes when the block fails."""
    own = {path, path.with_name("parity.json")}
    before = {p for p in own if p.exists()}
    try:
        yield twin_beside(path, material)
    except BaseException:
        for made in own - before:
            made.unlink(missing_ok=True)
        raise


def place_twin(path: Path, material: Material) -> Path:
    """See to the ONNX twin that `vtad_runtime.engine.coreml_engine.onnx_fallback` finds for a package, and name it.

    What has the package's name stays if it is of these weights and what its name says. Else the twin is the float32 model,
    pill.onnx, or a copy of it under the name of a package such as pill-fp32.mlpackage, less a final -int8. Raises as
    `twin_beside`.
    """
    own = path.with_suffix(".onnx")
    there = open_twin(own, material.card.weights_sha256)
    if there and (there.parity.precision == "int8" or not own.stem.endswith("-int8")):
        return own
    plain = twin_beside(path.with_name(f"{material.card.identity.category}.onnx"), material).path
    twin = own.with_stem(own.stem.removesuffix("-int8"))
    if twin != plain and not open_twin(twin, material.card.weights_sha256):
        with replacing(twin) as beside:
            shutil.copyfile(plain, beside)
    if twin != own:
        own.unlink(missing_ok=True)  # not what its name says, and it would be taken for this package's twin
    return twin


def _graph(detector: Detector) -> onnx.ModelProto:
    height, width = detector.size
    example = torch.zeros(2, 3, height, width, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            detector,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(Judgement._fields),
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}},
        )
    assert program is not None
    model = program.model_proto
    model.producer_name = "vtad"
    onnx.checker.check_model(model)
    return model


def _write(model: onnx.ModelProto, card: Card, path: Path) -> None:
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = ONNX_KEY, card.to_json()
    path.write_bytes(model.SerializeToString())


def _executor(path: Path) -> Execute:
    return _run(OnnxSession(path))


def _run(session: OnnxSession) -> Execute:
    def execute(pixels: NDArray[np.uint8]) -> Values:
        return vars(session.run(pixels))

    return execute


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its stages and warns of its own internals; its errors are exceptions."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
