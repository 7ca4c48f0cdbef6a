"""One partition: its pictures through the judge of vtad-run, its rows as a Parquet file. The same wherever it runs."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtad_runtime.batch.job import Job, Partition
from vtad_runtime.batch.rows import Header, to_parquet
from vtad_runtime.batch.source import REFUSED, StorageError, open_source
from vtad_runtime.contract.errors import NOT_JUDGED
from vtad_runtime.drawing.encoding import PictureError
from vtad_runtime.drawing.shrinking import shrink
from vtad_runtime.drawing.thumbnail import LONGEST, thumbnail
from vtad_runtime.sources.capture import as_frame
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement, Unusable
from vtad_runtime.verdict.verdict import Verdict

BATCH = 4  # pictures that are judged together, as vtad-run judges a folder
SHOWN = 10  # errors that a partition hands back


@dataclass(frozen=True)
class Setup:
    """What a worker opens."""

    source: str  # its address
    model: Path | bytes
    allow_changed: bool
    job: Job


@dataclass(frozen=True)
class Scored:
    """A partition that was judged."""

    number: int
    parquet: bytes  # the whole file of its rows
    verdicts: dict[str, int]
    errors: tuple[str, ...]  # the first ones, a line each


class Scorer:
    """One opened model with one thread. Use as a context manager."""

    def __init__(self, setup: Setup) -> None:
        """Raises VtadError."""
        self._source, self._job = open_source(setup.source), setup.job
        engine, changed = setup.job.engine, setup.allow_changed
        self._detector = Detector(setup.model, threads=1, engine=engine, allow_changed=changed)
        rules = Rules(unsure_from=setup.job.unsure_from)
        self._judge = Judge(setup.job.source, self._detector, rules)
        self._pool = ThreadPoolExecutor(self._source.readers, "vtad-decode")

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, partition: Partition, stop: Callable[[], bool] = lambda: False) -> Scored | None:
        """Judge a partition; None when `stop()`. Raises StorageError, ModelError."""
        rows, verdicts, errors, refused = list[dict[str, Any]](), Counter[str](), list[str](), 0
        for frames in self._batches(partition):
            if stop():
                return None
            for judgement in self._judge.judge(frames):
                rows.append(self._row(judgement))
                verdicts[str(judgement.verdict)] += 1
                if judgement.verdict is Verdict.ERROR:
                    errors.append(str(judgement.reason))
                    refused += errors[-1].endswith(REFUSED)
        if errors:
            self._check()
        if refused == len(rows):
            raise StorageError(f"{errors[0]}, and so of all others near it; check the credentials", NOT_JUDGED)
        header = Header(partition.number, self._job.digest, dict(verdicts))
        return Scored(partition.number, to_parquet(rows, header), dict(verdicts), tuple(errors[:SHOWN]))

    def _check(self) -> None:
        """Raise StorageError where the source is gone: it was there at the start."""
        try:
            self._source.check()
        except StorageError as e:
            raise StorageError(e, NOT_JUDGED) from e

    def _batches(self, partition: Partition) -> Iterator[list[Frame | Unusable]]:
        """The pictures in order, read and fitted ahead of the model."""
        window, ahead = deque[Future[Frame | Unusable]](), BATCH + self._source.readers
        left = enumerate(partition.names, start=partition.first)
        taken: list[Frame | Unusable] = []
        try:
            for _ in partition.names:
                while len(window) < ahead and (item := next(left, None)) is not None:
                    window.append(self._pool.submit(self._read, *item))
                taken.append(window.popleft().result())
                if len(taken) == BATCH:
                    yield taken
                    taken = []
            if taken:
                yield taken
        finally:
            for future in window:
                future.cancel()

    def _read(self, number: int, name: str) -> Frame | Unusable:
        start = time.monotonic()
        shot = self._source.shot(name, self._detector.card.input.full_scale)
        frame = as_frame(number, shot, Geometry(), start, start)
        if not isinstance(frame, Frame):
            return frame
        frame = self._judge.prepare(frame)
        if frame.ahead is None:
            return frame
        # The pixels have served: of a large picture only what a thumbnail needs waits for the model.
        rgb = shrink(frame.rgb, LONGEST) if self._job.thumbnails else frame.rgb[:1, :1].copy()
        return dataclasses.replace(frame, rgb=rgb)

    def _row(self, judgement: Judgement) -> dict[str, Any]:
        card = self._detector.card
        row = {
            **judgement.row(),
            "category": card.identity.category,
            "weights": card.weights_sha256[:12],
            "thumbnail": None,
        }
        shown = judgement.verdict in (Verdict.NG, Verdict.UNSURE) and self._job.thumbnails
        if shown and judgement.frame is not None and judgement.result is not None:
            with suppress(PictureError):  # then there is none; it costs no row
                row["thumbnail"] = thumbnail(judgement.frame.rgb, judgement.result)
        return row
