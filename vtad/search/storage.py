"""Where a study is kept: an SQLite file beside the runs, or any database that Optuna and SQLAlchemy can use.

Every trial has a heartbeat in the storage, written by a thread of its worker. Whoever asks for a trial looks for those whose
heart has stopped; the clock is the storage's, so machines may disagree about the time.
"""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from vtad_runtime.contract.credentials import login_hint, without_credentials
from vtad_runtime.contract.errors import VtadError, disk_full, one_line

HEARTBEAT_S = 10
GRACE_S = 60  # without a heartbeat, after which a trial counts as killed
CONNECT_S = 10  # that a server may take to answer
BUSY_S = 60  # that an SQLite file may be locked by another worker
TRIES = 5  # at making the tables: workers that start together may each try to
EXPECTED = "sqlite:///FILE.db or postgresql://USER:PASSWORD@HOST/DATABASE"


class StorageError(VtadError):
    """A storage that cannot be reached or used. The message is one line, without passwords."""


def sqlite_url(file: Path) -> str:
    """The address of an SQLite file."""
    return f"sqlite:///{file.absolute()}"


def open_storage(address: str) -> RDBStorage:
    """The storage at an address of SQLAlchemy's form; its tables are made if they are not there. Raises StorageError."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with storage_errors(address), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            url = make_url(address)
            url.get_dialect()
            settings = {"connect_args": _connect_args(url), "pool_pre_ping": True}
            engine = sqlalchemy.create_engine(address, **settings)
        except (ArgumentError, ValueError) as e:  # ValueError: a port that is no number
            raise StorageError(
                f"--storage {without_credentials(address)}: expected the address of a database, {EXPECTED}{login_hint(address)}"
            ) from e
        except ImportError as e:
            raise StorageError(
                f"--storage {without_credentials(address)}: expected its driver, the Python module {e.name}, got none: "
                "install it, or name another one, as in postgresql+psycopg://"
            ) from e
        with engine.connect():  # what cannot be reached says so here, once
            pass
        engine.dispose()
        for left in reversed(range(TRIES)):
            try:
                return RDBStorage(
                    address.replace("{", "{{").replace("}", "}}"),  # Optuna fills in what stands in braces
                    engine_kwargs=dict(settings),
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=GRACE_S,
                )
            except RuntimeError as e:  # the tables are of another version of Optuna
                raise StorageError(f"--storage {without_credentials(address)}: {one_line(e)}") from e
            except (IntegrityError, ProgrammingError, OperationalError, StorageInternalError):
                if not left:
                    raise
                time.sleep(random.uniform(0.05, 0.5))  # another worker makes the tables at this moment
        raise AssertionError


def _connect_args(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"timeout": BUSY_S}
    return {"connect_timeout": CONNECT_S} if url.get_driver_name().startswith("psycopg") else {}


@contextmanager
def storage_errors(address: str) -> Iterator[None]:
    """Turn what Optuna and SQLAlchemy raise inside the block into a StorageError; a full disk stays what it is."""
    try:
        yield
    except (SQLAlchemyError, OptunaError) as e:
        cause: BaseException = e
        while (further := getattr(cause, "orig", None) or cause.__cause__) is not None:
            cause = further
        if disk_full(cause):
            raise OSError(28, f"{without_credentials(address)}: {one_line(cause)}") from e
        raise StorageError(
            f"--storage {without_credentials(address)}: the storage cannot be used: {without_credentials(one_line(cause))}"
            f"{login_hint(address)}; the same command goes on when it is back"
        ) from e


@contextmanager
def beating(storage: RDBStorage, trial: optuna.Trial) -> Iterator[None]:
    """Write the heartbeat of a trial inside the block. Raises what the storage raises at the first one."""
    trial_id = trial._trial_id  # Optuna's own loop, which would do this, asserts that no other worker ends our trial
    storage.record_heartbeat(trial_id)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            with suppress(OptunaError, SQLAlchemyError):  # a storage that is away for a moment stops no training
                storage.record_heartbeat(trial_id)
        storage.remove_session()

    thread = threading.Thread(target=beat, name="vtad-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def fail_stale_trials(study: optuna.Study) -> None:
    """Trials whose heart has stopped have failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def next_trial(study: optuna.Study) -> optuna.Trial:
    """A trial that waits, or a new one. `beating` must follow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a heartbeat is for Study.optimize
        return study.ask()
