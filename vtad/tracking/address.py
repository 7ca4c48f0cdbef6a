"""Addresses of MLflow stores: which are understood, which one is meant, and how one is kept without its login."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from vtad_runtime.contract.credentials import LOGIN, login_hint, without_credentials
from vtad_runtime.contract.errors import VtadError

VARIABLE = "MLFLOW_TRACKING_URI"
DEFAULT = "sqlite:///mlflow.db"
SQLITE = "sqlite:///"
SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")  # each also with a driver, as postgresql+psycopg
EXPECTED = "http://HOST:PORT, sqlite:///FILE.db, or postgresql://HOST/DATABASE"


class TrackingError(VtadError):
    """A store that is not understood, not installed or not reachable. The message is one line, without passwords."""


def store_address(given: str | None = None) -> str:
    """The address of a store, an SQLite file with its whole path. None or "": $MLFLOW_TRACKING_URI, else ./mlflow.db.

    Raises TrackingError: no address of a store. Asks nobody.
    """
    source = "--track" if given else VARIABLE
    address = given or os.environ.get(VARIABLE) or DEFAULT
    scheme = address.partition("://")[0].lower()
    wrong = TrackingError(
        f"{source} {without_credentials(address)}: expected the address of an MLflow store, {EXPECTED}{login_hint(address)}"
    )
    try:
        parts = urlsplit(address)
        known = scheme in SERVERS or scheme.partition("+")[0] in DATABASES
        if known and parts.hostname and (parts.port is None or parts.port > 0):
            return address.rstrip("/")
    except ValueError as e:  # a port that is no number
        raise wrong from e
    if not address.startswith(SQLITE) or not (name := address.removeprefix(SQLITE).partition("?")[0]):
        raise wrong
    file = Path(name).absolute()
    if not file.parent.is_dir():
        raise TrackingError(f"{source} {address}: expected a file in a folder that is there, got none: {file.parent}")
    return SQLITE + str(file) + address.removeprefix(SQLITE)[len(name) :]


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite store; None of any other."""
    return Path(address.removeprefix(SQLITE).partition("?")[0]) if address.startswith(SQLITE) else None


def without_login(address: str) -> str:
    """The address as it is kept on disk: no user, no password."""
    return LOGIN.sub(r"\1", address, count=1)


def with_login(kept: str) -> str:
    """An address that was kept, with the login that $MLFLOW_TRACKING_URI has for it, if it has one."""
    known = os.environ.get(VARIABLE, "").rstrip("/")
    return known if known and without_login(known) == kept else kept


def page(address: str, experiment_id: str, run_id: str) -> str:
    """Where a person finds a run: its page on a server; of a file or database, the address and the run's id."""
    shown = re.sub(r"\*\*\*@", "", without_credentials(address))
    if shown.split(":")[0] in SERVERS:
        return f"{shown}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{shown}, run {run_id}"
