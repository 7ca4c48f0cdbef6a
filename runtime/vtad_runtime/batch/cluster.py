"""Partitions on a Ray cluster: actors with one model each, and a process of ours that hands out the work.

Plain actors, not Ray Data: a partition is the unit that is judged, retried and written, so nothing needs to be grouped again; and
when a machine is lost, its partitions go to whichever actor is free, while Ray Data's would wait for their own actor to be placed
again. The process is there since Ray ends the process of a driver that has lost its cluster, and prints what it likes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2

from vtad_runtime.batch.job import Listing, Partition
from vtad_runtime.batch.scoring import Scored, Scorer, Setup
from vtad_runtime.batch.workers import POLL_S
from vtad_runtime.contract.errors import NOT_JUDGED, VtadError, one_line
from vtad_runtime.engine.callers import cores

ADDRESS = "RAY_ADDRESS"
MOST_LOSSES = 3  # of one partition: whatever ends its actor each time lies in it
CONNECT_S = 5.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning about the future
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # after which Ray ends a driver
}


class ClusterError(VtadError):
    """A cluster that cannot be reached or used. One line."""


class Actor:
    """One model on some machine of the cluster."""

    def __init__(self, setup: Setup, model: bytes) -> None:
        """Nothing is opened here: what fails in `ready` is said, what fails here loses the actor."""
        self._setup, self._model = setup, model

    def ready(self) -> str:
        """Open the model; the version of vtad. Raises VtadError."""
        cv2.setNumThreads(1)
        self._scorer = Scorer(dataclasses.replace(self._setup, model=self._model))
        return version("vtad")

    def score(self, partition: Partition) -> Scored | None:
        """Judge a partition. Raises VtadError."""
        return self._scorer(partition)


def check_address() -> None:
    """Raise ClusterError where RAY_ADDRESS names a cluster that does not answer: Ray itself takes a minute to say so."""
    address = os.environ.get(ADDRESS, "")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as e:
        raise ClusterError(
            f"{ADDRESS}={address}: expected a Ray cluster that answers, got {one_line(e)}; is it started?"
        ) from e


def judge_on_cluster(pipe: Connection, setup: Setup, folder: Path) -> None:
    """The target of a worker: take numbers of partitions, send what the actors give. Raises VtadError, EOFError at the end."""
    assert isinstance(setup.model, Path)
    listing, model = Listing(folder, setup.job), setup.model.read_bytes()
    with _silence(), _connected() as ray:
        _Pool(ray, setup, ray.put(model), pipe, listing).run()


class _Pool:
    """The actors, and which partition each has in hand."""

    def __init__(self, ray: Any, setup: Setup, model: Any, pipe: Connection, listing: Listing) -> None:
        self._ray, self._setup, self._model, self._pipe, self._listing = ray, setup, model, pipe, listing
        self._class = ray.remote(num_cpus=1)(Actor)
        self._at_work: dict[
            Any, tuple[Any, int | None]
        ] = {}  # by what is awaited: actor, partition (None: it opens the model)
        self._free: list[Any] = []
        self._left: deque[int] = deque()
        self._losses: Counter[int | None] = Counter()

    def run(self) -> None:
        slots = int(self._ray.cluster_resources().get("CPU", 0))
        if slots < 1:
            raise ClusterError("expected a Ray cluster with processors, got none")
        for _ in range(slots):
            self._add()
        self._pipe.send(2 * slots)  # one in hand, one that waits
        while True:
            while self._pipe.poll():
                self._left.append(self._pipe.recv())
            while self._left and self._free:
                self._give(self._free.pop())
            if not self._at_work:
                self._pipe.poll(POLL_S)
                continue
            for done in self._ray.wait(list(self._at_work), num_returns=1, timeout=POLL_S)[0]:
                self._take(done)

    def _add(self) -> None:
        actor = self._class.remote(self._setup, self._model)
        self._at_work[actor.ready.remote()] = actor, None

    def _give(self, actor: Any) -> None:
        number = self._left.popleft()
        self._at_work[actor.score.remote(self._listing[number])] = actor, number

    def _take(self, done: Any) -> None:
        actor, number = self._at_work.pop(done)
        try:
            result = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as e:
            raise _said(e.cause) from e
        except self._ray.exceptions.RayError as e:  # the actor is lost: with its machine, or by what it had in hand
            self._losses[number] += 1
            if number is None:
                if self._losses[None] > MOST_LOSSES + len(self._at_work):
                    raise ClusterError(f"expected workers on the Ray cluster, got {one_line(e)}", NOT_JUDGED) from e
            elif self._losses[number] > MOST_LOSSES:
                raise ClusterError(
                    f"partition {number}: expected a result, got {MOST_LOSSES + 1} workers lost with it ({one_line(e)})",
                    NOT_JUDGED,
                ) from e
            else:
                self._left.appendleft(number)
            self._add()
            return
        if number is None and result != version("vtad"):
            raise ClusterError(f"expected vtad {version('vtad')} on each machine of the cluster, got {result}")
        if number is not None:
            self._pipe.send(result)
        self._free.append(actor)


def _said(cause: Any) -> VtadError:
    """What a machine of the cluster raised, for people."""
    if isinstance(cause, VtadError):
        return cause
    return ClusterError(
        f"expected a result of the Ray cluster, got {type(cause).__name__}: {one_line(cause)}", NOT_JUDGED
    )


@contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS, else to one of this machine, else to one that is started for this run."""
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    import ray

    join = partial(ray.init, log_to_driver=False, logging_level=logging.CRITICAL)
    try:
        try:
            join(address="auto")
        except ConnectionError:
            if os.environ.get(ADDRESS):
                raise
            join(address="local", num_cpus=cores(), include_dashboard=False)
    except Exception as e:
        raise ClusterError(f"expected a Ray cluster to join, got {one_line(e)}") from e
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing that Ray prints reaches the console; what matters is said through the pipe."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        yield
