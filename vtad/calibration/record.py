"""What calibration saw, kept in the run folder as calibration.json: the score of each good picture, and of synthetic defects."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from vtad.run_folder import Run, RunError, write_text
from vtad_runtime.contract.card import BudgetRule, Calibration, Weighing
from vtad_runtime.contract.errors import one_line
from vtad_runtime.contract.threshold.conformal import CalibrationError, budget_threshold, fence
from vtad_runtime.contract.threshold.trade_off import table, trade_off
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed

NAMED = 3  # of the oddest good pictures, at least; those beyond the fence, up to
MOST_NAMED = 10


@dataclass(frozen=True)
class GoodScore:
    """A good picture, judged by scorers fitted without it; the segmentation head has learnt from it unless it is held out."""

    file: str  # below the category's folder
    score: float
    peak: float  # maximum of the heatmap at the model's resolution, a z-score
    held_out: bool  # from the whole training; else from the fitting of the scorers, see vtad.calibration.cross_fitting


@dataclass(frozen=True)
class CalibrationRecord:
    """What the threshold was found from, and what it does to synthetic defects, which no choice of it looked at."""

    good: tuple[GoodScore, ...]  # oddest first
    synthetic: tuple[float, ...]  # scores of good pictures with a synthetic defect
    weights: Weighing | None = None  # None: not kept, by an earlier version

    def write(self, run: Run) -> None:
        """Into the run's folder. Raises WriteError."""
        write_text(_file(run), json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @staticmethod
    def read(run: Run) -> CalibrationRecord | None:
        """Of a run; None of one that was made before there was such a file. Raises RunError."""
        try:
            return typed(CalibrationRecord, parsed(_file(run).read_bytes()), "calibration")
        except FileNotFoundError:
            return None
        except (OSError, WrongJson) as e:
            raise RunError(
                f"{_file(run)}: expected the scores of a calibration, got a file that is damaged ({one_line(e)})"
            ) from e

    def lines(self, calibration: Calibration) -> list[str]:
        """For people: who spoke for the threshold, the oddest good pictures, what the first of them does, and the trade-off."""
        held_out = sum(g.held_out for g in self.good)
        limit = fence([g.score for g in self.good])
        odd = sum(g.score > limit for g in self.good)
        named = self.good[: min(max(NAMED, odd), MOST_NAMED)]
        others = len(self.good) - held_out
        lines = [
            f"of these {held_out} were held out, and {others} judged by scorers fitted without them"
            if others
            else "all of these were held out; the pictures of the training do not speak for the threshold here"
        ]
        lines += filter(None, [calibration.both_rules])
        if self.weights is not None and self.weights.scorers:
            lines.append(f"what each scorer counts: {', '.join(self.weights.counts)}")
            lines += filter(None, [self.weights.qualities])
        lines += ["the oddest good pictures: " + ", ".join(f"{g.file} {g.score:.3g}" for g in named) + "; look at them"]
        try:
            rule: BudgetRule = "estimated" if calibration.rule == "estimated" else "guaranteed"
            without = budget_threshold([g.score for g in self.good[1:]], calibration.false_alarms, rule)
        except CalibrationError:
            without = calibration.threshold
        if odd and without < calibration.threshold:
            lines.append(f"without the first the threshold would be {without:.3f}")
        if self.synthetic:
            lines.append("trade-off on synthetic defects, which are drawn on good pictures; real ones differ:")
            shown = trade_off([g.score for g in self.good], self.synthetic, also=calibration.threshold)
            lines += table(shown, calibration.threshold)
        return lines


def _file(run: Run) -> Path:
    return run.path / "calibration.json"
