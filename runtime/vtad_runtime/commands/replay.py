"""`vtad-replay`: judges recorded pictures again, by a new model or threshold, and reports what would flip."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtad_runtime.contract.command import no_traceback, printable
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError

if TYPE_CHECKING:
    from vtad_runtime.review.recorded import Run
    from vtad_runtime.review.replay import Again, Comparison, Judge
    from vtad_runtime.review.replay_page import Picture, ShownFlip

NO_FLIPS, FLIPS, NOT_JUDGED = 0, 1, 3
SHOWN_MISSING = 10
COLUMNS = (
    "flip",
    "name",
    "captured_at",
    "recorded_score",
    "recorded_threshold",
    "new_score",
    "new_threshold",
    "picture",
    "heatmap",
)

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
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the model.  [default: onnxruntime decides]")
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
        code = _replay(runs, model, threshold, **options)
    sys.exit(code)


def _replay(
    runs: Path, model: Path | None, threshold: float | None, *, out: Path, max_pictures: int, threads: int | None
) -> int:
    from vtad_runtime.contract.stopping import stoppable
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.review.recorded import RecordedError, read_run
    from vtad_runtime.review.replay import compare

    try:
        run = read_run(runs)
    except RecordedError as e:
        raise VtadError(e, USAGE) from e
    if run.torn:
        click.echo(f"{printable(str(run.file))}: its last line is torn and left out", err=True)
    judge = _judge(model, threads, run, threshold) if model else None
    folder = _new_folder(out)
    try:
        with stoppable() as stop:
            rows = list(_progress(_judged(run, judge, threshold, stop), len(run.rows)))
            comparison = compare(rows)
            shown = [] if stop() else _shown(comparison, judge, max_pictures)
    except ModelError as e:
        folder.rmdir()
        raise VtadError(e, NOT_JUDGED) from e
    facts = _facts(run, judge, threshold, stopped_after=len(rows) if stop() else None)
    try:
        _write(folder, facts, comparison, shown)
    except OSError as e:
        raise VtadError(f"{folder}: cannot write the report: {e.strerror or e}", NOT_WRITTEN) from e
    _say(comparison, folder)
    if stop.signal is not None:
        return 128 + stop.signal
    if comparison.missing or comparison.failed or not comparison.table:
        return NOT_JUDGED
    return FLIPS if comparison.flips else NO_FLIPS


def _judge(model: Path, threads: int | None, run: Run, threshold: float | None) -> Judge:
    """The new model, seeing what the recorded one saw of each picture. Raises VtadError."""
    from vtad_runtime.contract.image import ImageError
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.review.replay import Judge
    from vtad_runtime.verdict.detector import Detector
    from vtad_runtime.verdict.mask import Mask

    try:
        detector = Detector(model, threads)
        mask = Mask(run.mask, run.geometry, detector.card) if run.mask else None
    except (ModelError, ImageError) as e:
        raise VtadError(e, USAGE) from e
    category = run.summary.get("category")
    if category not in (None, detector.card.identity.category):
        click.echo(
            f"note: the run was judged by a model of {category}, {model} is one of {detector.card.identity.category}",
            err=True,
        )
    if not run.summary:
        click.echo(
            "note: no summary.json beside the results; taken as a run without --roi, --rotate and --flip", err=True
        )
    return Judge(detector, run.geometry, mask, threshold)


def _judged(run: Run, judge: Judge | None, threshold: float | None, stop: Any) -> Iterator[Again]:
    from vtad_runtime.review.replay import rejudge, rescore

    if judge is not None:
        return rejudge(run.rows, judge, stop)
    assert threshold is not None  # the command asks for one of both
    return rescore(run.rows, threshold)


def _progress(rows: Iterator[Again], length: int) -> Iterator[Again]:
    """The rows, with a bar where somebody watches."""
    on_terminal = sys.stderr.isatty()
    with click.progressbar(rows, length, "judging", file=sys.stderr) if on_terminal else nullcontext(rows) as watched:
        yield from watched


def _shown(comparison: Comparison, judge: Judge | None, count: int) -> list[ShownFlip]:
    """The first flips with their pictures; each is judged once more to draw it, so memory does not grow with flips."""
    from vtad_runtime.review.replay_page import ShownFlip, recorded_picture

    return [ShownFlip(a, recorded_picture(a), _drawn(a, judge)) for a in comparison.flips[:count]]


def _drawn(again: Again, judge: Judge | None) -> Picture | None:
    """The new heatmap over the picture."""
    from vtad_runtime.contract.image import ImageError
    from vtad_runtime.drawing.encoding import PictureError
    from vtad_runtime.drawing.heatmap import overlay
    from vtad_runtime.review.replay_page import Picture, small_jpeg

    if judge is None or again.recorded.picture is None:
        return None
    try:
        rgb = judge.read(again.recorded)
        return Picture(small_jpeg(overlay(rgb, judge.settle(judge.detector(rgb)))), "as it is seen now")
    except (ImageError, PictureError):  # it went away since it was judged, or cannot be drawn
        return None


def _facts(run: Run, judge: Judge | None, threshold: float | None, stopped_after: int | None) -> dict[str, str]:
    facts = {"Results": str(run.file)}
    if run.summary.get("model"):
        facts["Recorded by"] = str(run.summary["model"])
    if judge is None:
        facts["Threshold"] = f"{threshold:g}, against the recorded scores; no picture was judged again"
    else:
        card = judge.detector.card
        facts["Judged again by"] = f"{judge.detector.path}, {card.identity.category}, {card.identity.created}"
        facts["Threshold"] = f"{judge.limit:.6g}" + (", of its card" if threshold is None else "")
    if stopped_after is not None:
        facts["Stopped"] = f"after {stopped_after} of {len(run.rows)} rows; flips are shown without pictures"
    return facts


def _write(folder: Path, facts: dict[str, str], comparison: Comparison, shown: list[ShownFlip]) -> None:
    from vtad_runtime.contract.files import write_whole
    from vtad_runtime.review.replay_page import page

    document = json.dumps({"facts": facts, **comparison.to_dict()}, indent=2, allow_nan=False) + "\n"
    for name, text in (
        ("flips.csv", _csv(comparison)),
        ("replay.json", document),
        ("report.html", page("Replay", facts, comparison, shown)),
    ):
        write_whole(folder / name, text.encode("utf-8", "replace"))


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for again in comparison.flips:
        r = again.recorded
        table.writerow(
            (
                f"{r.verdict} -> {again.verdict}",
                r.name,
                r.captured_at or "",
                f"{r.score:.6g}",
                f"{r.threshold:.6g}",
                f"{again.score:.6g}",
                f"{again.threshold:.6g}",
                r.picture or "",
                r.heatmap or "",
            )
        )
    return text.getvalue()


def _say(comparison: Comparison, folder: Path) -> None:
    """The figures on stdout, what is missing on stderr."""
    from vtad_runtime.review.replay_page import counts, headline
    from vtad_runtime.verdict.verdict import Verdict

    c = comparison
    gone = [f"missing {a.recorded.name}: {a.recorded.why}" for a in c.missing]
    gone += [f"ERROR {a.recorded.name}: {a.error}" for a in c.failed]
    for line in gone[:SHOWN_MISSING]:
        click.echo(printable(line), err=True)
    if len(gone) > SHOWN_MISSING:
        click.echo(f"and {len(gone) - SHOWN_MISSING} more; see replay.json", err=True)

    now = [v for v in Verdict if any(v is n for _, n in c.table)]
    if now:
        click.echo(f"{'recorded':<10}" + "".join(f"{f'now {v}':>12}" for v in now))
        for before in [v for v in Verdict if any(v is b for b, _ in c.table)]:
            click.echo(f"{before:<10}" + "".join(f"{c.table.get((before, n), 0):>12}" for n in now))
    if c.shift:
        low, middle, high = c.shift.difference
        click.echo(
            f"score: median {c.shift.recorded_median:.4g} recorded, {c.shift.new_median:.4g} now; "
            f"difference {middle:+.4g}, 90 % between {low:+.4g} and {high:+.4g}"
        )
    click.echo(counts(c))
    click.echo(headline(c))
    click.echo(f"report: {printable(str(folder / 'report.html'))}")


def _new_folder(parent: Path) -> Path:
    """The next numbered folder. Raises VtadError."""
    from vtad_runtime.outputs.results_folder import next_folder

    try:
        return next_folder(parent)
    except OSError as e:
        got = "a file" if parent.is_file() else e.strerror or e
        raise VtadError(
            f"{parent}: expected a folder to write the report to, got {got}; choose another by --out", USAGE
        ) from e
