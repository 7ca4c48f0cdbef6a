"""A run folder, runs/<category>/<number>: everything that one training made, and nothing half written.

config.json      every value of the configuration
metrics.jsonl    one line an epoch
checkpoint.safetensors   where training stands, for --resume; removed when it is complete
model.safetensors        the detector: weights, feature statistics, calibration
calibration.json         the scores that the threshold was found from, by picture, and those of synthetic defects
card.json        the inspection card; it is there when the run is complete
metrics.json     the evaluation, if made
report.html      all of it as a page: of the training, then of the evaluation
tracking.json    where the run is in MLflow, if it is tracked
export/          artefacts, if made
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtad.config import Config, ConfigError, from_dict
from vtad.older_runs import config_of_today
from vtad_runtime.contract.card import Card, read_card
from vtad_runtime.contract.disk import files
from vtad_runtime.contract.disk.lock import Lock, Locked
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full, one_line
from vtad_runtime.contract.typed_json import WrongJson, parsed

OTHER_OUT = "choose another by --out"


class RunError(VtadError):
    """A run folder that is absent, incomplete or not writable. The message is one line."""


class WriteError(RunError):
    """A file of a run could not be written, for want of space or permission. The message is one line."""

    exit_code = NOT_WRITTEN


@dataclass(frozen=True)
class Run:
    """A run folder on disk."""

    path: Path

    @property
    def weights(self) -> Path:
        """The detector's tensors."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished training stands."""
        return self.path / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        """One line an epoch."""
        return self.path / "metrics.jsonl"

    def epochs(self) -> list[dict[str, Any]]:
        """The rows of `metrics`, one an epoch; without those that a power cut tore or that are still being written."""
        try:
            lines = self.metrics.read_bytes().splitlines()
        except OSError:  # none: the minutes ended within an epoch
            return []
        rows = []
        for line in lines:
            with contextlib.suppress(WrongJson):
                rows.append(parsed(line))
        return [row for row in rows if isinstance(row, dict)]

    @property
    def complete(self) -> bool:
        """Whether training and calibration ended."""
        return (self.path / "card.json").is_file()

    @property
    def tracked(self) -> bool:
        """Whether the run is in MLflow."""
        return (self.path / "tracking.json").is_file()

    def config(self) -> Config:
        """The configuration. Raises RunError."""
        where = self.path / "config.json"
        try:
            values = parsed(where.read_bytes())
            return from_dict(config_of_today(values) if isinstance(values, dict) else values)
        except (OSError, WrongJson, ConfigError) as e:
            raise RunError(
                f"{where}: expected the configuration of a run, got another file ({one_line(e)}); was it made by another "
                "version of vtad?"
            ) from e

    def moved_to(self, config: Config) -> None:
        """Replace the configuration by one that says where its images are now. Raises WriteError."""
        write_text(self.path / "config.json", _config_text(config))

    def card(self) -> Card:
        """The inspection card. Raises RunError when training did not end, CardError when it is damaged."""
        if not self.complete:
            raise RunError(
                f"{self.path}: this run is not complete: continue it by vtad-train --resume --run {shlex.quote(str(self.path))}"
            )
        return read_card(self.path / "card.json")

    def write_card(self, card: Card) -> None:
        """Replace the card."""
        write_text(self.path / "card.json", card.to_json() + "\n")

    def remove_checkpoint(self) -> None:
        """When all else is on the disk: a power cut must not take both. Raises WriteError."""
        try:
            for path in (*self.path.iterdir(), self.path):
                files.sync(path)
            self.checkpoint.unlink(missing_ok=True)
        except OSError as e:
            raise not_written(self.path, e) from e


def require_unfinished(run: Run) -> None:
    """Raise RunError where a run needs no training."""
    if run.complete:
        raise RunError(f"{run.path}: this run is complete: train a new one without --resume")


@contextlib.contextmanager
def held(run: Run) -> Iterator[None]:
    """No other process trains this run inside the block. Raises RunError: one does, or has done it meanwhile."""
    lock = None
    try:
        lock = Lock(run.path)
    except Locked as e:
        raise RunError(f"{run.path}: expected a run that nobody trains, got one that another process trains now") from e
    except OSError:  # a file system without locks
        pass
    try:
        require_unfinished(run)
        yield
    finally:
        if lock is not None:
            lock.close()


