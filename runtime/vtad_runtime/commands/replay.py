"""`vtad-replay`: judges recorded pictures again, by a new model or threshold, and reports what would flip."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from vtad_runtime.contract.command_line.command import no_traceback
from vtad_runtime.outputs.csv_lines import DIALECTS

EXIT_CODES = """\b
Exit codes:
  0    no verdict flips between OK and NG
  1    some verdict flips
  2    usage: bad arguments, no results or wrong ones, no model or a wrong one,
       a folder that cannot be written to
  3    some pictures could not be judged again: they are gone, changed or
       damaged, or none was kept at all (wins over 1)
  4    the report could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; the report says how far it came
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Judge the pictures again by this exported .onnx.")
@click.option("--threshold", type=float, help="NG above this score; without --model, of the recorded scores.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("replays"),
    show_default=True,
    help="Where the report goes; each replay makes the next folder 0001, 0002, ... in it.",
)
@click.option(
    "--max-pictures",
    type=click.IntRange(0, 2000),
    default=50,
    show_default=True,
    help="Flips shown with pictures, about 80 kB each; all of them are in flips.csv.",
)
@click.option(
    "--allow-changed", is_flag=True, help="Take a model that was changed since its export; the report says so."
)
@click.option(
    "--csv-dialect",
    type=click.Choice(DIALECTS),
    default="excel",
    show_default=True,
    help="Of flips.csv; excel-eu: semicolons and decimal commas, as a German or French Excel reads.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="CPU threads of the model, at most one a core.  [default: onnxruntime decides]",
)
@click.version_option(package_name="vtad", prog_name="vtad-replay")
def replay(runs: Path, model: Path | None, threshold: float | None, **options: Any) -> None:
    """Judge the pictures of RUNS again and report the verdicts that flip.

    RUNS is a results.jsonl of vtad-run, or the folder that holds it. Pictures are the rows' saved originals, else
    their files, named as vtad-run found them: run this in the same folder. Writes report.html with the flips side by
    side, flips.csv and replay.json.
    """
    if model is None and threshold is None:
        raise click.UsageError("expected --model NEW.onnx, --threshold X or both, got neither")
    if threshold is not None and not math.isfinite(threshold):
        raise click.UsageError(f"--threshold: expected a finite number, got {threshold}")
    with no_traceback():
        from vtad_runtime.review.replay_run import replay_run

        code = replay_run(runs, model, threshold, **options)
    sys.exit(code)
