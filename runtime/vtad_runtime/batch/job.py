"""What a results folder of vtad-score is of: score.json, written once, and the list of its pictures, cut into partitions.

results/score.json               model, rules, source, and the digest of the list
results/listing.parquet          the name of each picture; one row group is one partition
results/rows/part-00001.parquet  the rows of the first partition

Whoever comes later, another shard or the same command again, works by what is stored and refuses to mix in anything else.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vtad_runtime.batch.source import PictureSource
from vtad_runtime.contract.disk.files import replacing, write_whole
from vtad_runtime.contract.disk.lock import Lock, Locked
from vtad_runtime.contract.errors import NOT_JUDGED, NOT_WRITTEN, USAGE, VtadError, disk_full, one_line
from vtad_runtime.contract.image import SUFFIXES
from vtad_runtime.contract.json_values import iso_utc
from vtad_runtime.contract.log import note, warning
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed
from vtad_runtime.engine.integrity import contents

JOB_FILE, LISTING_FILE, ROWS_FOLDER, LOCK_FILE = "score.json", "listing.parquet", "rows", ".vtad-score.lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems of clusters may say
POLL_S = 0.2
CHANGES = {  # fields that a command may name, by its options, and that must then be as they are stored
    "source": "SOURCE",
    "model_sha256": "--model",
    "engine": "--engine",
    "review": "--review",
    "thumbnails": "--thumbnails",
    "partition": "--partition",
}


class JobError(VtadError):
    """A results folder that is of something else, damaged, or cannot be written. One line."""


@dataclass(frozen=True)
class Job:
    """The whole of score.json; docs/results.md documents the fields."""

    source: str  # an absolute path, or an address without user and password
    pictures: int
    partition: int  # pictures in each; the last one may have fewer
    listed_at: str  # ISO 8601, UTC
    listing_sha256: str
    model: str  # where its file was
    model_sha256: str  # of its card and of all else in it
    category: str
    created: str
    threshold: float
    weights_sha256: str
    engine: str  # what runs the model
    review: float  # the share that gave `unsure_from`
    unsure_from: float | None  # score
    thumbnails: bool

    @property
    def partitions(self) -> int:
        """How many there are, numbered from 1."""
        return -(-self.pictures // self.partition)

    def size(self, number: int) -> int:
        """How many pictures a partition has."""
        return min(self.partition, self.pictures - (number - 1) * self.partition)

    @property
    def digest(self) -> str:
        """What each file of rows carries, so that none of another job is taken for one of this."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Partition:
    """Pictures that are judged and written together."""

    number: int  # from 1
    first: int  # number of its first picture, from 1
    names: tuple[str, ...]  # below the source


class Listing:
    """The stored list. One process may have several."""

    def __init__(self, folder: Path, job: Job) -> None:
        """Open that of a results folder. Raises JobError where it is not the one that belongs to the job."""
        self._path, self._job = folder / LISTING_FILE, job
        try:
            with self._path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != job.listing_sha256:
                raise JobError(
                    f"{self._path}: expected the list of pictures that {JOB_FILE} names, got another; {ANOTHER}"
                )
            self._file = pq.ParquetFile(self._path)
        except (OSError, pa.ArrowException) as e:
            raise JobError(f"{self._path}: expected the list of pictures, got {one_line(e)}; {ANOTHER}") from e

    def __getitem__(self, number: int) -> Partition:
        """A partition by its number. Raises JobError where the disk or its share fails."""
        try:
            names = self._file.read_row_group(number - 1)["name"].to_pylist()
        except (OSError, pa.ArrowException) as e:
            said = f"{self._path}: expected the list of pictures, got {one_line(e)}; run the same command again to continue"
            raise JobError(said, NOT_JUDGED) from e
        return Partition(number, (number - 1) * self._job.partition + 1, tuple(os.fsdecode(name) for name in names))


Describe = Callable[[int, int, str, str], Job]  # of pictures, pictures in a partition, the moment, the list's digest
ANOTHER = "choose another folder by --out"


def model_digest(model: Path) -> str:
    """Of the card and of all else in a model: another threshold is another model. Raises VtadError."""
    found = contents(model)
    return hashlib.sha256(json.dumps([found.card, sorted(found.files.items())]).encode()).hexdigest()


def part_file(folder: Path, number: int) -> Path:
    """Where the rows of a partition are written."""
    return folder / ROWS_FOLDER / f"part-{number:05d}.parquet"


def stored(folder: Path) -> Job | None:
    """The job of a results folder; None where there is none yet. Raises JobError."""
    path = folder / JOB_FILE
    try:
        return typed(Job, parsed(path.read_bytes()), "job")
    except FileNotFoundError:
        return None
    except OSError as e:
        raise JobError(f"{path}: expected a readable file, got {one_line(e)}; {ANOTHER}") from e
    except WrongJson as e:
        raise JobError(f"{path}: expected what vtad-score writes, got a damaged file ({e}); {ANOTHER}") from e


def check_same(folder: Path, job: Job, **asked: object) -> None:
    """Raise JobError where what a command names is not what is stored; None: it names nothing."""
    for field, option in CHANGES.items():
        want, has = asked.get(field), getattr(job, field)
        if want is not None and want != has:
            got = "another" if field == "model_sha256" else want
            has = f"the model of {job.created} ({job.model})" if field == "model_sha256" else has
            raise JobError(f"{option}: expected what {folder / JOB_FILE} says, {has}, got {got}; {ANOTHER}")


def listed(folder: Path, source: PictureSource, describe: Describe, partition: Callable[[int], int]) -> Job:
    """The stored job; or list the pictures and store it, while other processes wait. Raises VtadError.

    `partition`: how many pictures each has, of so many.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            return stored(folder) or _listed(folder, source, describe, partition)
    except OSError as e:
        got = "a file" if folder.is_file() else one_line(e)
        raise JobError(
            f"{folder}: expected a folder to write results to, got {got}; {ANOTHER}",
            NOT_WRITTEN if disk_full(e) else USAGE,
        ) from e


def _listed(folder: Path, source: PictureSource, describe: Describe, partition: Callable[[int], int]) -> Job:
    moment = iso_utc(time.time())
    names = source.listed()
    if not names:
        raise JobError(f"{source.name}: expected pictures ({' '.join(sorted(SUFFIXES))}), got none")
    size = partition(len(names))
    with replacing(folder / LISTING_FILE) as beside:
        with pq.ParquetWriter(beside, pa.schema([("name", pa.binary())]), compression="zstd") as file:
            for start in range(0, len(names), size):
                part = [os.fsencode(name) for name in names[start : start + size]]
                file.write_table(pa.table({"name": pa.array(part, pa.binary())}))
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    job = describe(len(names), size, moment, digest)
    write_whole(folder / JOB_FILE, job.to_json().encode())
    return job


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process is in this block with the same folder; waits for it. Raises OSError.

    Where the file system has no locks, two that list at once may store two lists: the digest of the later one is not that of the
    earlier one's rows, and these are refused.
    """
    lock, said = None, False
    while lock is None:
        try:
            lock = Lock(folder / LOCK_FILE)
        except Locked:
            if not said:
                note(f"{folder}: another process lists the pictures; waiting for it")
            said = True
            time.sleep(POLL_S)
        except OSError as e:
            if e.errno not in NO_LOCKS:
                raise
            warning("no_locks", f"{folder}: cannot be locked; start one process first, and others when it judges")
            break
    try:
        yield
    finally:
        if lock is not None:
            lock.close()
