"""The command vtad-train: good images become a run folder."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from vtad.commands.curves import curves
from vtad.commands.library_errors import code_of, ends_all, library_errors_as_lines, line_of
from vtad.commands.options import ALL, CONTEXT, DATA_FOLDER, NAMES_HELP, require_category
from vtad.commands.tracking_options import Store, store_named, store_of, tracking, tracking_options
from vtad.commands.train_options import (
    CALIBRATION,
    DATA,
    NETWORK,
    OFTEN,
    TRAINING,
    config_options,
    option,
    preset_lines,
    preset_option,
)
from vtad.config import Config, ConfigError
from vtad.data.images import split_good
from vtad.data.layout import find_categories, find_category
from vtad.data.sizing import sizes_of
from vtad.preset_file import preset_of
from vtad.report.library import missing
from vtad.run_folder import Run
from vtad_runtime.contract.card import FULL_SCALE
from vtad_runtime.contract.command_line.command import no_traceback, say
from vtad_runtime.contract.command_line.sections import SectionCommand
from vtad_runtime.contract.command_line.stopping import stoppable
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.progress import Bar

if TYPE_CHECKING:
    from vtad.fitting.distributed import Processes
    from vtad.fitting.loop import Report

T = TypeVar("T")

_CODES = """\b
Exit codes:
  0    trained, calibrated and saved
  1    the training diverged, or another of its processes ended
  2    usage: bad arguments, missing or unreadable images, too few of them, too little memory,
       no usable pretrained weights, an output folder that cannot be made
  4    a file could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; continue by vtad-train --resume
  Of several categories one that fails keeps no other from its training; the
  exit code is that of the first that failed.
"""


_EXAMPLES = """\b
Examples:
  vtad-train --category pill                     ./data/pill, ten minutes
  vtad-train --category all --minutes 30         every category below ./data
  vtad-train --category pill --preset scratch    without pretrained weights
  vtad-train --category pill --preset best.toml  what vtad-sweep found, or values of your own
  vtad-train --resume                            the run that was stopped last
  torchrun --standalone --nproc-per-node 2 -m vtad.commands.train --category pill
                                                 two processes