def create_run(config: Config, folder: Path | None = None) -> Run:
    """A new folder with the configuration in it: this one, or the next number under <out>/<category>.

    Raises RunError, WriteError.
    """
    parent = folder.parent if folder is not None else Path(config.out) / config.category
    try:
        parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(p.name) for p in parent.iterdir() if p.name.isdigit()]
        for number in numbers:
            files.sweep(parent / f"{number:04d}")
            files.sweep(parent / f"{number:04d}" / "export")
        if folder is None:
            path = _next(parent, max(numbers, default=0) + 1)
        else:
            path = folder
            path.mkdir()
    except OSError as e:
        raise _no_folder(folder or parent, e) from e
    try:
        write_text(path / "config.json", _config_text(config))
    except WriteError:
        path.rmdir()
        raise
    return Run(path)


def _next(parent: Path, number: int) -> Path:
    """A new folder with the first free number from this one on. Raises OSError."""
    while True:
        path = parent / f"{number:04d}"
        try:
            path.mkdir()
            return path
        except FileExistsError:  # another training was faster
            number += 1


def _config_text(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def make_folder(path: Path) -> None:
    """Make a folder for artefacts, if it is not there. Raises RunError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _no_folder(path, e) from e


def require_writable(path: Path, remedy: str = OTHER_OUT) -> None:
    """Before work that takes long: raise RunError where a folder cannot be written to, or made. Nothing stays there."""
    try:
        files.try_writing(path)
    except OSError as e:
        raise _no_folder(path, e, remedy) from e


def _no_folder(path: Path, error: OSError, remedy: str = OTHER_OUT) -> RunError:
    said = f"{path}: expected a folder to write to, got {error.strerror or error}: {remedy}"
    return RunError(said, NOT_WRITTEN if disk_full(error) else USAGE)


def open_run(path: Path) -> Run:
    """The run in a folder. Raises RunError when there is none."""
    if not (path / "config.json").is_file():
        raise RunError(f"{path}: expected a run folder (with config.json), got none: vtad-train makes one under runs/")
    return Run(path)


def newest_run(out: Path, category: str | None = None, complete: bool = True) -> Run:
    """The run trained last under a folder of runs; of those that are not complete, one with a checkpoint if there is any.

    Raises RunError when there is none.
    """
    # Not by a glob with the category in it: a folder may be called lot[12].
    runs = (Run(p.parent) for p in out.glob("*/*/config.json") if category in (None, p.parent.parent.name))
    found = [run.path for run in runs if run.complete == complete]
    if not found:
        kind = "complete run" if complete else "run to continue"
        of = f" of category {category}" if category else ""
        raise RunError(f"{out}: found no {kind}{of}: vtad-train makes one")
    # Not the card's time: an evaluation writes the card anew.
    trained = {p: (p / "model.safetensors" if complete else p / "config.json") for p in found}

    def rank(path: Path) -> tuple[bool, int, str]:
        goes_on = not complete and Run(path).checkpoint.is_file()
        return goes_on, trained[path].stat().st_mtime_ns if trained[path].exists() else 0, path.name

    return Run(max(found, key=rank))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, and goes when not.

    Raises WriteError for an OSError inside the block.
    """
    try:
        with files.replacing(path) as beside:
            yield beside
    except OSError as e:
        raise not_written(path, e) from e


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder."""
    try:
        with files.replacing_folder(path) as beside:
            yield beside
    except OSError as e:
        raise not_written(path, e) from e


def write_text(path: Path, text: str) -> None:
    """Replace a file whole."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a JSON Lines file, whole or not at all. Raises WriteError."""
    try:
        with contextlib.closing(files.Lines(path, new=False)) as lines:
            lines.write(json.dumps(row) + "\n")
    except OSError as e:
        raise not_written(path, e) from e


def not_written(path: Path, error: OSError) -> WriteError:
    """The error for a file or folder that could not be written; a file elsewhere that was needed for it is named."""
    reason, other = error.strerror or error, error.filename2 or error.filename
    if isinstance(other, str | Path) and not Path(other).absolute().is_relative_to(path.parent.absolute()):
        return WriteError(
            f"{path}: could not be written: {other}: {reason}; make room there, or set TMPDIR to another folder"
        )
    return WriteError(f"{path}: could not be written: {reason}; make room, or choose another --out")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes. Raises OSError."""
    return files.sha256_of(path).hex()
