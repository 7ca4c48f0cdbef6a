"""`vtad-replay`: a recorded run judged again, and the report of what would flip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vtad_runtime.contract.card import FULL_SCALE
from vtad_runtime.contract.command_line.command import say
from vtad_runtime.contract.command_line.stopping import stoppable
from vtad_runtime.contract.disk.files import write_whole
from vtad_runtime.contract.errors import FAILED, NOT_JUDGED, NOT_WRITTEN, USAGE, VtadError, disk_full, one_line
from vtad_runtime.contract.progress import watched
from vtad_runtime.contract.threshold.conformal import REVIEW
from vtad_runtime.drawing.encoding import PictureError
from vtad_runtime.drawing.heatmap import overlay
from vtad_runtime.outputs.csv_lines import Dialect, csv_line
from vtad_runtime.outputs.results_folder import next_folder
from vtad_runtime.outputs.run_file import RunFile
from vtad_runtime.review.comparison import Again, Comparison, compare
from vtad_runtime.review.recorded import Run, read_run
from vtad_runtime.review.replay import Rejudge, rejudge, rescore
from vtad_runtime.review.replay_page import Picture, ShownFlip, counts, headline, page, recorded_picture, small_jpeg
from vtad_runtime.verdict.detector import Detector

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
    runs: Path,
    model: Path | None,
    threshold: float | None,
    *,
    out: Path,
    max_pictures: int,
    threads: int | None,
    csv_dialect: Dialect = "excel",
    allow_changed: bool = False,
) -> int:
    """Judge pictures of `runs` by `model`, or its scores by `threshold`; write the report. Its exit code. Raises VtadError."""
    run = read_run(runs)
    if run.torn:
        say(f"{run.file}: its last line is torn and left out", err=True)
    by = _rejudge(run, Detector(model, threads, allow_changed=allow_changed), threshold) if model else None
    folder = _new_folder(out)
    with _removed_if_empty(folder):
        with stoppable() as stop:
            again = rejudge(run.rows, by, stop) if by else rescore(run, threshold or 0.0)
            rows = list(watched(again, "judging", len(run.rows)))
            comparison = compare(rows)
            flips = () if stop() else comparison.flips[:max_pictures]
            white = by.detector.card.input.full_scale if by else FULL_SCALE
            shown = [
                ShownFlip(flip, recorded_picture(flip, white), _drawn(flip, by))
                for flip in watched(flips, "drawing the report")
            ]
        facts = _facts(run, by, threshold, stopped_after=len(rows) if stop() else None)
        try:
            _write(folder, facts, comparison, shown, csv_dialect)
        except OSError as e:
            raise VtadError(f"{folder}: cannot write the report: {one_line(e)}", NOT_WRITTEN) from e
    _say(comparison, folder)
    if stop.signal is not None:
        return 128 + stop.signal
    if comparison.missing or comparison.failed or not comparison.table:
        return NOT_JUDGED
    return FLIPS if comparison.flips else NO_FLIPS


def _rejudge(run: Run, detector: Detector, threshold: float | None) -> Rejudge:
    """The new model under the rules of the run, and what is not known of these. Raises VtadError."""
    by = Rejudge(run, detector, threshold)
    category = detector.card.identity.category
    if run.how is None:
        say(
            "note: no run.json beside the results, as of an older vtad-run; taken as a run without --roi, --rotate, --flip "
            "and --roi-mask: with one of them other pixels are judged now",
            err=True,
        )
    elif run.how.category != category:
        say(
            f"note: the run was judged by a model of {run.how.category}, {detector.path} is one of {category}", err=True
        )
    if detector.integrity.changed:
        say(f"note: {detector.path}: {detector.integrity} (--allow-changed)", err=True)
    return by


def _drawn(again: Again, by: Rejudge | None) -> Picture | None:
    """The new heatmap over the picture; None where that is gone by now, or cannot be drawn.

    The picture is judged once more, so memory does not grow with flips.
    """
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
        facts["Its file"] = str(by.detector.integrity)
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
    if how.review is not None:
        said += [f"--review {how.review:g}"] if how.review != REVIEW else []
    elif how.unsure_from is not None:
        said += [f"--unsure-from {how.unsure_from:g}"]
    return " ".join(said)


def _write(
    folder: Path, facts: dict[str, str], comparison: Comparison, shown: list[ShownFlip], dialect: Dialect
) -> None:
    document = json.dumps({"facts": facts, **comparison.to_dict()}, indent=2, allow_nan=False) + "\n"
    for name, text in (
        ("flips.csv", _csv(comparison, dialect)),
        ("replay.json", document),
        ("report.html", page("Replay", facts, comparison, shown)),
    ):
        write_whole(folder / name, text.encode("utf-8", "replace"))


def _csv(comparison: Comparison, dialect: Dialect) -> str:
    lines = [csv_line(COLUMNS, dialect, first=True)]
    for again in comparison.flips:
        r = again.recorded
        figures = [float(f"{x:.6g}") for x in (r.score, r.threshold, again.score, again.threshold)]
        flip = f"{r.verdict} -> {again.verdict}"
        lines.append(csv_line([flip, r.name, r.captured_at or "", *figures, r.picture or "", r.heatmap or ""], dialect))
    return "".join(lines)


def _say(comparison: Comparison, folder: Path) -> None:
    """The figures on stdout, what is missing on stderr."""
    c = comparison
    gone = [f"missing {name}: {why}" for name, why in c.missing] + [f"ERROR {name}: {why}" for name, why in c.failed]
    for line in gone[:SHOWN_MISSING]:
        say(line, err=True)
    if len(gone) > SHOWN_MISSING:
        say(f"and {len(gone) - SHOWN_MISSING} more; see replay.json", err=True)
    if c.table:
        recorded, now = c.sides
        say(f"{'recorded':<10}" + "".join(f"{f'now {v}':>12}" for v in now))
        for before in recorded:
            say(f"{before:<10}" + "".join(f"{c.table.get((before, n), 0):>12}" for n in now))
    if c.shift:
        low, middle, high = c.shift.difference_p5_p50_p95
        say(
            f"score: median {c.shift.recorded_median:.4g} recorded, {c.shift.new_median:.4g} now; "
            f"difference {middle:+.4g}, 90 % between {low:+.4g} and {high:+.4g}"
        )
    say(counts(c))
    say(headline(c))
    say(f"report: {folder / 'report.html'}")


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Whatever ends the block before its first file leaves nothing."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # there is something in it
            folder.rmdir()
        raise


def _new_folder(parent: Path) -> Path:
    """The next numbered folder. Raises VtadError."""
    try:
        return next_folder(parent)
    except OSError as e:
        got = "a file" if parent.is_file() else e.strerror or e
        said = f"{parent}: expected a folder to write the report to, got {got}; choose another by --out"
        raise VtadError(said, NOT_WRITTEN if disk_full(e) else USAGE) from e
