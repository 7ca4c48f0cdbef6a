"""`vtad-run --folder`: judges files in batches, prints a table, writes a results folder."""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

import click

from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full
from vtad_runtime.contract.log import event, note, warning
from vtad_runtime.line import golden_run, wiring
from vtad_runtime.line.options import RunOptions

if TYPE_CHECKING:
    from vtad_runtime.contract.stopping import Stop
    from vtad_runtime.line.pipeline import Job
    from vtad_runtime.outputs.results_folder import Sink

ALL_OK, SOME_NG, NOT_JUDGED = 0, 1, 3
SHOWN_ERRORS = 10


def run_folder(options: RunOptions) -> int:
    """Judge a folder, a glob or a file; the exit code. Raises VtadError."""
    from vtad_runtime.contract.stopping import stoppable
    from vtad_runtime.engine.model import ModelError
    from vtad_runtime.line.pipeline import Job, Options, default_decoders
    from vtad_runtime.outputs.results_folder import SinkError
    from vtad_runtime.sources.folder import SourceError, find

    assert options.address is not None
    try:
        source = find(options.address.where)
    except SourceError as e:
        raise VtadError(e, USAGE) from e
    source = dataclasses.replace(source, files=source.files[: options.max_frames])
    if source.skipped:
        names = ", ".join(str(s) for s in source.skipped[:3]) + (", ..." if len(source.skipped) > 3 else "")
        note(f"left out, being masks or earlier results: {names}")
    detector = wiring.open_detector(options)
    mask = wiring.mask_of(options, detector.card)
    golden_run.checked(options, detector)
    how = Options(
        batch=options.batch,
        decoders=default_decoders(),
        save=options.save or "all",
        view=options.view,
        geometry=wiring.geometry_of(options),
        mask=mask,
        unsure_from=options.unsure_from,
    )
    try:
        with ExitStack() as stack:
            outputs = wiring.shared_outputs(options, detector.card, options.address.name, fps=2.0)
            for output in outputs:
                stack.callback(output.close)
            sink = stack.enter_context(_open_sink(options))
            stop = stack.enter_context(stoppable())
            return _judge(Job(source, detector, sink, how, tuple(outputs)), stop)
    except SinkError as e:
        raise VtadError(e, NOT_WRITTEN) from e
    except ModelError as e:
        raise VtadError(e, NOT_JUDGED) from e


def _open_sink(options: RunOptions) -> Sink:
    """A results folder of its own. Raises VtadError."""
    from vtad_runtime.outputs.results_folder import Sink, SinkError

    try:
        return Sink(options.out, ".png" if options.image == "png" else ".jpg", options.keep)
    except SinkError as e:
        raise VtadError(e, NOT_WRITTEN if disk_full(e) else USAGE) from e


def _judge(job: Job, stop: Stop) -> int:
    """Run the job with a progress bar, print the table, write the summary; the exit code."""
    import warnings

    from vtad_runtime.line.pipeline import judge_files
    from vtad_runtime.line.summary import Summary
    from vtad_runtime.verdict.verdict import Verdict

    summary, errors, files = Summary(), [], len(job.source.files)
    start = time.perf_counter()
    rows = judge_files(job, stop)
    on_terminal = sys.stderr.isatty()
    watched = click.progressbar(rows, files, "judging", file=sys.stderr) if on_terminal else nullcontext(rows)
    with warnings.catch_warnings(), watched as watched_rows:
        warnings.filterwarnings("ignore", module="PIL")  # what matters of them is in the row's error
        for row in watched_rows:
            summary.add(row)
            if row.error and row.verdict is Verdict.ERROR:
                errors.append(f"{row.file}: {row.error}" if row.file not in row.error else row.error)
    seconds = time.perf_counter() - start

    for error in errors[:SHOWN_ERRORS]:
        warning("error", f"ERROR {error}")
    if len(errors) > SHOWN_ERRORS:
        warning("error", f"and {len(errors) - SHOWN_ERRORS} more; see results.csv")
    if stop():
        event("stopped", f"stopped after {summary.total.total()} of {files} files")
    note(summary.table(seconds))
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
    note(f"results: {job.sink.folder}")
    if stop.signal is not None:
        return 128 + stop.signal
    if summary.total[Verdict.ERROR]:
        return NOT_JUDGED
    return ALL_OK if summary.total[Verdict.OK] == summary.total.total() else SOME_NG
