"""Whether this machine judges the reference pictures in a model as torch did at the export."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vtad_runtime.contract.references import LARGEST, REDUCED, largest_error
from vtad_runtime.engine.model import MAX_BATCH, OpenModel
from vtad_runtime.verdict.verdict import decide


@dataclass(frozen=True)
class ReferenceCheck:
    """What judging the pictures showed."""

    pictures: int
    largest: float  # error of a score against torch's, in spreads of the calibration scores
    flips: int  # verdicts that differ from those of torch's scores
    wrong: str | None  # the first picture whose score is farther off than the export's proof allowed

    @property
    def ok(self) -> bool:
        """Whether no verdict differs, and no score is farther off than the export's proof allowed."""
        return self.wrong is None and not self.flips

    def __str__(self) -> str:
        differ = {0: "no verdict differs", 1: "1 verdict differs"}.get(self.flips, f"{self.flips} verdicts differ")
        if self.wrong is not None:
            return f"of {self.pictures} reference pictures {self.wrong}; {differ}"
        return (
            f"{self.pictures} reference pictures judged as by torch at the export: {differ}, scores differ by at most "
            f"{self.largest:.1e} of the spread of good scores"
        )


def check_references(model: OpenModel, *, reduced: bool = False) -> ReferenceCheck | None:
    """Judge the model's reference pictures; None where it has none. Raises ReferencesError, ModelError.

    `reduced`: the engine rounds to 16 bits, so a score may be as far off as that of a float16 export.
    """
    stored = model.references()
    if stored is None:
        return None
    calibration, parity = model.card.calibration, model.card.parity
    allowed = LARGEST if parity is None else parity.tolerance.get("score", LARGEST)
    allowed = max(allowed, REDUCED) if reduced else allowed
    parts = [stored.pixels[i : i + MAX_BATCH] for i in range(0, len(stored.pixels), MAX_BATCH)]
    got = np.concatenate([model.verdict(part).score for part in parts])
    errors, flips, wrong = [], 0, None
    for name, torchs, ours in zip(stored.names, stored.expected["score"], got, strict=True):
        error = largest_error("score", torchs, ours, calibration)
        right, verdict = decide(calibration, float(torchs)), decide(calibration, float(ours))
        flips += verdict is not right
        errors.append(error)
        if wrong is None and not error <= allowed:
            wrong = (
                f"{name}: expected torch's score {torchs:.6g} ({right}), got {ours:.6g} ({verdict}): "
                f"{error:.1e} of the spread of good scores apart, at most {allowed:.1e}"
            )
    return ReferenceCheck(len(got), max(errors), flips, wrong)
