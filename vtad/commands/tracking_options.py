"""--track and --experiment, and what the commands of a tracked run say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from vtad.commands.options import F
from vtad.run_folder import Run
from vtad.tracking.address import TrackingError, store_address, with_login
from vtad.tracking.record import Tracked
from vtad_runtime.contract.command_line.command import say
from vtad_runtime.contract.command_line.sections import SectionOption
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.errors import VtadError, why
from vtad_runtime.contract.log import warning

SECTION = "Tracking"
TRACK_HELP = (
    "Send parameters, metrics, report and card to an MLflow store: http://HOST:PORT, sqlite:///FILE.db, or a database.  "
    "[without a value: $MLFLOW_TRACKING_URI, or ./mlflow.db]"
)


@dataclass(frozen=True)
class Store:
    """Where a training is to be tracked."""

    address: str
    experiment: str | None  # None: the category


def tracking_options(command: F) -> F:
    """--track [URI] and --experiment."""
    for flag, settings in (
        ("--experiment", {"help": "MLflow experiment of the run.  [default: the category]"}),
        ("--track", {"metavar": "[URI]", "is_flag": False, "flag_value": "", "help": TRACK_HELP}),
    ):
        command = click.option(flag, cls=SectionOption, section=SECTION, **settings)(command)
    return command


def store_named(track: str | None, experiment: str | None) -> Store | None:
    """The store of --track, None without it. Raises TrackingError: no address of a store, or mlflow is not installed."""
    if track is None:
        if experiment is not None:
            raise VtadError("--experiment names the MLflow experiment of --track: give --track too")
        return None
    from vtad.tracking.library import prepare

    address = store_address(track)
    prepare()
    return Store(address, experiment)


def store_of(run: Run) -> Store | None:
    """The store in which a run is tracked already; None, with a warning, where mlflow is not installed. Raises RunError."""
    kept = Tracked.read(run)
    if kept is None:
        return None
    from vtad.tracking.library import prepare

    try:
        prepare()
    except TrackingError as e:
        not_sent(kept.address, e)
        return None
    return Store(with_login(kept.address), kept.experiment)


@contextmanager
def tracking(store: Store | None) -> Iterator[Callable[[Run], None]]:
    """Inside the block, a training that is given `started` is tracked, if there is a store."""
    if store is None:
        yield lambda _: None
        return
    from vtad.tracking.following import tracked

    with tracked(store.address, store.experiment, say=say) as started:
        yield started


def add_to_tracked(run: Run) -> None:
    """What is new in a run folder, sent to its MLflow run if it has one; else, or for a store that is away, no error."""
    if (store := store_of(run)) is None:
        return
    from vtad.tracking.mirror import Mirror

    mirror = Mirror.new(run, store.address)
    try:
        mirror.send()
    except Exception as e:  # mlflow, requests, sqlalchemy and drivers each have their own
        not_sent(store.address, e)
        return
    say(f"tracked: {mirror.page}")


def not_sent(address: str, error: Exception) -> None:
    """Warn that a store did not take something."""
    shown = without_credentials(address)
    warning(
        "tracking", f"tracking: {shown}: {without_credentials(why(error))}; nothing is lost: the run folder has it all"
    )
