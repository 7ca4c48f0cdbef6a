"""ONNX: one file with weights and card inside, uint8 in, a free batch; proven through the runtime itself before it is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtad.run_folder import Run, RunError, make_folder, replacing, write_text
from vtad_export.folding.detector import folded
from vtad_export.onnx_format.graph import executor, fix_batch, onnx_graph, write_graph
from vtad_export.onnx_format.int8 import int8_matmuls
from vtad_export.onnx_format.reading_back import Constants, batch_sizes, read_back
from vtad_export.proof.certificate import head_lines, images, measured_lines, note_lines, quality_lines
from vtad_export.proof.errors import ParityError
from vtad_export.proof.exporter import Export, Precision, for_batch
from vtad_export.proof.material import Material, Samples, decoded, image_files, load_material
from vtad_export.proof.parity import Flip, accept, compare
from vtad_export.proof.quality import Quality, measured
from vtad_export.proof.tolerance import Limits, limits
from vtad_runtime.contract.card import Card
from vtad_runtime.contract.progress import watched
from vtad_runtime.contract.references import largest_error
from vtad_runtime.engine.model import ModelError
from vtad_runtime.verdict.detector import Detector as Runtime
from vtad_runtime.verdict.verdict import decide

TESTS = 160  # test images that both programs judge, for AUROC and AUPRO before and after int8: some 20 seconds


@dataclass(frozen=True)
class OnnxExport(Export):
    """An ONNX artefact."""

    quality: Quality | None  # int8 with test images
    constants: Constants

    @property
    def certificate(self) -> str:
        """What was proven and how, on one screen."""
        held, of_them = self.constants.equal, self.constants.equal + len(self.constants.folded)
        how = "bit for bit" + (", then rounded" if self.parity.precision == "int8" else "")
        lines = [
            *head_lines(self),
            f"  proven against torch on {images(self.parity)},",
            "  each from its file by vtad_runtime itself; its pixels are those of the training, bit for bit:",
            *measured_lines(self),
            f"    constants       {held} of {of_them} tensors equal the checkpoint's {how}, the rest are folded",
            "    verdict alone   score and heatmap are those of the whole graph, bit for bit, on the same images",
            f"    read back       card, interface{self._batches()}",
            *quality_lines(self.quality, "torch", "this artefact"),
            *note_lines(self.note),
        ]
        return "\n".join(lines)

    def _batches(self) -> str:
        if self.card.outputs[0].shape != ("batch",):
            return ""
        *smaller, largest = batch_sizes(self.card)
        return f", batches of {', '.join(map(str, smaller))} and {largest}"


def to_onnx(
    run: Run,
    path: Path | str | None = None,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp32",
    tolerance: Mapping[str, float] | None = None,
    max_flips: int | None = None,
    batch: int | None = None,
    material: Material | None = None,
) -> OnnxExport:
    """Export a complete run, by default to its export/<category>.onnx, with parity.json beside it.

    `data`: where the held-out good images of the proof are, by default where the run was trained from. `tolerance`: largest
    errors by output, in place of the default ones. `max_flips`: verdicts that may differ, by default none, for int8 one
    image in a hundred, rounded up. `batch`: pictures that the file takes at a time, by default any number up to 64, in int8
    one. `material`: the run if it is loaded already. Raises RunError, CardError, DataError,
    or ParityError when the artefact does not agree with torch; nothing is left then.
    """
    if precision not in ("fp32", "int8"):
        raise RunError(f"expected an ONNX artefact in fp32 or int8, got {precision}")
    if precision == "int8" and batch not in (None, 1):
        raise RunError(f"expected a batch of 1 in int8, which rounds by the range of all that it is given, got {batch}")
    material = material or load_material(run, data)
    card, sample, detector = material.card, material.sample, material.detector
    suffix = "" if precision == "fp32" else f"-{precision}"
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}{suffix}.onnx"
    make_folder(path.parent)
    tests = sample.tests if precision == "int8" else ()
    judged = min(TESTS, len(tests))
    allowed = limits(precision, detector, card.calibration, sample.ungraded + judged, tolerance, max_flips)
    arranged = folded(detector)
    whole = model = onnx_graph(arranged)
    if batch and precision != "int8":
        fix_batch(whole, batch)
    if batch := 1 if precision == "int8" else batch:
        card = for_batch(card, batch)
    with replacing(path) as beside:
        quality = None
        try:
            if precision == "int8":
                model = int8_matmuls(whole, beside)
            write_graph(model, card, beside, material.references)
            execute = executor(beside)
            found = compare(detector, execute, sample, card.calibration, allowed)
            flipped = found.flipped
            if tests:
                quality = measured(tests, card, detector, execute, TESTS)
                flipped += quality.flipped
            parity = accept(
                dataclasses.replace(found, flipped=flipped),
                sample,
                format="onnx",
                precision=precision,
                tolerance=allowed,
                tests=judged,
            )
            card = write_graph(model, dataclasses.replace(card, parity=parity), beside, material.references)
            pixels = np.concatenate([sample.good, sample.defective]).transpose(0, 3, 1, 2)  # (N, 3, H, W)
            held = Limits(parity.tolerance, allowed.flips)
            constants = read_back(beside, card, whole, arranged, detector, pixels, held, material.references)
            check_from_file(beside, card, sample, found.scores, held, flipped)
        except ModelError as e:
            raise ParityError(f"the onnx artefact does not run: {e}; nothing was kept") from e
        report = {**dataclasses.asdict(parity), "constants": dataclasses.asdict(constants)}
        if precision == "int8":
            report["flipped"] = [dataclasses.asdict(f) for f in flipped]
            report["quality"] = dataclasses.asdict(quality) if quality else None
        write_text(path.with_name(f"parity{suffix}.json"), json.dumps(report, indent=2) + "\n")
    return OnnxExport(path, card, len(model.graph.node), flipped, sample.note, quality, constants)


def check_from_file(
    path: Path,
    card: Card,
    sample: Samples,
    scores: NDArray[np.float32],
    allowed: Limits,
    flipped: tuple[Flip, ...] = (),
) -> None:
    """Judge every image from its file, as vtad_runtime does. Raises ParityError, ModelError.

    The runtime's pixels must be the training's, its score that of torch (`scores`, by image) within the tolerance, and its
    verdict that of torch's score, except where the image is known to flip.
    """
    runtime, known = Runtime(path, review=0), {flip.image for flip in flipped}
    with image_files(sample) as files:
        each = zip(watched(files, "judging from files"), sample.images, scores, strict=True)
        for number, (file, pixels, score) in enumerate(each):
            decoded(file, card.input, pixels)
            found = runtime.file(file)
            name = sample.name(number)
            got = np.asarray(found.score, np.float32)
            if found.error or not largest_error("score", np.asarray(score), got, card.calibration) <= allowed["score"]:
                raise ParityError(
                    f"{name}: expected the score {score:.6g} of torch, got {found.error or found.score} from the file by "
                    "vtad_runtime; nothing was kept"
                )
            if found.verdict is not decide(card.calibration, float(score), doubt=found.doubt) and name not in known:
                raise ParityError(
                    f"{name}: vtad_runtime says {found.verdict} of the file, torch otherwise; nothing was kept"
                )
