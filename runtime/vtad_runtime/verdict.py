"""From a score to a verdict, by the calibration on the card."""

from __future__ import annotations

import math
from enum import StrEnum

from vtad_runtime.card import Calibration


class Verdict(StrEnum):
    """What is said about one picture. There is no silent OK: what cannot be judged is ERROR."""

    OK = "OK"
    NG = "NG"  # not good: the score is above the threshold
    UNSURE = "UNSURE"  # between two thresholds; no calibration of this version has a second one
    STALE = "STALE"  # a camera frame too old to speak for the part in front of it
    ERROR = "ERROR"  # not judged: unreadable file, or a score that is not a number


def decide(calibration: Calibration, score: float) -> Verdict:
    """NG if and only if score > threshold; ERROR if either is not finite."""
    if not (math.isfinite(score) and math.isfinite(calibration.threshold)):
        return Verdict.ERROR
    return Verdict.NG if score > calibration.threshold else Verdict.OK
