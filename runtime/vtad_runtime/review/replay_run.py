"""`vtad-replay`: a recorded run judged again, and the report of what would flip."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import click

from vtad_runtime.contract.command import printable
from vtad_runtime.contract.errors import FAILED, NOT_JUDGED, NOT_WRITTEN, VtadError
from vtad_runtime.contract.files import write_whole
from vtad_runtime.contract.stopping import stoppable
from vtad_runtime.drawing.encoding import PictureError
from vtad_runtime.drawing.heatmap import overlay
from vtad_runtime.engine.model import ModelError
from vtad_runtime.outputs.results_folder import next_folder
from vtad_runtime.outputs.run_file import RunFile
from vtad_runtime.review.comparison import Again, Comparison, compare
from vtad_runtime.review.recorded import Run, read_run
from vtad_runtime.review.replay import Rejudge, rejudge, rescore
from vtad_runtime.review.replay_page import Picture, ShownFlip, counts, headline, page, recorded_picture, small_jpeg
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.verdict import Verdict

NO_FLIPS, FLIPS = 0, FAILED  # exit codes
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


def replay_run(
    runs: Path, model: Path | None, threshold: float | None, *, out: Path, max_pictures: int, threads: int | None
) -> int:
    """Judge pictures of `runs` by `model`, or its scores by `threshold`; write the report. Its exit code. Raises VtadError."""
    run = read_run(runs)
    if run.torn:
        click.echo(f"{printable(str(run.file))}: its last line is torn and left out", err=True)
    by = _rejudge(run, model, threads, threshold) if model else None
    folder = _new_folder(out)
    try:
        with stoppable() as stop:
            again = rejudge(run.rows, by, stop) if by else rescore(run, threshold or 0.0)
            rows = list(_progress(again, len(run.rows)))
            comparison = compare(rows)
            shown = [] if stop() else [_shown(flip, by) for flip in comparison.flips[:max_pictures]]
    except ModelError:
        folder.rmdir()
        raise
    facts = _facts(run, by, threshold, stopped_after=len(rows) if stop() else None)
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


def _rejudge(run: Run, model: Path, threads: int | None, threshold: float | None) -> Rejudge:
    """The new model under the rules of the run, and what is not known of these. Raises VtadError."""
    detector = Detector(model, threads)
    by = Rejudge(run, detector, threshold)
    category = detector.card.identity.category
    if run.how is None:
        click.echo(
            "note: no run.json beside the results, as of an older vtad-run; taken as a run without --roi, --rotate, --flip "
            "and --roi-mask: with one of them other pixels are judged now",
            err=True,
        )
    elif run.how.category != category:
        click.echo(f"note: the run was judged by a model of {run.how.category}, {model} is one of {category}", err=True)
    return by


def _progress(rows: Iterator[Again], length: int) -> Iterator[Again]:
    """The rows, with a bar where somebody watches."""
    on_terminal = sys.stderr.isatty()
    with click.progressbar(rows, length, "judging", file=sys.stderr) if on_terminal else nullcontext(rows) as watched:
        yield from watched


def _shown(again: Again, by: Rejudge | None) -> ShownFlip:
    """A flip with its pictures; it is judged once more to draw it, so memory does not grow with flips."""
    return ShownFlip(again, recorded_picture(again), _drawn(again, by))


def _drawn(again: Again, by: Rejudge | None) -> Picture | None:
    """The new heatmap over the picture; None where that is gone by now, or cannot be drawn."""
    if by is None or again.recorded.picture is None:
        return None
    judgement = by.judge(by.frame(again.recorded))
    if judgement.frame is None or judgement.result is None:
        return None
    try:
        return Picture(small_jpeg(overlay(judgement.frame.rgb, judgement.result)), "as it is seen now")
    except PictureError:
        return None


def _facts(run: Run, by: Rejudge | None, threshold: float | None, stopped_after: int | None) -> dict[str, str]:
    facts = {"Results": str(run.file)}
    if run.how is not None:
        facts["Recorded by"] = run.how.model
        facts |= {"Options of the run": given} if (given := _options(run.how)) else {}
    if by is None:
        facts["Threshold"] = f"{threshold:g}, against the recorded scores; no picture was judged again"
    else:
        card = by.detector.card
        facts["Judged again by"] = f"{by.detector.path}, {card.identity.category}, {card.identity.created}"
        facts["Threshold"] = f"{by.threshold:.6g}" + (", of its card" if threshold is None else "")
    if stopped_after is not None:
        facts["Stopped"] = f"after {stopped_after} of {len(run.rows)} rows; flips are shown without pictures"
    return facts


def _options(how: RunFile) -> str:
    """The options of the run that change what is judged, as they were given; "" without any."""
    said = [f"--roi {','.join(map(str, how.roi))}"] if how.roi is not None else []
    said += [f"--rotate {how.rotate}"] if how.rotate else []
    said += [f"--flip {how.flip}"] if how.flip else []
    said += [f"--roi-mask {how.roi_mask.file}"] if how.roi_mask else []
    said += [f"--unsure-from {how.unsure_from:g}"] if how.unsure_from is not None else []
    return " ".join(said)


def _write(folder: Path, facts: dict[str, str], comparison: Comparison, shown: list[ShownFlip]) -> None:
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
    c = comparison
    gone = [f"missing {a.recorded.name}: {a.recorded.why}" for a in c.missing]
    gone += [f"ERROR {a.recorded.name}: {a.reason}" for a in c.failed]
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
    try:
        return next_folder(parent)
    except OSError as e:
        got = "a file" if parent.is_file() else e.strerror or e
        raise VtadError(
            f"{parent}: expected a folder to write the report to, got {got}; choose another by --out"
        ) from e
