"""A run of vtad-score: list or find the list, judge the partitions of this shard that have no rows yet, write each whole."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vtad_runtime.batch import workers
from vtad_runtime.batch.job import Job, JobError, check_same, listed, model_digest, part_file, stored
from vtad_runtime.batch.rows import read_header
from vtad_runtime.batch.scoring import SHOWN, Scored, Setup
from vtad_runtime.batch.source import PictureSource, open_source
from vtad_runtime.contract.command_line.stopping import LAST_S, stoppable
from vtad_runtime.contract.disk.files import write_whole
from vtad_runtime.contract.errors import FAILED, NOT_JUDGED, NOT_WRITTEN, VtadError, one_line
from vtad_runtime.contract.log import event, logging_to, note, warning
from vtad_runtime.contract.progress import Bar
from vtad_runtime.contract.threshold.conformal import REVIEW, review_level
from vtad_runtime.engine.callers import cores
from vtad_runtime.engine.engines import CPU
from vtad_runtime.engine.opening import newest_model
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.verdict import Verdict

PARTITION = 50, 1000  # pictures in one, at least and at most
PARTS = 4  # for each worker, if that is possible: then all of them end at about the same time
MACHINES = 64  # processors that a cluster is taken to have
ALL_OK = 0


@dataclass(frozen=True)
class ScoreOptions:
    """What vtad-score was asked for. None: as it is stored, or what suits."""

    source: str
    out: Path
    model: Path | None = None  # None: the stored one, else the newest export below ./runs
    allow_changed: bool = False
    engine: str | None = None  # what runs the model; None: the stored one, else cpu
    review: float | None = None  # share of good pictures that may be UNSURE or NG
    thumbnails: bool = False
    partition: int | None = None  # pictures
    shard: tuple[int, int] = (1, 1)  # which one of how many
    workers: int | None = None  # processes; None: one a core
    on: Literal["here", "ray"] = "here"
    log_json: bool = False


@dataclass(frozen=True)
class Tally:
    """The partitions of a shard, those of earlier runs included."""

    job: Job
    partitions: int  # of the shard
    written: int
    verdicts: Counter[str]
    pictures: int  # judged by this run
    seconds: float


def command(options: ScoreOptions) -> int:
    """What vtad-score does; its exit code."""
    with logging_to(json_lines=options.log_json):
        with stoppable(_end_at_once) as stop:
            tally = score(options, stop)
        _say_end(options, tally, stop())
    if stop.signal is not None and tally.written < tally.partitions:
        return 128 + stop.signal
    if tally.verdicts[Verdict.ERROR]:
        return NOT_JUDGED
    return ALL_OK if tally.verdicts[Verdict.OK] == tally.verdicts.total() else FAILED


def score(options: ScoreOptions, stop: Callable[[], bool] = lambda: False) -> Tally:
    """Judge until every partition of the shard has its rows, or `stop()`. Raises VtadError."""
    source = open_source(options.source)
    setup = _setup(options, source)
    job, start = setup.job, time.monotonic()
    which, of = options.shard
    mine = range(which, job.partitions + 1, of)
    done = {number: counts for number in mine if (counts := _written(options.out, job, number)) is not None}
    left = [number for number in mine if number not in done]
    event(
        "started",
        f"{job.source}: {job.pictures} pictures, listed {job.listed_at}; {len(left)} of {len(mine)} partitions to judge"
        + (f" in shard {which}/{of}" if of > 1 else ""),
        source=job.source,
        model=job.model,
        results=str(options.out),
    )
    verdicts, errors, judged = sum(done.values(), Counter[str]()), list[str](), 0
    with (
        Bar("judging", sum(map(job.size, left))) as bar,
        closing(_results(options, setup, left, stop)) as results,  # ends the workers, whatever goes wrong here
    ):
        for scored in results:
            _write(options.out, scored)
            done[scored.number] = Counter(scored.verdicts)
            verdicts += done[scored.number]
            judged += job.size(scored.number)
            errors += scored.errors[: SHOWN - len(errors)]
            bar.advance(job.size(scored.number))
    for error in errors:
        warning("error", f"ERROR {error}")
    return Tally(job, len(mine), len(done), verdicts, judged, time.monotonic() - start)


def _results(
    options: ScoreOptions, setup: Setup, left: list[int], stop: Callable[[], bool]
) -> Generator[Scored, None, None]:
    """The partitions as they are judged, by whatever was asked for."""
    if not left or stop():
        return
    if options.on == "ray":
        from vtad_runtime.batch.cluster import judge_on_cluster

        driver = workers.start(judge_on_cluster, setup, options.out, "the Ray cluster", end_s=workers.CLUSTER_END_S)
        yield from workers.spread([driver], left, stop)
        return
    count = min(options.workers or cores(), len(left))
    if count == 1:
        yield from workers.here(options.out, setup, left, stop)
    else:
        yield from workers.spread(workers.local(options.out, setup, count), left, stop)


def _setup(options: ScoreOptions, source: PictureSource) -> Setup:
    """What workers need, by the stored job or a new one. Raises VtadError."""
    job = stored(options.out)
    model = options.model or (Path(job.model) if job is not None else newest_model())
    if options.on == "ray" and not model.is_file():
        raise VtadError(f"{model}: expected an .onnx model, one file, for the machines of a cluster, got none")
    engine = options.engine or (job.engine if job is not None else CPU)
    detector = Detector(model, threads=1, engine=engine, allow_changed=options.allow_changed)
    card, digest = detector.card, model_digest(model)
    if detector.integrity.changed:
        warning("model_changed", f"{model}: {detector.integrity} (--allow-changed); its proof says nothing of it")
    review = REVIEW if options.review is None else options.review

    def describe(pictures: int, partition: int, moment: str, listing: str) -> Job:
        return Job(
            source=source.name,
            pictures=pictures,
            partition=partition,
            listed_at=moment,
            listing_sha256=listing,
            model=str(model.absolute()),
            model_sha256=digest,
            category=card.identity.category,
            created=card.identity.created,
            threshold=card.calibration.threshold,
            weights_sha256=card.weights_sha256,
            engine=engine,
            review=review,
            unsure_from=review_level(card.calibration, review),
            thumbnails=options.thumbnails,
        )

    if job is None:
        job = listed(options.out, source, describe, partial(_partition, options))
    check_same(
        options.out,
        job,
        source=source.name,
        model_sha256=digest,
        engine=options.engine,
        review=options.review,
        thumbnails=options.thumbnails or None,
        partition=options.partition,
    )
    source.check()
    return Setup(source.address, model, options.allow_changed, job)


def _partition(options: ScoreOptions, pictures: int) -> int:
    """How many pictures a partition gets: of few so many that every worker has some."""
    if options.partition is not None:
        return options.partition
    at_work = MACHINES if options.on == "ray" else options.workers or cores()
    least, most = PARTITION
    return min(most, max(least, -(-pictures // (PARTS * at_work * options.shard[1]))))


def _written(out: Path, job: Job, number: int) -> Counter[str] | None:
    """The verdicts of a partition that has its rows; None where it has not. Raises JobError: rows of another job."""
    path = part_file(out, number)
    header = read_header(path, job.size(number))
    if header is None:
        if path.exists():
            warning(
                "damaged", f"{path}: expected the rows of partition {number}, got a damaged file; it is judged again"
            )
        return None
    if (header.job, header.number) != (job.digest, number):
        raise JobError(
            f"{path}: expected rows by {out}/score.json, got those of another run; choose another folder by --out"
        )
    return Counter(header.verdicts)


def _write(out: Path, scored: Scored) -> None:
    path = part_file(out, scored.number)
    try:
        write_whole(path, scored.parquet)
    except OSError as e:
        said = f"{path}: cannot write rows: {one_line(e)}; partitions written so far are whole, run again to continue"
        raise JobError(said, NOT_WRITTEN) from e


def _say_end(options: ScoreOptions, tally: Tally, stopped: bool) -> None:
    counts = ", ".join(f"{v} {n}" for v in Verdict if (n := tally.verdicts[v]) or v in (Verdict.OK, Verdict.NG))
    rate = tally.pictures / max(tally.seconds, 1e-9)
    now = f"; {tally.pictures} judged now in {tally.seconds:.1f} s, {rate:.1f} images/s" if tally.pictures else ""
    said = f"{tally.written} of {tally.partitions} partitions written: {counts}{now}"
    fields = {"partitions": tally.partitions, "written": tally.written, "verdicts": dict(tally.verdicts)}
    if stopped and tally.written < tally.partitions:
        event("stopped", f"stopped; what was in hand is dropped, the same command goes on. {said}", **fields)
    else:
        event("done", said, **fields)
    note(f"rows: {options.out / 'rows'}")


def _end_at_once(number: int) -> None:
    """End the process, whatever hangs: partitions on disk are whole."""
    warning(
        "stopped_late",
        f"not ended {LAST_S:.0f} s after the signal: ended at once; partitions that are written are whole",
    )
    os._exit(128 + number)
