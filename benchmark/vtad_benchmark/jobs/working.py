"""One worker: it takes a job that nobody does, does it, writes its row, and goes on until there is none left.

A job that somebody does is locked; the system frees the lock when that process ends, however it ends, and whoever comes by then
goes on from the run's last checkpoint. Nothing else is kept between workers, so any number of processes and of machines on a
shared folder work beside each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtad.commands.library_errors import ends_all, library_errors_as_lines, line_of
from vtad.run_folder import make_folder, write_text
from vtad_benchmark.jobs.plan import Job, Plan
from vtad_benchmark.jobs.provenance import made
from vtad_benchmark.methods.options import short_name
from vtad_benchmark.results.row import BASELINES, Row
from vtad_benchmark.results.rows import write_row
from vtad_runtime.contract.command_line.stopping import stoppable, stopped, stopped_as_line
from vtad_runtime.contract.disk.lock import Lock, Locked
from vtad_runtime.contract.progress import Bar

if TYPE_CHECKING:  # torch is imported when a job needs it
    from vtad.fitting.loop import Report
    from vtad_benchmark.methods.found import Found

GOES_ON = "the same command continues"  # after a signal
REPORT_S = 30.0  # between two lines about one training


@dataclass(frozen=True)
class Surroundings:
    """What a worker is given beside the plan."""

    began: float  # when the command was started, seconds since 1970: a job that failed since then is not tried again
    say: Callable[[str], None]
    orphaned: Callable[[], bool] = lambda: False  # whether the process that started this one is gone


def work(plan: Plan, given: Surroundings) -> None:
    """Do what is not done, until all that is left is done by others or has failed. Raises VtadError: stopped, a full disk."""
    jobs = plan.jobs()
    while sum(_done_now(plan, job, given, f"[{number}/{len(jobs)}]") for number, job in enumerate(jobs, 1)):
        pass  # a job that another process held when we came by may be free now


def _done_now(plan: Plan, job: Job, given: Surroundings, number: str) -> bool:
    """Whether this worker did the job just now."""
    if plan.row(job).is_file() or failed(plan, job, given.began):
        return False
    with _held(plan, job) as held:
        if not held or plan.row(job).is_file() or failed(plan, job, given.began):
            return False

        def say(text: str) -> None:
            given.say(f"{number} {job}: {text}")

        start = time.perf_counter()
        try:
            with library_errors_as_lines():
                row = do(plan, job, say, given.orphaned)
        except Exception as e:  # whatever it is, it must not keep the other jobs from being done
            if ends_all(e):
                raise
            write_text(plan.failure(job), f"{time.time()} {line_of(e)}\n")
            say(f"failed: {line_of(e)}")
            return False
        write_row(plan.row(job), row)
        plan.failure(job).unlink(missing_ok=True)
        shown = [_share(value) for value in (row.ranking.image_auroc, row.ranking.pixel_auroc, row.ranking.aupro)]
        say(f"done in {time.perf_counter() - start:.0f} s: {' / '.join(shown)}")
        return True


@contextmanager
def _held(plan: Plan, job: Job) -> Iterator[bool]:
    """Whether the job's lock could be taken, or there are no locks; it is freed at the end."""
    path, lock = plan.lock(job), None
    make_folder(path.parent)
    try:
        lock = Lock(path)
    except Locked:
        yield False
        return
    except OSError:  # a file system without locks
        pass
    try:
        yield True
    finally:
        if lock is not None:
            lock.close()


def held_elsewhere(plan: Plan, job: Job) -> bool:
    """Whether another process does the job."""
    if not plan.lock(job).is_file():
        return False
    with _held(plan, job) as held:
        return not held


def failed(plan: Plan, job: Job, began: float) -> str | None:
    """Why the job could not be done since `began`."""
    with suppress(OSError, ValueError):
        when, _, text = plan.failure(job).read_text(encoding="utf-8").strip().partition(" ")
        return text if float(when) >= began else None
    return None


def do(plan: Plan, job: Job, say: Callable[[str], None], orphaned: Callable[[], bool] = lambda: False) -> Row:
    """The row of one job. What of it is there already is taken. Raises what training, evaluation and the baselines raise."""
    found = _baseline(plan, job, say) if job.method in BASELINES else _preset(plan, job, say, orphaned)
    fields = {name: value for name, value in vars(found).items() if name != "trained_commit"}
    return Row(
        category=job.category,
        method=short_name(job.method),
        seed=job.seed,
        asked=dict(job.asked),
        fingerprint=job.fingerprint,
        made=made(found.trained_commit),
        **fields,
    )


def _baseline(plan: Plan, job: Job, say: Callable[[str], None]) -> Found:
    from vtad_benchmark.methods.baselines import fit_and_judge

    say("fitting and judging")
    with stopped_as_line(GOES_ON, GOES_ON):
        return fit_and_judge(job.method, plan.options, job.category, job.seed, plan.data)


def _preset(plan: Plan, job: Job, say: Callable[[str], None], orphaned: Callable[[], bool]) -> Found:
    from vtad.fitting.loop import Interrupted
    from vtad_benchmark.methods.presets import judged, trained

    said = -REPORT_S

    def report(one: Report) -> None:
        nonlocal said
        bar.to(one.fraction, one.text if one.lasting else bar.text)
        if one.lasting and time.monotonic() - said >= REPORT_S:
            said = time.monotonic()
            say(f"{one.fraction:4.0%}  {one.text}")

    with stoppable() as stop, Bar(str(job), 1.0) as bar:
        try:
            run = trained(
                job.method,
                plan.options,
                job.category,
                job.seed,
                plan.data,
                plan.runs(job),
                report=report,
                stop=lambda: stop() or orphaned(),
            )
        except Interrupted as e:
            raise stopped(stop, GOES_ON) from e
    if stop():  # it came during calibration
        raise stopped(stop, GOES_ON)
    with stopped_as_line(GOES_ON, GOES_ON):
        return judged(run, plan.data, plan.out, say)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
