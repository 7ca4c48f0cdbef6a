"""mlflow, imported when it is needed, and quiet: no telemetry, no lines of its own, seconds instead of minutes of waiting."""

from __future__ import annotations

import logging
import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import quote

from vtad.tracking.address import TrackingError, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What is set in the environment already stays, but for the first two: nobody but the store hears of a run.
NEVER = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
UNLESS_SET = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds that a server may say nothing; mlflow would wait 120,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # and try seven times, for minutes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # it would copy a project's files from the current folder into the model
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
}
LOGGERS = ("mlflow", "alembic", "sqlalchemy", "urllib3")


def prepare() -> None:
    """Import mlflow. Call it before a thread does: importing in two threads at once may fail.

    Raises TrackingError where it is not installed.
    """
    os.environ.update(NEVER)
    for name, value in UNLESS_SET.items():
        os.environ.setdefault(name, value)
    try:
        import_module("mlflow.tracking")
        import_module("mlflow.system_metrics.system_metrics_monitor")
        import_module("psutil")
    except ImportError as e:
        raise TrackingError(
            f"tracking needs {e.name or 'mlflow'}, which is not installed: pip install 'vtad[track]'"
        ) from e
    for name in LOGGERS:
        if (logger := logging.getLogger(name)).level in (logging.NOTSET, logging.INFO):
            logger.setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"mlflow|pydantic|sqlalchemy|alembic")


def client(address: str) -> MlflowClient:
    """A client of the store, for runs and for registered models. Raises TrackingError where mlflow is not installed."""
    prepare()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=address, registry_uri=address)


def experiment_in(store: MlflowClient, address: str, name: str) -> str:
    """The id of the experiment of that name, which is made if there is none. Raises TrackingError for a deleted one."""
    if found := store.get_experiment_by_name(name):
        if found.lifecycle_stage != "active":
            raise TrackingError(f"experiment {name!r} was deleted there: restore it, or name another by --experiment")
        return str(found.experiment_id)
    file = sqlite_file(address)
    beside = None if file is None else (file.parent / "mlartifacts" / quote(name, safe=" ")).as_uri()
    return str(store.create_experiment(name, artifact_location=beside))
