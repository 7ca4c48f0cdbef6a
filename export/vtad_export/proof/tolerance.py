"""How far an artefact may be from torch, by precision: errors of every output, and verdicts that differ.

Maps are z-scores, and so are their errors; the score's error is a share of the calibration spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vtad.models.detector import Judgement
from vtad_runtime.contract.conformal import MARGIN

FLIP_SHARE = 0.01  # of the images, rounded up: verdicts that int8 may change, each named

TOLERANCE = {
    **dict.fromkeys(Judgement._fields, 5e-4),  # maps: z-scores
    "reconstruction": 1e-5,  # intensity
    "score": 1e-4,  # of the calibration spread
}
# What float16 may drift. The backbone's rounding is magnified by the whitening, where features vary little, and reaches the
# score through the density, the reconstruction through the transformer. Measured, default preset: MVTec AD bottle, two
# trainings: reconstruction 0.0016, ssim_map 0.035, density_map and heatmap 0.10, score 0.026 of the spread; the demo's
# tablets: reconstruction 0.009, ssim_map 0.15. The maps share one budget; verdicts are held by the score's.
FLOAT16_DRIFT = {
    "reconstruction": 2e-2,  # intensity: five of 255 levels, in a picture that is only looked at
    "ssim_map": 0.5,  # z-scores
    "density_map": 0.5,
    "heatmap": 0.5,
    "score": MARGIN,  # of the calibration spread: the threshold lies that far above the calibration scores
}
# What int8 may drift. Measured, default preset, the demo's tablets: ONNX reconstruction 0.012, ssim_map 0.23, other maps 0.03,
# score 0.005 of the spread; Core ML, whose float16 drifts as much, 0.008, 0.14, 0.11, 0.007.
INT8_DRIFT = {
    **dict.fromkeys(TOLERANCE, 1.0),  # maps: z-scores
    "reconstruction": 5e-2,  # intensity
    "score": 0.2,  # of the calibration spread
}
BUDGET: dict[str, dict[str, float]] = {"fp32": TOLERANCE, "fp16": FLOAT16_DRIFT, "int8": INT8_DRIFT}  # by precision


class Limits(dict[str, float]):
    """The largest error allowed, by output; and how many verdicts may differ."""

    def __init__(self, errors: Mapping[str, float], flips: int = 0) -> None:
        super().__init__(errors)
        self.flips = flips


def limits(precision: str, chosen: Mapping[str, float] | None, max_flips: int | None, images: int) -> Limits:
    """The budget of a precision, for a proof on that many images; `chosen` and `max_flips` come from the user."""
    return Limits({**BUDGET[precision], **(chosen or {})}, allowed_flips(precision, max_flips, images))


def allowed_flips(precision: str, chosen: int | None, images: int) -> int:
    """Verdicts that may differ: what the user chose, or none, or one in a hundred for int8."""
    if chosen is not None:
        return chosen
    return math.ceil(FLIP_SHARE * images) if precision == "int8" else 0
