"""The one place where a verdict is decided: from a score and what else is known of the frame."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help needs the names below, and not what reads a card
    from vtad_runtime.contract.card import Calibration

CHECKS = ("frozen", "black", "saturated", "focus")  # of frames: what makes one UNSURE


class Verdict(StrEnum):
    """What is said about one picture. There is no silent OK: what cannot be judged is ERROR."""

    OK = "OK"
    NG = "NG"  # not good: the score is above the threshold
    UNSURE = "UNSURE"  # odd, and not above the threshold (--review), or a picture that a frame check distrusts
    STALE = "STALE"  # a frame too old to speak for the part in front of the camera
    ERROR = "ERROR"  # not judged: unreadable file, a source that is gone, or a score that is not a number


def conclude(
    score: float,
    threshold: float,
    *,
    error: str | None = None,
    late: str | None = None,
    doubt: str | None = None,
    unsure_from: float | None = None,
) -> tuple[Verdict, str | None]:
    """The verdict on a frame and its reason; the first that holds of ERROR, STALE, UNSURE by `doubt`, NG, UNSURE, OK.

    NG if and only if score > threshold; ERROR if either is not finite, or by `error`. `late` says why the frame is too old,
    `doubt` why it is not to be trusted. Nothing becomes OK that the score did not call OK. A frame that is both NG and
    distrusted is UNSURE, since the detector did not see the part; its reason says that the score is NG, and an alarm counts it.
    """
    if error is not None or not (math.isfinite(score) and math.isfinite(threshold)):
        return Verdict.ERROR, error or f"expected a finite score, got {score}"
    bad = score > threshold
    also = "; its score is NG" if bad else ""
    if late is not None:
        return Verdict.STALE, late + also
    if doubt is not None:
        return Verdict.UNSURE, doubt + also
    if bad:
        return Verdict.NG, None
    if unsure_from is not None and score > unsure_from:
        return Verdict.UNSURE, f"score {score:.4g} is above {unsure_from:.4g}: odd for a good part"
    return Verdict.OK, None


def decide(
    calibration: Calibration, score: float, unsure_from: float | None = None, *, doubt: str | None = None
) -> Verdict:
    """What the score alone says by the threshold on the card; `doubt` says why the picture is not to be trusted."""
    return conclude(score, calibration.threshold, doubt=doubt, unsure_from=unsure_from)[0]
