"""From a score to a verdict by the calibration on the card; for live sources, what else is known of the frame."""

from __future__ import annotations

import math
from enum import StrEnum

from vtad_runtime.contract.card import Calibration


class Verdict(StrEnum):
    """What is said about one picture. There is no silent OK: what cannot be judged is ERROR."""

    OK = "OK"
    NG = "NG"  # not good: the score is above the threshold
    UNSURE = "UNSURE"  # between two thresholds (--unsure-from), or a picture that a frame check distrusts
    STALE = "STALE"  # a frame too old to speak for the part in front of the camera
    ERROR = "ERROR"  # not judged: unreadable file, a source that is gone, or a score that is not a number


def decide(calibration: Calibration, score: float) -> Verdict:
    """NG if and only if score > threshold; ERROR if either is not finite."""
    if not (math.isfinite(score) and math.isfinite(calibration.threshold)):
        return Verdict.ERROR
    return Verdict.NG if score > calibration.threshold else Verdict.OK


def settle(
    scored: Verdict,
    score: float,
    *,
    late: str | None = None,
    doubt: str | None = None,
    unsure_from: float | None = None,
) -> tuple[Verdict, str | None]:
    """The verdict on a frame and its reason; the first that holds of ERROR, STALE, UNSURE by `doubt`, NG, UNSURE, OK.

    `scored` is what the score alone says, `late` why the frame is too old, `doubt` why a frame check distrusts it.
    Nothing becomes OK here that the score did not call OK. A frame that is both NG and distrusted is UNSURE, since the
    detector did not see the part; its reason says that the score is NG, and an alarm counts it as NG.
    """
    if scored is Verdict.ERROR:
        return Verdict.ERROR, None
    also = "; its score is NG" if scored is Verdict.NG else ""
    if late is not None:
        return Verdict.STALE, late + also
    if doubt is not None:
        return Verdict.UNSURE, doubt + also
    if scored is Verdict.OK and unsure_from is not None and score > unsure_from:
        return Verdict.UNSURE, f"score {score:.4g} is above {unsure_from:.4g} (--unsure-from)"
    return scored, None
