"""`vtad-run`: judges a folder, a glob, a file, or a camera with an exported detector. Thin; the work is elsewhere."""

from __future__ import annotations

import errno
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtad_runtime.command import NOT_WRITTEN, USAGE, Failure, no_traceback, printable

if TYPE_CHECKING:
    from vtad_runtime.detector import Detector
    from vtad_runtime.pipeline import Job
    from vtad_runtime.stopping import Stop

ALL_OK, SOME_NG, NOT_JUDGED = 0, 1, 3
SHOWN_ERRORS = 10

EXIT_CODES = """\b
Exit codes:
  0    every file was judged OK (camera: stopped by Ctrl-C)
  1    some file is NG
  2    usage: bad arguments, no model or a wrong one, nothing to judge,
       a folder that cannot be read or written to, a camera that does not open
  3    some file could not be judged (wins over 1), or the camera failed
  4    results could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; what was begun is written
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.option("--model", type=click.Path(path_type=Path), help="Exported .onnx.  [default: the newest below ./runs]")
@click.option("--folder", help="What to judge: a folder and all below it, a glob in quotes, or a file.")
@click.option("--camera", type=click.IntRange(0), help="Judge this camera; prints one line per frame, writes no files.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where results go; each run makes the next folder 0001, 0002, ... in it.",
)
@click.option(
    "--save",
    type=click.Choice(["all", "ng", "none"]),
    default="all",
    show_default=True,
    help="Which heatmaps to save; ng: of everything that is not OK.",
)
@click.option(
    "--view",
    type=click.Choice(["overlay", "panel"]),
    default="overlay",
    show_default=True,
    help="overlay: the heatmap over the picture. panel: input, heatmap, SSIM, density, reconstruction.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Pictures per run of the model (--folder).",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the model.  [default: onnxruntime decides]")
@click.version_option(package_name="vtad", prog_name="vtad-run")
def run(folder: str | None, camera: int | None, **options: Any) -> None:
    """Judge pictures by an exported detector: verdicts, scores and heatmaps.

    Needs one of --folder and --camera. A picture is NG if and only if its score is above the threshold on the model's
    card. Nothing leaves this machine.
    """
    if (folder is None) == (camera is None):
        raise click.UsageError(
            "expected one of --folder DIR|GLOB|FILE and --camera N, got " + ("both" if folder else "none")
        )
    with no_traceback():
        code = _run_folder(folder, **options) if folder is not None else _run_camera(camera or 0, **options)
    sys.exit(code)


def newest_model(runs: Path = Path("runs")) -> Path:
    """The .onnx last written in `runs/<category>/<number>/export/`. Raises Failure when there is none."""
    models = sorted(runs.glob("*/*/export/*.onnx"), key=lambda p: (p.stat().st_mtime, str(p)))
    if not models:
        raise Failure(
            f"no exported model in {runs}/*/*/export: run vtad-train, then vtad-export, or name one by --model", USAGE
        )
    return models[-1]


def _open_detector(model: Path | None, threads: int | None) -> Detector:
    path = model or newest_model()
    from vtad_runtime.detector import Detector
    from vtad_runtime.session import ModelError

    try:
        detector = Detector(path, threads)
    except ModelError as e:
        raise Failure(e, USAGE) from e
    card = detector.card
    which = "" if model else ", the newest export"
    click.echo(
        f"model: {printable(str(path))}{which}; {card.identity.category}, {card.identity.created}, "
        f"threshold {card.calibration.threshold:.4g}, {card.input.width}x{card.input.height}"
    )
    return detector


def _run_folder(folder: str, *, model: Path | None, threads: int | None, out: Path, **options: Any) -> int:
    """Judge a folder, a glob or a file; the exit code."""
    from vtad_runtime.pipeline import Job, Options, default_decoders
    from vtad_runtime.session import ModelError
    from vtad_runtime.sink import Sink, SinkError
    from vtad_runtime.source import SourceError, find
    from vtad_runtime.stopping import stoppable

    try:
        source = find(folder)
    except SourceError as e:
        raise Failure(e, USAGE) from e
    if source.skipped:
        names = ", ".join(printable(str(s)) for s in source.skipped[:3]) + (", ..." if len(source.skipped) > 3 else "")
        click.echo(f"left out, being masks or earlier results: {names}")
    detector = _open_detector(model, threads)
    try:
        sink = Sink(out)
    except SinkError as e:
        full = isinstance(e.__cause__, OSError) and e.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failure(e, NOT_WRITTEN if full else USAGE) from e
    job = Job(source, detector, sink, Options(decoders=default_decoders(), **options))
    try:
        with sink, stoppable() as stop:
            return _judge(job, stop)
    except SinkError as e:
        raise Failure(e, NOT_WRITTEN) from e
    except ModelError as e:
        raise Failure(e, NOT_JUDGED) from e


def _judge(job: Job, stop: Stop) -> int:
    """Run the job with a progress bar, print the table, write the summary; the exit code."""
    import warnings

    from vtad_runtime.pipeline import judge_files
    from vtad_runtime.summary import Summary
    from vtad_runtime.verdict import Verdict

    summary, errors, files = Summary(), [], len(job.source.files)
    start = time.perf_counter()
    rows = judge_files(job, stop)
    on_terminal = sys.stderr.isatty()
    watched = click.progressbar(rows, files, "judging", file=sys.stderr) if on_terminal else nullcontext(rows)
    with warnings.catch_warnings(), watched as watched_rows:
        warnings.filterwarnings("ignore", module="PIL")  # what matters of them is in the row's error
        for row in watched_rows:
            summary.add(row)
            if row.error:
                errors.append(f"{row.file}: {row.error}" if row.file not in row.error else row.error)
    seconds = time.perf_counter() - start

    for error in errors[:SHOWN_ERRORS]:
        click.echo(f"ERROR {printable(error)}", err=True)
    if len(errors) > SHOWN_ERRORS:
        click.echo(f"and {len(errors) - SHOWN_ERRORS} more; see results.csv", err=True)
    if stop():
        click.echo(f"stopped after {summary.total.total()} of {files} files", err=True)
    click.echo(printable(summary.table(seconds)))
    job.sink.write_summary(
        {
            "model": str(job.detector.path),
            "category": job.detector.card.identity.category,
            "created": job.detector.card.identity.created,
            "threshold": job.detector.card.calibration.threshold,
            "source": str(job.source.root),
            "stopped": stop(),
            **summary.to_dict(seconds),
        }
    )
    click.echo(f"results: {printable(str(job.sink.folder))}")
    if stop.signal is not None:
        return 128 + stop.signal
    if summary.total[Verdict.ERROR]:
        return NOT_JUDGED
    return ALL_OK if summary.total[Verdict.OK] == summary.total.total() else SOME_NG


def _run_camera(camera: int, *, model: Path | None, threads: int | None, **_: Any) -> int:
    """Judge a camera until Ctrl-C; the exit code."""
    from vtad_runtime.image import ImageError
    from vtad_runtime.live import Camera, CameraError, judge_camera
    from vtad_runtime.session import ModelError
    from vtad_runtime.stopping import stoppable

    detector = _open_detector(model, threads)
    try:
        opened = Camera(camera)
    except CameraError as e:
        raise Failure(e, USAGE) from e
    try:
        with stoppable() as stop, opened:
            for frame in judge_camera(opened, detector, stop):
                result = frame.result
                click.echo(
                    f"frame {frame.number}  {frame.verdict}  score {result.score:.3f}  "
                    f"threshold {result.threshold:.3f}  p {result.p_value:.3g}  regions {len(result.regions)}  "
                    f"age {frame.age_s * 1000:.0f} ms"
                )
    except (CameraError, ModelError, ImageError) as e:
        raise Failure(e, NOT_JUDGED) from e
    return 128 + stop.signal if stop.signal not in (None, signal.SIGINT) else ALL_OK
