"""A search: one worker's part of a study, and what the study found."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from optuna.trial import FrozenTrial

from vtad.config import Config
from vtad.data.bit_depth import bit_depth
from vtad.data.images import fingerprint
from vtad.data.layout import find_category
from vtad.data.sizing import with_size
from vtad.fitting.device import pick_device
from vtad.preset_file import changes_of, preset_text
from vtad.run_folder import make_folder, require_writable, write_text
from vtad.search.judge import Judge
from vtad.search.page import write_page
from vtad.search.space import DEFAULT, read_space
from vtad.search.storage import open_storage, sqlite_url, storage_errors
from vtad.search.study import Found, Settings, StudyError, found_in, join
from vtad.search.tracked import Tracker
from vtad.search.trial import Trainer
from vtad.search.worker import Say, Worker
from vtad.toml_file import toml_comment
from vtad.tracking.mirror import FINISHED, KILLED
from vtad_runtime.contract.progress import Bar

DRAWN_BY = ("jinja2", "matplotlib")
BEST, PAGE, DATABASE = "best.toml", "sweep.html", "sweep.db"  # in the study's folder


def sweep(
    config: Config,
    *,
    space: Path = DEFAULT,
    trials: int = 50,
    study: str | None = None,
    storage: str | None = None,
    track: tuple[str, str | None] | None = None,
    say: Say = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> Found:
    """Take trials of a study until `trials` of them have ended, by all its workers together, or `stop` says so.

    Every trial trains `config`, which says how long, with other values from `space`, a file; vtad.search.judge says what is
    compared. `study` is the category unless named. Its folder, <out>/<study>, gets a run folder for each trial by its number,
    best.toml for `vtad-train --preset`, and sweep.html. `storage` is an address of SQLAlchemy's form, unless it is to be the
    file sweep.db there. `track` is an address and an experiment for vtad.tracking.
    Raises DataError, ConfigError, TomlFileError, RunError, StorageError, StudyError, TrackingError or Interrupted, each with one
    line; ImportError where the extra `report` is not installed.
    """
    for library in DRAWN_BY:  # before the first trial, not after the last one
        import_module(library)
    start = dataclasses.replace(config, data=str(Path(config.data).absolute())).check()
    pick_device(start.device)
    files = find_category(Path(start.data), start.category)
    bits = bit_depth(files.train_good, start.bits).bits
    shared = dataclasses.replace(with_size(start, files.train_good), bits=bits)
    options = read_space(space, shared)
    name = study or start.category
    if Path(name).name != name or name.startswith("."):
        raise StudyError(f"--study: expected a name that a folder can have, got {name!r}")
    folder = Path(start.out) / name
    require_writable(folder)
    if storage is None:
        make_folder(folder)  # the database is to lie there
    address = storage or sqlite_url(folder / DATABASE)
    with storage_errors(address):
        opened = open_storage(address)
        make_folder(folder)
        joined = join(opened, name, Settings(options, shared, fingerprint(files.train_good)))
        tracker = Tracker.of(track, joined, start.category)
        trainer = Trainer(shared, options, Judge(files, options.largest(shared)), folder, tracker.trial)

        def ended(trial: FrozenTrial) -> None:
            tracker.judged(trainer.run_of(trial.number), trial)
            _write_best(folder, found_in(joined, trials), start)

        with tracker.study():
            Worker(joined, opened, trainer, trials, say, stop, ended).work()
        found = found_in(joined, trials)
        _write_best(folder, found, start)
        if found.best is not None:
            with Bar("drawing the report"):
                write_page(folder / PAGE, joined, found)
        made = [folder / BEST, folder / PAGE] if found.best is not None else []
        tracker.ended(found.best, made, KILLED if stop() and not found.standing.done else FINISHED)
    return found


def _write_best(folder: Path, found: Found, start: Config) -> None:
    """What `vtad-train --preset` takes, if a trial is complete. Raises WriteError."""
    if found.best is None:
        return
    file = folder / BEST
    lines = [
        f"Found by vtad-sweep: category {start.category}, trial {found.best.number} of {found.standing.wanted}, "
        f"quality on shifted synthetic defects {found.best.value:.4f}.",
        f"vtad-train --category {shlex.quote(start.category)} --preset {shlex.quote(str(file))}",
    ]
    beside = {name: value for name, value in changes_of(start).items() if name not in found.best.params}
    text = preset_text(start.preset, {**beside, **found.best.params})
    write_text(file, "\n".join([*map(toml_comment, lines), text]))
