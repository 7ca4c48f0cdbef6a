"""`vtad-calibrate`: an exported model, good pictures of the line and a budget in; a new file with a new threshold out."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtad_runtime.contract.command import no_traceback, printable
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError

if TYPE_CHECKING:
    from vtad_runtime.review.recalibration import GoodPictures, Judged
    from vtad_runtime.verdict.detector import Detector

STOPPED = 130
SHOWN = 10  # files named of each kind

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
@click.version_option(package_name="vtad", prog_name="vtad-calibrate")
def calibrate(model: Path | None, good: Path, false_alarms: float, out: Path | None) -> None:
    """Set an exported model's threshold by the line's own good pictures.

    Judges the pictures, and writes a new file beside the model: the same weights, byte for byte, with a new threshold on
    its card. Pictures that look odd among the good are named. No file is ever written over.
    """
    with no_traceback():
        try:
            _calibrate(model, good, false_alarms, out)
        except KeyboardInterrupt as e:
            raise VtadError("stopped; nothing is written", STOPPED) from e


def _calibrate(model: Path | None, good: Path, false_alarms: float, out: Path | None) -> None:
    from vtad_runtime.contract.conformal import CalibrationError
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.engine.onnx_card import OnnxFileError
    from vtad_runtime.engine.opening import newest_model
    from vtad_runtime.review.recalibration import (
        OutputExists,
        budget_lines,
        judge_good,
        new_card,
        refuse_existing,
        write_recalibrated,
    )
    from vtad_runtime.sources.folder import SourceError

    path = model or newest_model()
    target = out or path.with_name(f"{path.stem}-calibrated.onnx")
    try:
        detector = _open(path, "" if model else ", the newest export")
        if target.suffix.lower() != ".onnx":
            raise VtadError(f"{target}: expected a file name that ends with .onnx; name one by --out", USAGE)
        refuse_existing(target)
        found = judge_good(detector, good, _draw)
        _tell_left_out(found)
        card = new_card(detector.card, found.judged, false_alarms)
        write_recalibrated(detector, card, target)
    except (CalibrationError, ModelError, OnnxFileError, OutputExists, SourceError) as e:
        raise VtadError(e, USAGE) from e
    except OSError as e:
        full = ", the disk is full" if e.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise VtadError(
            f"{target}: could not be written: {e.strerror or e}{full}; name another by --out", NOT_WRITTEN
        ) from e

    before, after = detector.card.calibration, card.calibration
    click.echo(
        f"threshold {before.threshold:.4g} -> {after.threshold:.4g}, pixel threshold {before.pixel_threshold:.4g} -> "
        f"{after.pixel_threshold:.4g}"
    )
    for line in budget_lines(after):
        click.echo(line)
    _tell_odd(found.judged, false_alarms, after.threshold)
    if detector.card.results is not None:
        click.echo("results on the card dropped: they were measured at the old threshold")
    newest = " (vtad-run without --model takes it from now on)" if model is None and out is None else ""
    click.echo(f"written: {printable(str(target))}{newest}")


def _open(path: Path, which: str) -> Detector:
    """The model to calibrate. Raises VtadError, ModelError."""
    from vtad_runtime.engine.coreml_engine import onnx_fallback
    from vtad_runtime.verdict.detector import Detector

    if path.suffix.lower() == ".mlpackage":
        fallback = onnx_fallback(path)
        raise VtadError(
            f"{path}: expected an .onnx model, got a Core ML package: calibrate its ONNX fallback "
            f"(--model {fallback if fallback.exists() else 'the .onnx that vtad-export wrote with it'})",
            USAGE,
        )
    detector = Detector(path)
    c = detector.card.calibration
    click.echo(
        f"model: {printable(str(path))}{which}; {detector.card.identity.category}, "
        f"threshold {c.threshold:.4g} from {c.images} good pictures"
    )
    return detector


def _draw(done: int, total: int) -> None:
    """Progress on a terminal, one line drawn over."""
    if sys.stderr.isatty():
        click.echo(f"\rjudging {done}/{total}", nl=done == total, err=True)


def _tell_left_out(found: GoodPictures) -> None:
    _list("left out, cannot be read", found.unreadable)
    _list("left out, a copy of another picture", [str(p) for p in found.copies])


def _tell_odd(judged: tuple[Judged, ...], false_alarms: float, threshold: float) -> None:
    from vtad_runtime.review.recalibration import odd_pictures, threshold_without

    odd = odd_pictures(judged)
    _list("odd among the good, is it a bad part?", [f"{j.file} score {j.score:.4g}" for j in odd])
    without = threshold_without(judged, odd, false_alarms) if odd else None
    if without is not None and without < threshold:
        click.echo(
            f"without the odd ones the threshold would be {without:.4g}; take bad parts out and calibrate again",
            err=True,
        )


def _list(what: str, names: tuple[str, ...] | list[str]) -> None:
    for name in names[:SHOWN]:
        click.echo(printable(f"{what}: {name}"), err=True)
    if len(names) > SHOWN:
        click.echo(f"{what}: and {len(names) - SHOWN} more", err=True)
