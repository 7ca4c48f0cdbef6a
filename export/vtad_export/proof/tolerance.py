"""How far an artefact may be from torch, by precision: errors of every output, and verdicts that differ.

In float32 an artefact is the same program: every output is held to what float32 can promise. Rounded weights or activations move
all outputs, and each may move as far as what it decides allows: the score decides the verdict, the heatmap the regions, from the
pixel threshold on; the SSIM map and the density map decide what their weights in the heatmap make of them. A map without weight
decides nothing: its error is measured and printed, and there is no limit to it. Units of the errors: `references.largest_error`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtad_runtime.contract.card import Calibration
from vtad_runtime.contract.references import REDUCED
from vtad_runtime.contract.threshold.conformal import LEAST_MARGIN
from vtad_runtime.engine.model import OUTPUTS

if TYPE_CHECKING:  # the device check takes no torch
    from vtad.models.detector import Detector

COMPRESSED = ("int8", "palettized6", "palettized4")  # precisions that store weights as fewer bits
FLIP_SHARE = 0.01  # of the images, rounded up: verdicts that compressed weights may change, each named

TOLERANCE = {
    **dict.fromkeys(OUTPUTS, LEAST_MARGIN / 2),  # score: of the calibration spread; maps: z-scores
    "reconstruction": 1e-5,  # intensity
}


@dataclass(frozen=True)
class Drift:
    """How far rounding may move what is decided by."""

    score: float  # of the calibration spread
    heatmap: float  # of the pixel threshold
    reconstruction: float  # intensity, in a picture that is only looked at


# Float16: the backbone's rounding is magnified by the whitening, where features vary little, and reaches the score through the
# density, the reconstruction through the transformer. Measured on the demo's model, Core ML: score 0.02 on good pictures, which
# MARGIN holds below the threshold, and 0.095 on odd ones near the threshold; heatmap 0.15 z-scores of a pixel threshold of 5.2,
# reconstruction 0.003. Trainings differ, and what flips no verdict of a real picture is to pass: half as much again.
# Int8: the same model, ONNX: score 0.003, heatmap 0.014 z-scores, reconstruction 0.014; Core ML drifts as float16 does. It may
# flip a verdict in a hundred.
DRIFT = {
    "fp16": Drift(score=REDUCED, heatmap=0.1, reconstruction=2e-2),
    **dict.fromkeys(COMPRESSED, Drift(score=0.2, heatmap=0.2, reconstruction=5e-2)),
}


class Limits(dict[str, float]):
    """The largest error allowed, by output, where there is a limit; and how many verdicts may differ."""

    def __init__(self, errors: Mapping[str, float], flips: int = 0) -> None:
        super().__init__(errors)
        self.flips = flips


def limits(
    precision: str,
    detector: Detector,
    calibration: Calibration,
    images: int,
    chosen: Mapping[str, float] | None = None,
    max_flips: int | None = None,
) -> Limits:
    """Those of a precision, for a proof of this detector on so many images; `chosen` and `max_flips` come from the user."""
    errors = TOLERANCE if precision == "fp32" else drift_limits(DRIFT[precision], detector, calibration)
    return Limits({**errors, **(chosen or {})}, allowed_flips(precision, max_flips, images))


def drift_limits(drift: Drift, detector: Detector, calibration: Calibration) -> dict[str, float]:
    """By output; a map may move the heatmap as far as the heatmap may move, and is absent when it has no weight there."""
    heatmap = drift.heatmap * calibration.pixel_threshold  # z-scores
    weights = {"ssim_map": float(detector.ssim_weight), "density_map": float(detector.density_weight)}
    return {
        "score": drift.score,
        "heatmap": heatmap,
        **{name: heatmap / weight for name, weight in weights.items() if weight > 0},
        "reconstruction": drift.reconstruction,
    }


def allowed_flips(precision: str, chosen: int | None, images: int) -> int:
    """Verdicts that may differ: what the user chose, or none, or one in a hundred where weights are compressed."""
    if chosen is not None:
        return chosen
    return math.ceil(FLIP_SHARE * images) if precision in COMPRESSED else 0
