"""The proof of a Core ML package: read back from disk, executed operation by operation, against torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vtad.detector import Detector
from vtad_export.mil import FLOAT16_LIMIT, REFERENCE, Executor
from vtad_export.mlpackage import Program
from vtad_export.parity import TOLERANCE, ParityError, Samples, accept, compare
from vtad_export.same_program import difference
from vtad_runtime.card import Calibration, Parity

Precision = Literal["fp16", "fp32"]

# What float16 may drift. The teacher's rounding is magnified by the whitening, where features vary little, and reaches the
# score through the density, the reconstruction through the transformer. Measured, default preset: MVTec AD bottle, two
# trainings: reconstruction 0.0016, ssim_map 0.035, nll_map and heatmap 0.10, score 0.026 of the spread; the demo's
# tablets: reconstruction 0.009, ssim_map 0.15. The maps share one budget; verdicts are held by the score's.
DRIFT = {
    "reconstruction": 2e-2,  # intensity: five of 255 levels, in a picture that is only looked at
    "ssim_map": 0.5,  # units of normal variation
    "nll_map": 0.5,
    "heatmap": 0.5,
    "score": 0.1,  # of the calibration spread
}

FULL_IMAGES = 8  # of each kind: what the float32 program behind a float16 package is held to torch on


@dataclass(frozen=True)
class ReferenceProof:
    """What was shown, and how."""

    parity: Parity
    method: str
    undecided: int  # images nearer to the threshold than the score's drift: their verdict is not held against float16
    undecided_flips: int  # of those, the ones judged otherwise than by torch
    constants_equal: int  # tensors of the checkpoint that the float32 program holds bit for bit, float16 rounded
    constants_derived: tuple[str, ...]  # those that the converter folded into others: compared by execution only
    largest_float16: float  # activation, against FLOAT16_LIMIT
    largest_float16_at: str  # its name in the program


def prove_package(
    path: Path,
    full: Path,
    detector: Detector,
    sample: Samples,
    calibration: Calibration,
    arranged: Detector | None = None,
) -> ReferenceProof:
    """Execute a saved package against the detector in torch. Raises ParityError or PackageError.

    `full` is the same detector in a float32 package, and `path` itself for one: it is held to torch's last digits. A
    float16 package must be that program rounded, and may drift. There a verdict counts as a flip where torch's score is
    further from the threshold than the drift allowed: nearer, rounding decides, as noise of the camera would.
    `arranged`: the detector as it was converted, whose tensors the package's constants must be; `detector` by default.
    """
    reference = Executor.load(full)
    equal, derived = compare_constants(reference.program, arranged or detector)
    if path == full:
        found = compare(detector, reference, sample, calibration, TOLERANCE)
        parity = accept(found, found.flips, sample, format="coreml", precision="fp32", tolerance=TOLERANCE)
        return ReferenceProof(parity, REFERENCE, found.undecided, found.undecided_flips, equal, derived, 0.0, "")
    few = Samples(sample.good[:FULL_IMAGES], sample.defective[:FULL_IMAGES])
    found = compare(detector, reference, few, calibration, TOLERANCE)
    accept(found, found.flips, few, format="coreml", precision="fp32", tolerance=TOLERANCE)
    executor = Executor.load(path)
    if where := difference(executor.program, reference.program):
        raise ParityError(f"the coreml artefact is not the float32 program rounded: {where}; nothing was kept")
    found = compare(detector, executor, sample, calibration, DRIFT)
    peak = executor.peak
    if peak.value > FLOAT16_LIMIT:
        raise ParityError(f"the coreml artefact: float16 overflows at {peak.name}; export with --precision fp32")
    flips = found.flips - found.undecided_flips
    try:
        parity = accept(found, flips, sample, format="coreml", precision="fp16", tolerance=DRIFT)
    except ParityError as e:
        raise ParityError(f"{e}; float16 rounds too coarsely for this run: export with --precision fp32") from e
    return ReferenceProof(
        parity, REFERENCE, found.undecided, found.undecided_flips, equal, derived, peak.value, peak.name
    )


def compare_constants(program: Program, detector: Detector) -> tuple[int, tuple[str, ...]]:
    """Tensors of the detector that a float32 program holds under their own name, bit for bit; and the names of the rest.

    Raises ParityError where one of the same name differs.
    """
    tensors = dict(detector.named_parameters()) | dict(detector.named_buffers())
    equal, derived = 0, []
    for name, tensor in tensors.items():
        expected = tensor.detach().cpu().numpy()
        held = [v for v in map(program.constants.get, _constant_names(name)) if isinstance(v, np.ndarray)]
        for value in held:
            if value.size != expected.size or value.tobytes() != expected.tobytes():
                raise ParityError(f"the coreml artefact: the constant {name} is not the checkpoint's; nothing was kept")
        if held:
            equal += 1
        elif expected.dtype == np.float32:
            derived.append(name)
    return equal, tuple(derived)


def _constant_names(name: str) -> list[str]:
    """How torch.export and coremltools call a parameter (p_) or buffer (b_)."""
    flat = name.replace(".", "_")
    return [f"{kind}_{flat}" for kind in "pb"]