"""
FOLDER = click.Path(path_type=Path)


@click.command(cls=SectionCommand, context_settings=CONTEXT, epilog="\n\n".join((preset_lines(), _EXAMPLES, _CODES)))
@option(DATA, "--category", help=f"Folder of images below --data, or `{ALL}` for each one found. {NAMES_HELP}")
@option(DATA, "--data", "data_dir", **DATA_FOLDER)
@option(DATA, "--out", default="runs", show_default=True, help="Folder that gets <category>/<number>.")
@preset_option
@config_options(OFTEN)
@option(OFTEN, "--resume", is_flag=True, help="Continue a stopped run: the newest, or --run.")
@option(OFTEN, "--run", "run_path", type=FOLDER, help="The run folder to --resume.")
@tracking_options
@config_options(NETWORK, TRAINING, CALIBRATION)
@click.version_option(package_name="vtad", prog_name="vtad-train")
def train(
    category: str | None,
    data_dir: Path,
    out: str,
    preset_name: str,
    resume: bool,
    run_path: Path | None,
    track: str | None,
    experiment: str | None,
    **choices: Any,
) -> None:
    """Train a detector from good images only, calibrate it on held-out good images, and write a run folder."""
    changes = {k: v for k, v in choices.items() if v is not None}
    with no_traceback(), library_errors_as_lines(), _joined() as processes:
        store = _once(processes, lambda: store_named(track, experiment))
        if resume or run_path:
            if not resume:
                raise ConfigError("--run names the run to continue: give --resume with it")
            if changes or preset_name != "default":
                raise ConfigError(
                    "--resume continues with the run's own configuration: leave the other options out, except --data and --track"
                )
            elsewhere = click.get_current_context().get_parameter_source("data_dir") is ParameterSource.COMMANDLINE
            run, config, store = _once(processes, lambda: _unfinished(Path(out), run_path, category, store))
            _train(dataclasses.replace(config, data=str(data_dir)) if elsewhere else config, run, store, processes)
            return
        names = _once(processes, lambda: _categories(category, data_dir))
        configs = [preset_of(preset_name, name, data=str(data_dir), out=out, **changes) for name in names]
        if len(configs) > 1:
            _once(processes, lambda: _require_pictures(configs))
        if len(configs) == 1 or processes is not None:  # of several processes, one may fail alone
            for config in configs:
                _train(config, None, store, processes)
            return
        _train_each(configs, store)


@contextmanager
def _joined() -> Iterator[Processes | None]:
    """The processes that torchrun started, of which the first alone speaks; None where there is this one alone."""
    if os.environ.get("WORLD_SIZE", "1") == "1":  # torch is imported when all else is right
        yield None
        return
    from vtad.fitting.distributed import Ended, joined

    try:
        with joined() as processes:
            yield processes
    except Ended as e:
        sys.exit(e.exit_code)


def _once(processes: Processes | None, work: Callable[[], T]) -> T:
    return work() if processes is None else processes.of_first(work)


def _unfinished(
    out: Path, path: Path | None, category: str | None, store: Store | None
) -> tuple[Run, Config, Store | None]:
    """The run to continue, its configuration, and where it is tracked: in `store`, or where it was so far."""
    from vtad.training import unfinished_run

    run = unfinished_run(out, path, category)
    say(f"continuing {run.path}")
    return run, run.config(), store or store_of(run)


def _categories(category: str | None, data_dir: Path) -> tuple[str, ...]:
    found = find_categories(data_dir)
    if category == ALL and found:
        return found
    return (require_category(None if category == ALL else category, data_dir),)


def _require_pictures(configs: list[Config]) -> None:
    """Before the first of several trainings: every category has enough good pictures, as their headers say. Raises DataError."""
    for config in configs:
        files = find_category(Path(config.data), config.category).train_good
        split_good(files, config.val_split, config.seed)
        sizes_of(files)


def _train_each(configs: list[Config], store: Store | None) -> None:
    """One after the other. A category that fails keeps no other from its training; it is said when it fails, and at the end.

    Raises VtadError: some failed, with the exit code of the first; stopped, or a file that cannot be written, at once.
    """
    failed: dict[str, int] = {}
    for config in configs:
        try:
            with library_errors_as_lines():
                _train(config, None, store, None)
        except Exception as e:
            if ends_all(e):
                raise
            failed[config.category] = code_of(e)
            say(f"{config.category}: {line_of(e)}", err=True)
    if failed:
        names, (first, *_) = ", ".join(failed), failed.values()
        raise VtadError(f"{len(failed)} of {len(configs)} categories could not be trained, see above: {names}", first)


def _train(config: Config, resume: Run | None, store: Store | None, joined: Processes | None) -> None:
    from vtad.calibration.record import CalibrationRecord
    from vtad.fitting.device import keep_memory
    from vtad.fitting.distributed import ALONE, Ended
    from vtad.fitting.loop import Interrupted
    from vtad.inspection import advice
    from vtad.training import train as train_model

    processes = joined or ALONE
    keep_memory()
    with stoppable() as stop, _reporter() as report:
        try:
            with tracking(store if processes.first else None) as started:
                run = train_model(config, resume=resume, report=report, stop=stop, started=started, processes=processes)
                page = None if stop.signal or not processes.first else _page(run)
        except Interrupted as e:
            raise (VtadError if processes.first else Ended)(e, 128 + (stop.signal or SIGINT)) from e
    if not processes.first:
        return
    for row in curves(run):
        say(row)
    card = run.card()
    say(f"{run.path}: threshold {card.calibration.threshold:.3f}, {card.calibration.chosen}")
    for one in record.lines(card.calibration) if (record := CalibrationRecord.read(run)) else []:
        say(one)
    if card.input.full_scale != FULL_SCALE:
        say(f"note: in pictures of 16 bits {card.input.full_scale} is white (--bits {run.config().bits})")
    if line := advice(card):
        say(f"note: {line}")
    if page:
        say(page)
    if stop.signal is not None:  # it came during calibration
        raise VtadError(f"stopped; {run.path} is complete", 128 + stop.signal)


def _page(run: Run) -> str:
    """Write report.html; where it is, or why there is none."""
    if without := missing():
        return without
    from vtad.report.trained import report_training

    with Bar("report"):
        return f"report: {report_training(run)}"


@contextmanager
def _reporter() -> Iterator[Callable[[Report], None]]:
    """A bar that moves, and a line for what lasts; on a terminal that is the text of the bar."""
    terminal = sys.stderr.isatty()
    bar = Bar("training", 1.0)
    with ExitStack() as begun:

        def report(report: Report) -> None:
            known = bar.done
            bar.to(report.fraction, report.text if report.lasting else bar.text)
            if not known and bar.done:  # the first step is done, or the first of a training that goes on
                begun.enter_context(bar)
            if report.lasting and not terminal:
                say(f"{report.fraction:4.0%}  {report.text}")

        yield report


if __name__ == "__main__":  # torchrun -m vtad.commands.train
    from vtad.commands import programs

    programs.train()
