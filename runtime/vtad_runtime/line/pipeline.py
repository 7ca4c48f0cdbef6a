"""Judges many files: decoding threads, batches through the model, a writing thread; results in the order of the files.

Each stage hands on futures through a window of bounded length, so memory stays bounded, order is kept, and an error of
any thread surfaces in the caller, which ends the run.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.image import ImageError, read_rgb
from vtad_runtime.drawing import heatmap, panel
from vtad_runtime.drawing.encoding import PictureError
from vtad_runtime.outputs.results_folder import Row, Sink
from vtad_runtime.sources.folder import Source
from vtad_runtime.verdict.detector import Detector, Prepared, Result
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judgement import Frame, Judgement, Output
from vtad_runtime.verdict.mask import Mask
from vtad_runtime.verdict.verdict import Verdict, settle


@dataclass(frozen=True)
class Options:
    """How to run, and what to keep."""

    batch: int = 4  # pictures per run of the model, 1..64
    decoders: int = 2  # threads that decode
    save: Literal["all", "ng", "none"] = "all"  # which pictures get a heatmap file; ng: everything judged but OK
    view: Literal["overlay", "panel"] = "overlay"
    geometry: Geometry = field(default_factory=Geometry)  # done to each picture before it is judged
    mask: Mask | None = None
    unsure_from: float | None = None  # scores above it, up to the threshold, are UNSURE


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A file after decoding: either a picture or the reason why not."""

    file: Path
    number: int  # of the file, from 1
    read_at: float  # seconds since the epoch
    rgb: NDArray[np.uint8] | None
    prepared: Prepared | None
    error: str | None
    decode_ms: float


@dataclass(frozen=True)
class Job:
    """One run: what is judged, by what, and where the results go."""

    source: Source
    detector: Detector
    sink: Sink
    options: Options = field(default_factory=Options)
    outputs: tuple[Output, ...] = ()  # they get each judgement after its row is on disk; the caller closes them


def judge_files(job: Job, stop: Callable[[], bool] = lambda: False) -> Iterator[Row]:
    """Judge every file of the source and write it; yields each row after it is on disk, in order.

    Once `stop()` is true no further file is begun; those begun are finished and written. A file that cannot be read
    gives a row with verdict ERROR. Raises ModelError, SinkError, or whatever else went wrong in a thread.
    """
    with (
        ThreadPoolExecutor(job.options.decoders, "vtad-decode") as decoders,
        ThreadPoolExecutor(1, "vtad-write") as writer,
    ):
        written: deque[Future[Row]] = deque()
        try:
            for batch in _batches(_decoded(job, decoders, stop), job.options.batch):
                results, infer_ms = _judge(job.detector, batch)
                for decoded, result in zip(batch, results, strict=True):
                    written.append(writer.submit(_write, job, decoded, result, infer_ms))
                while len(written) > job.options.batch:
                    yield written.popleft().result()
            while written:
                yield written.popleft().result()
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)
            writer.shutdown(wait=False, cancel_futures=True)


def default_decoders() -> int:
    """Decoding threads for this machine: half its cores, 1..4."""
    return min(max((os.cpu_count() or 1) // 2, 1), 4)


def _decoded(job: Job, pool: ThreadPoolExecutor, stop: Callable[[], bool]) -> Iterator[_Decoded]:
    """Decode ahead by one batch and one file per thread, in order."""
    window: deque[Future[_Decoded]] = deque()
    for number, file in enumerate(job.source.files, start=1):
        if stop():
            break
        window.append(pool.submit(_decode, file, number, job))
        if len(window) >= job.options.batch + job.options.decoders:
            yield window.popleft().result()
    while window:
        yield window.popleft().result()


def _decode(file: Path, number: int, job: Job) -> _Decoded:
    read_at, start = time.time(), time.perf_counter()
    try:
        rgb = job.options.geometry.apply(read_rgb(file))
        prepared = job.detector.prepare(rgb)
    except ImageError as e:
        return _Decoded(file, number, read_at, None, None, str(e), _ms_since(start))
    return _Decoded(file, number, read_at, rgb, prepared, None, _ms_since(start))


def _batches(items: Iterator[_Decoded], size: int) -> Iterator[list[_Decoded]]:
    batch: list[_Decoded] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _judge(detector: Detector, batch: list[_Decoded]) -> tuple[list[Result | None], float]:
    """The result of each readable file, None for the others, and the time per readable file in ms."""
    start = time.perf_counter()
    readable = [d.prepared for d in batch if d.prepared is not None]
    results = iter(detector.judge(readable))
    in_order = [next(results) if d.prepared is not None else None for d in batch]
    return in_order, _ms_since(start) / max(len(readable), 1)


def _write(job: Job, decoded: _Decoded, result: Result | None, infer_ms: float) -> Row:
    """Draw and save the picture, then the row that names it, then tell the outputs."""
    start = time.perf_counter()
    relative = job.source.relative(decoded.file)
    group = relative.parent.as_posix()
    picture, reason = None, decoded.error
    if result is not None:
        result, reason = _settled(job.options, result)
    if result is not None and decoded.rgb is not None and _saves(job.options, result.verdict):
        draw = panel.panel if job.options.view == "panel" else heatmap.overlay
        with suppress(PictureError):  # it costs its drawing, never the row
            picture = job.sink.write_picture(relative, draw(decoded.rgb, result))
    row = Row(
        file=decoded.file.as_posix(),
        group="" if group == "." else group,
        verdict=result.verdict if result else Verdict.ERROR,
        score=result.score if result else math.nan,
        p_value=result.p_value if result else math.nan,
        threshold=job.detector.card.calibration.threshold,
        regions=result.regions if result else (),
        decode_ms=decoded.decode_ms,
        infer_ms=infer_ms if result else 0.0,
        write_ms=_ms_since(start),
        heatmap=picture,
        error=reason,
    )
    job.sink.write_row(row)
    if job.outputs:
        judgement = _judgement(job, decoded, result, row)
        for output in job.outputs:
            output.write(judgement)
    return row


def _settled(options: Options, result: Result) -> tuple[Result, str | None]:
    """The result after mask and second threshold, and why it is not simply OK or NG."""
    if options.mask is not None:
        result = options.mask.apply(result)
    verdict, reason = settle(result.verdict, result.score, unsure_from=options.unsure_from)
    return dataclasses.replace(result, verdict=verdict), reason or result.error


def _judgement(job: Job, decoded: _Decoded, result: Result | None, row: Row) -> Judgement:
    """A file as a frame, for outputs."""
    source, frame = str(job.source.root), None
    if decoded.rgb is not None:
        captured = time.monotonic() - (time.time() - decoded.read_at)
        frame = Frame(source, decoded.number, decoded.read_at, captured, decoded.decode_ms, 0, decoded.rgb, row.file)
    return Judgement(
        source=source,
        number=decoded.number,
        captured_at=decoded.read_at,
        verdict=row.verdict,
        reason=row.error,
        alarm=None,
        threshold=row.threshold,
        frame=frame,
        result=result,
        capture_ms=decoded.decode_ms,
        infer_ms=row.infer_ms,
        file=row.file,
    )


def _saves(options: Options, verdict: Verdict) -> bool:
    return options.save == "all" or (options.save == "ng" and verdict is not Verdict.OK)


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
