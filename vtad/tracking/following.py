"""A training, followed by a thread of its own: the training never waits for the store, but for a few seconds at its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol

from vtad.fitting.loop import Interrupted
from vtad.run_folder import Run
from vtad.tracking.address import sqlite_file
from vtad.tracking.library import prepare
from vtad.tracking.mirror import FAILED, FINISHED, KILLED, Mirror
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.errors import one_line, why
from vtad_runtime.contract.log import warning

LOOK_S = 2.0  # between two looks at metrics.jsonl
AGAIN_S = 30.0  # until a store that did not answer is asked again
END_S = 15.0  # that the end of a training waits for a server or database, at most
FILE_END_S = 120.0  # for a file, which cannot be away: the first tables of a new one take seconds of the processor


@contextmanager
def tracked(
    address: str,
    experiment: str | None = None,
    *,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Callable[[Run], None]]:
    """Inside the block, send the run folder that is given to what this yields, as it grows: `train(..., started=started)`.

    `address` as `store_address` gives it; `experiment` is the run's category unless named; `parent` is the id of an MLflow
    run that this one is part of. A store that does not answer is one warning, and `say` gets where the run is, if it got
    there. A run that is tracked already goes on in its MLflow run. Raises TrackingError where mlflow is not installed.
    """
    prepare()
    followers: list[_Follower] = []

    def started(run: Run) -> None:
        followers.append(_Follower(Mirror.new(run, address, experiment, parent, tags)))
        followers[-1].start()

    status = FINISHED
    try:
        yield started
    except (Interrupted, KeyboardInterrupt):
        status = KILLED
        raise
    except BaseException:
        status = FAILED
        raise
    finally:
        for follower in followers:
            follower.finish(status)
            if follower.mirror.page and not follower.behind:
                say(f"tracked: {follower.mirror.page}")


class _SystemMetrics(Protocol):
    def start(self) -> None: ...

    def finish(self) -> None: ...


class _Follower(threading.Thread):
    def __init__(self, mirror: Mirror) -> None:
        super().__init__(name="vtad-tracking", daemon=True)
        self.mirror = mirror
        self.behind = False  # the store does not have everything
        self._warned = False
        self._ended, self._status = threading.Event(), FINISHED
        self._system: _SystemMetrics | None = None

    def run(self) -> None:
        """Send what there is, until the end."""
        while True:
            last = self._ended.is_set()  # before looking: what comes later is for the next time
            try:
                self._send(last)
                self.behind = False
            except Exception as e:  # mlflow, requests, sqlalchemy and drivers each have their own
                self.behind = True
                self._warn(reason_of(e))
            if last:
                return
            if self.behind and self._system is not None:
                self._system.finish()
                self._system = None
            self._ended.wait(AGAIN_S if self.behind else LOOK_S)

    def finish(self, status: str) -> None:
        """The training has ended: send the rest, and wait for it, not for long."""
        limit_s = END_S if sqlite_file(self.mirror.address) is None else FILE_END_S
        self._status = status
        self._ended.set()
        self.join(limit_s)
        if self.is_alive():
            self.behind = True
            self._warn(f"it did not take everything within {limit_s:.0f} s")

    def _send(self, last: bool) -> None:
        if self._system is None:
            run_id = self.mirror.begin()
            self._system = _system_metrics(run_id, self.mirror.address)
        self.mirror.send_epochs()
        if last:
            self._system.finish()
            self.mirror.send_files()
            self.mirror.end(self._status)

    def _warn(self, reason: str) -> None:
        if self._warned:
            return
        self._warned = True
        shown = without_credentials(self.mirror.address)
        warning(
            "tracking",
            f"tracking: {shown}: {without_credentials(reason)}; the training goes on, metrics.jsonl has everything, and "
            "what is missing there is sent when the store is back, by vtad-eval at the latest",
            address=shown,
        )


def reason_of(error: Exception) -> str:
    """Why a store does not take something, in one line: where the network is to blame, what it said below mlflow's own error."""
    below: BaseException = error
    while (cause := below.__cause__ or below.__context__) is not None:
        below = cause
    return f"it does not answer ({one_line(below)})" if isinstance(below, OSError) else why(error)


def _system_metrics(run_id: str, address: str) -> _SystemMetrics:
    """Processor, memory, disk, network and GPU, by mlflow's own thread."""
    library = import_module("mlflow.system_metrics.system_metrics_monitor")
    monitor: _SystemMetrics = library.SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=address)
    monitor.start()
    return monitor
