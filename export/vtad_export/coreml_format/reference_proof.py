"""The proof of a Core ML package: read back from disk, executed operation by operation, against torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtad.models.detector import Detector
from vtad_export.coreml_format.graph import Verdict
from vtad_export.coreml_format.lint.report import Lint, lint
from vtad_export.coreml_format.lint.subnormals import Subnormal, subnormals
from vtad_export.coreml_format.mil import FLOAT16_LIMIT, REFERENCE, Executor
from vtad_export.coreml_format.mlpackage import Program
from vtad_export.coreml_format.same_program import difference
from vtad_export.proof.errors import ParityError, RoundingError
from vtad_export.proof.exporter import Precision
from vtad_export.proof.material import Execute, Samples
from vtad_export.proof.parity import FallbackComparison, Flip, accept, compare
from vtad_export.proof.quality import Quality
from vtad_export.proof.tensors import tensors_of
from vtad_export.proof.tolerance import COMPRESSED, TOLERANCE, limits
from vtad_runtime.contract.card import Calibration, Parity

FULL_IMAGES = 6  # of each kind: for the float32 program behind a float16 package, and for subnormal numbers taken for 0


@dataclass(frozen=True)
class ReferenceProof:
    """What was shown, and how."""

    parity: Parity
    method: str
    flipped: tuple[Flip, ...]  # images judged otherwise than by torch, test images among them
    constants_equal: int  # tensors of the checkpoint that the float32 program holds bit for bit, perhaps transposed
    constants_derived: tuple[str, ...]  # those that were folded or rearranged: compared by execution only
    largest_float16: float  # of the activation that comes nearest to what it may be
    float16_limit: float  # that
    largest_float16_at: str  # its name in the program
    subnormal: tuple[Subnormal, ...]  # float16 weights that have such numbers, the most of the norm first
    # By output, on some of the images, with 0 for every subnormal number in sums of products: what the M1 does.
    flushed_error: Mapping[str, float]
    against_fallback: FallbackComparison | None  # the ONNX fallback on the same images, where the samples have one
    quality: Quality | None  # on test images, where it was asked for
    neural_engine_lint: Lint  # by the largest activations that were seen


def prove_package(
    path: Path,
    full: Path,
    detector: Detector,
    sample: Samples,
    calibration: Calibration,
    arranged: Detector | None = None,
    *,
    precision: Precision = "fp16",
    tolerance: Mapping[str, float] | None = None,
    judge: Callable[[Execute], Quality] | None = None,
) -> ReferenceProof:
    """Execute a saved package against the detector in torch. Raises ParityError or PackageError; RoundingError for float16.

    `full` is the same detector in a float32 package, and `path` itself for one: it is held to torch's last digits. A package
    of lower `precision` must be that program rounded, and may drift by `tolerance`, by default the budget of its precision.
    `judge`: measures the package on test images, whose flips count. `arranged`: the detector as it was converted: a constant that
    has the name of one of its tensors must be it; `detector` by default.
    """
    if tolerance is None:
        tolerance = limits("fp32" if path == full else precision, detector, calibration, sample.ungraded)
    reference = Executor.load(full)
    equal, derived = compare_constants(reference.program, arranged or detector, detector)
    if path == full:
        found = compare(detector, reference, sample, calibration, tolerance)
        parity = accept(found, sample, format="coreml", precision="fp32", tolerance=tolerance)
        return ReferenceProof(
            parity,
            REFERENCE,
            found.flipped,
            equal,
            derived,
            0.0,
            FLOAT16_LIMIT,
            "",
            (),
            {},
            found.fallback,
            None,
            lint(reference.program),
        )
    few = dataclasses.replace(sample.first(FULL_IMAGES), fallback=None)
    found = compare(detector, reference, few, calibration, TOLERANCE)
    accept(found, few, format="coreml", precision="fp32", tolerance=TOLERANCE)
    executor = Executor.load(path)
    if precision in COMPRESSED and not (executor.program.steps or executor.program.palettes):
        raise ParityError(f"the coreml artefact: expected weights stored as {precision}, got none; nothing was kept")
    if where := difference(executor.program, reference.program):
        raise ParityError(f"the coreml artefact is not the float32 program rounded: {where}; nothing was kept")
    found = compare(detector, executor, sample, calibration, tolerance)
    quality = judge(executor) if judge else None
    peak = executor.peak  # on test images too
    if peak.value > peak.limit:
        raise RoundingError(
            f"the coreml artefact: float16 overflows at {peak.name}: {peak.value:.0f} of {peak.limit:.0f}; "
            "export with --precision fp32; nothing was kept"
        )
    if quality:
        found = dataclasses.replace(found, flipped=found.flipped + quality.flipped)
    tests = quality.images if quality else 0
    parity = accept(found, sample, format="coreml", precision=precision, tolerance=tolerance, tests=tests)
    flushed = _flushed_error(executor.program, detector, few, calibration, precision, tolerance)
    return ReferenceProof(
        parity,
        REFERENCE,
        found.flipped,
        equal,
        derived,
        peak.value,
        peak.limit,
        peak.name,
        subnormals(executor.program),
        flushed,
        found.fallback,
        quality,
        lint(executor.program, peak.largest),
    )


def _flushed_error(
    program: Program,
    detector: Detector,
    sample: Samples,
    calibration: Calibration,
    precision: Precision,
    tolerance: Mapping[str, float],
) -> dict[str, float]:
    """Errors by output with 0 for subnormal numbers in sums of products. Raises RoundingError where the M1 would be off."""
    found = compare(detector, Executor(program, flushed=True), sample, calibration, tolerance)
    try:
        accept(found, sample, format="coreml", precision=precision, tolerance=tolerance)
    except RoundingError as e:
        raise RoundingError(f"with subnormal numbers taken for 0, as on the M1: {e}") from e
    return found.max_error


def prove_verdict(verdict: Program, explain: Program) -> Lint:
    """Show that the function `verdict` is the part of a proven `explain` that gives score and heatmap, bit for bit; its lint.

    Raises ParityError.
    """
    part = dataclasses.replace(explain, outputs=explain.outputs[: len(verdict.outputs)])
    if verdict.outputs != Verdict._fields or part.outputs != Verdict._fields:
        raise ParityError(f"the function verdict: expected score and heatmap, got {', '.join(verdict.outputs)}")
    if where := difference(verdict, part, same_precision=True):
        raise ParityError(f"the function verdict is not a part of explain: {where}; nothing was kept")
    return lint(verdict)


def compare_constants(program: Program, arranged: Detector, detector: Detector) -> tuple[int, tuple[str, ...]]:
    """How many tensors of the detector a float32 program holds bit for bit, as they are or transposed; names of the rest.

    Raises ParityError where a constant of the name of a tensor of `arranged`, the detector as it was converted, is not that.
    """
    for name, expected in _tensors(arranged).items():
        for value in map(program.constants.get, _constant_names(name)):
            if isinstance(value, np.ndarray) and value.tobytes() != expected.tobytes():
                raise ParityError(f"the coreml artefact: the constant {name} is not the checkpoint's; nothing was kept")
    contents = {value.tobytes() for value in program.constants.values() if isinstance(value, np.ndarray)}
    trained = _tensors(detector)
    derived = tuple(n for n, t in trained.items() if not contents & {t.tobytes(), t.T.tobytes()})
    return len(trained) - len(derived), derived


def _tensors(detector: Detector) -> dict[str, NDArray[Any]]:
    """Those of numbers that are not whole, which count batches."""
    return {name: t for name, t in tensors_of(detector).items() if np.issubdtype(t.dtype, np.floating)}


def _constant_names(name: str) -> list[str]:
    """How torch.export and coremltools call a parameter (p_) or buffer (b_)."""
    flat = name.replace(".", "_")
    return [f"{kind}_{flat}" for kind in "pb"]
