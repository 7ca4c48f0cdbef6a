"""The command vtad-eval: a run against the test images of its category."""

from __future__ import annotations

from pathlib import Path

import click

from vtad.commands.library_errors import library_errors_as_lines
from vtad.commands.options import CONTEXT, DEVICES, choose_run, run_options
from vtad.commands.tracking_options import add_to_tracked
from vtad.report.library import missing
from vtad_runtime.contract.command_line.command import no_traceback, say

_CODES = """\b
Exit codes:
  0    evaluated
  2    usage: no such run, no test images, an unreadable image or mask,
       too little memory
  4    metrics.json or report.html could not be written
  70   internal error
"""


@click.command(context_settings=CONTEXT, epilog=_CODES)
@run_options
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="[default: where the run was trained from]")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.version_option(package_name="vtad", prog_name="vtad-eval")
def evaluate(run_path: Path | None, runs: Path, category: str | None, data_dir: Path | None, device: str) -> None:
    """Judge the test images of a run's category: metrics.json and report.html in the run folder, and a table."""
    with no_traceback(), library_errors_as_lines():
        run = choose_run(run_path, runs, category)
        from vtad.evaluation.table import table
        from vtad.report.evaluated import evaluate_with_report

        found = evaluate_with_report(run, data=data_dir, device=device)
        say(f"images: {found.data}" + (f"; note: {found.note}" if found.note else ""))
        say(table(found))
        say(f"\n  {run.path / 'metrics.json'}\n  {missing() or run.path / 'report.html'}")
        add_to_tracked(run)
