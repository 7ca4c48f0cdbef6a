"""What a threshold rule makes of few good pictures: false alarms on those it has not seen, and missed synthetic defects.

Of each run's calibration.json some good scores are drawn, many times; each rule makes a threshold of them, which is judged on the
scores that were not drawn. No test picture is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import click
import numpy as np
from numpy.typing import NDArray

from vtad.calibration.record import CalibrationRecord
from vtad.run_folder import Run
from vtad_runtime.contract.command_line.command import no_traceback
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.threshold.conformal import budget_threshold
from vtad_runtime.contract.threshold.tail import fit_tail

Rule = Callable[[NDArray[np.float64], float], float]

LEFT = 60  # scores at least that a threshold is judged on


def whole_tail(scores: NDArray[np.float64], budget: float) -> float:
    """The estimated rule as it would be if the oddest scores counted by how far they lie beyond the others."""
    tail = fit_tail(scores)
    return dataclasses.replace(tail, scale=float(np.mean(scores[scores > tail.start] - tail.start))).level(budget)


RULES: dict[str, Rule] = {
    "guaranteed": lambda scores, budget: budget_threshold(scores.tolist(), budget, "guaranteed"),
    "estimated": lambda scores, budget: budget_threshold(scores.tolist(), budget, "estimated"),
    "estimated, nothing censored": whole_tail,
}


def judged(record: CalibrationRecord, count: int, rule: Rule, budget: float, draws: int) -> tuple[float, float] | None:
    """Shares: false alarms and missed synthetic defects, as means over draws of so many good scores; None of too few."""
    good, synthetic = np.array([g.score for g in record.good]), np.array(record.synthetic)
    if len(good) < count + LEFT:
        return None
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        order = rng.permutation(len(good))
        threshold = rule(good[order[:count]], budget)
        found.append((np.mean(good[order[count:]] > threshold), np.mean(synthetic <= threshold)))
    alarms, missed = np.mean(found, axis=0)
    return float(alarms), float(missed)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", type=click.Path(exists=True, path_type=Path))
@click.option("--counts", default="20,31,60,100,200", show_default=True, help="Of good pictures.")
@click.option("--budget", default=0.01, show_default=True, help="Of false alarms.")
@click.option("--draws", type=click.IntRange(1), default=300, show_default=True, help="Of each count.")
def threshold_rules(runs: Path, counts: str, budget: float, draws: int) -> None:
    """Print a table: false alarms and missed synthetic defects of each rule, in %, as means over the runs below RUNS."""
    with no_traceback():
        found = [CalibrationRecord.read(Run(file.parent)) for file in sorted(runs.rglob("calibration.json"))]
        records = [record for record in found if record is not None]
        if not records:
            raise VtadError(f"{runs}: expected run folders with a calibration.json, got none")
        click.echo("| good pictures | runs | " + " | ".join(RULES) + " |")
        click.echo("|---" * (len(RULES) + 2) + "|")
        for count in map(int, counts.split(",")):
            cells = []
            for rule in RULES.values():
                of_runs = [one for record in records if (one := judged(record, count, rule, budget, draws))]
                cells.append(" / ".join(f"{100 * mean(part):.2f}" for part in zip(*of_runs, strict=True)) or "-")
            click.echo(f"| {count} | {len(of_runs)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    threshold_rules()
