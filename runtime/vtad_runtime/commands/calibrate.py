"""`vtad-calibrate`: an exported model, good pictures of the line and a budget in; a new file with a new threshold out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import click

from vtad_runtime.contract.command_line.command import no_traceback
from vtad_runtime.contract.errors import VtadError

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
EXIT_CODES = """\b
Exit codes:
  0    the new file is written
  2    usage: bad arguments, no model or a wrong one, too few pictures for what was asked, the file exists
  4    the new file could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C; nothing is written
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.option("--model", type=click.Path(path_type=Path), help="Exported .onnx.  [default: the newest below ./runs]")
@click.option(
    "--good",
    type=click.Path(path_type=Path),
    help="Good pictures of the line: a folder and all below it.",
)
@click.option(
    "--bad", type=click.Path(path_type=Path), help="Pictures of known bad parts: shows what thresholds would cost."
)
@click.option(
    "--false-alarms", type=SHARE, help="Budget: the share of good parts that may be called NG.  [default: 0.01]"
)
@click.option(
    "--threshold-rule",
    type=click.Choice(["guaranteed", "estimated"]),
    help="How the threshold follows from the budget: by the oddest scores, or by how they tail off.  [default: estimated]",
)
@click.option("--max-misses", type=SHARE, help="In its place: the share of bad parts that may be missed (--bad).")
@click.option("--threshold", type=float, metavar="SCORE", help="In its place: this threshold, chosen by hand.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write.  [default: MODEL-calibrated.onnx beside it, then -calibrated-2]",
)
@click.option(
    "--allow-changed", is_flag=True, help="Take a model that was changed since its export; it stays so marked."
)
@click.version_option(package_name="vtad", prog_name="vtad-calibrate")
def calibrate(
    model: Path | None,
    good: Path | None,
    bad: Path | None,
    false_alarms: float | None,
    threshold_rule: Literal["guaranteed", "estimated"] | None,
    max_misses: float | None,
    threshold: float | None,
    out: Path | None,
    allow_changed: bool,
) -> None:
    """Set an exported model's threshold by the line's own good pictures, by known bad parts, or by hand.

    Judges the pictures, and writes a new file beside the model: the same weights, byte for byte, with a new threshold on
    its card, and who set it from which file. Pictures that look odd among the good are named. No file is ever written over.
    """
    with no_traceback():
        rules = {"--false-alarms": false_alarms, "--max-misses": max_misses, "--threshold": threshold}
        given = [name for name, value in rules.items() if value is not None]
        if unusable := [name for name in given if not math.isfinite(rules[name] or 0)]:
            raise VtadError(f"{unusable[0]}: expected a finite number, got {rules[unusable[0]]}")
        if len(given) > 1:
            raise VtadError(f"{given[1]}: expected one rule for the threshold, got {' and '.join(given)}")
        if good is None and threshold is None:
            raise VtadError("--good: expected a folder of good pictures, or --threshold alone, got neither")
        if threshold_rule is not None and given and given[0] != "--false-alarms":
            raise VtadError(f"--threshold-rule: expected with a budget of false alarms, got it with {given[0]}")
        if max_misses is not None and bad is None:
            raise VtadError("--max-misses: expected together with --bad, got it alone")
        from vtad_runtime.contract.card import USUAL_RULE
        from vtad_runtime.review.calibrate_run import calibrate_run
        from vtad_runtime.review.recalibration import FALSE_ALARMS, Asked

        budget = FALSE_ALARMS if false_alarms is None else false_alarms
        asked = Asked(threshold, max_misses, budget, threshold_rule or USUAL_RULE)
        calibrate_run(model, good, asked, out, bad=bad, allow_changed=allow_changed)
