"""`vtad-calibrate`: an exported model, good pictures of the line and a budget in; a new file with a new threshold out."""

from __future__ import annotations

from pathlib import Path

import click

from vtad_runtime.contract.command import no_traceback

EXIT_CODES = """\b
Exit codes:
  0    the new file is written
  2    usage: bad arguments, no model or a wrong one, too few good pictures, the file exists
  4    the new file could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C; nothing is written
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.option("--model", type=click.Path(path_type=Path), help="Exported .onnx.  [default: the newest below ./runs]")
@click.option(
    "--good",
    required=True,
    type=click.Path(path_type=Path),
    help="Good pictures of the line: a folder and all below it.",
)
@click.option(
    "--false-alarms",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Budget: the share of good parts that may be called NG.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write.  [default: MODEL-calibrated.onnx beside it]"
)
@click.option(
    "--allow-changed", is_flag=True, help="Take a model that was changed since its export; it stays so marked."
)
@click.version_option(package_name="vtad", prog_name="vtad-calibrate")
def calibrate(model: Path | None, good: Path, false_alarms: float, out: Path | None, allow_changed: bool) -> None:
    """Set an exported model's threshold by the line's own good pictures.

    Judges the pictures, and writes a new file beside the model: the same weights, byte for byte, with a new threshold on
    its card, and who set it from which file. Pictures that look odd among the good are named. No file is ever written over.
    """
    with no_traceback():
        from vtad_runtime.review.calibrate_run import calibrate_run

        calibrate_run(model, good, false_alarms, out, allow_changed=allow_changed)
