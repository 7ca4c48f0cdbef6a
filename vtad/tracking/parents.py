"""MLflow runs that hold others: one for a search, the trainings in it are its children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from vtad.tracking.address import TrackingError
from vtad.tracking.library import client, experiment_in
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.errors import why


def new_parent(address: str, experiment: str, name: str, tags: Mapping[str, str] | None = None) -> str:
    """Begin an MLflow run; its id is the `parent` of `tracked`. Raises TrackingError: the store does not answer."""
    with _one_line(address):
        store = client(address)
        made = store.create_run(experiment_in(store, address, experiment), tags=dict(tags or {}), run_name=name)
        return str(made.info.run_id)


def add_to_parent(
    address: str,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, object] | None = None,
    files: Sequence[Path] = (),
    status: str | None = None,
) -> None:
    """Numbers, parameters and files for an MLflow run; `status` (FINISHED, FAILED, KILLED) ends it. Raises TrackingError."""
    with _one_line(address):
        store = client(address)
        for key, value in (metrics or {}).items():
            store.log_metric(run_id, key, value)
        for key, given in (parameters or {}).items():
            store.log_param(run_id, key, given)
        for file in files:
            store.log_artifact(run_id, str(file))
        if status is not None:
            store.set_terminated(run_id, status)


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    try:
        yield
    except TrackingError:
        raise
    except Exception as e:  # mlflow, requests, sqlalchemy and drivers each have their own
        raise TrackingError(f"{without_credentials(address)}: {without_credentials(why(e))}") from e
