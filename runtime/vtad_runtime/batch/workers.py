"""Processes that judge partitions: each has one model and is handed the next partition's number when it gives a result back.

They write no file: whoever gets the results does. So any of them may be killed at any moment, and its partition is dropped whole.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import Signals

import cv2

from vtad_runtime.batch.job import Listing
from vtad_runtime.batch.scoring import Scored, Scorer, Setup
from vtad_runtime.contract.errors import INTERNAL, NOT_JUDGED, VtadError, why

POLL_S = 0.2  # how soon a signal is answered
CLUSTER_END_S = 5.0  # for a process to leave its cluster, before it is killed
GONE_S = 5.0  # for a process whose pipe is closed to be gone


class WorkerError(VtadError):
    """A process that ended in the middle. One line."""

    exit_code = NOT_JUDGED


@dataclass(frozen=True)
class Failure:
    """What a process says before it ends: why."""

    text: str
    exit_code: int


@dataclass(frozen=True)
class Worker:
    """A process at the other end of a pipe. It sends how many partitions it takes at once, then Scored or a Failure."""

    process: BaseProcess
    pipe: Connection
    name: str  # in errors
    end_s: float  # how long it may take to end by itself


Target = Callable[[Connection, Setup, Path], None]


def here(folder: Path, setup: Setup, numbers: Iterable[int], stop: Callable[[], bool]) -> Iterator[Scored]:
    """Judge partitions in this process, until the last or `stop()`. Raises VtadError."""
    listing = Listing(folder, setup.job)
    with Scorer(setup) as scorer:
        for number in numbers:
            scored = None if stop() else scorer(listing[number], stop)
            if scored is None:
                return
            yield scored


def spread(workers: list[Worker], numbers: Iterable[int], stop: Callable[[], bool]) -> Iterator[Scored]:
    """Hand out partitions and take results, in the order in which they come, until the last or `stop()`; ends the workers.

    Raises VtadError: what a worker says, or that it ended.
    """
    left, pipes, at_work = deque(numbers), {worker.pipe: worker for worker in workers}, 0
    try:
        while (left or at_work) and not stop():
            for pipe in map(_connection, wait(list(pipes), POLL_S)):
                message = _message(pipes[pipe], stop)
                if message is None:
                    return
                if isinstance(message, Scored):
                    at_work -= 1
                    yield message
                for _ in range(min(message if isinstance(message, int) else 1, len(left))):
                    with suppress(OSError):  # it ended, as its next message says
                        pipe.send(left.popleft())
                    at_work += 1
    finally:
        end(workers)


def local(folder: Path, setup: Setup, count: int) -> list[Worker]:
    """Start processes of this machine."""
    return [start(judge_here, setup, folder, f"worker {i + 1}") for i in range(count)]


def start(target: Target, setup: Setup, folder: Path, name: str, end_s: float = 0.0) -> Worker:
    """Start a process. Ctrl-C is for us alone."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=begin, args=(target, theirs, setup, folder), name=f"vtad-{name}", daemon=True)
    with _held_back():
        process.start()
    theirs.close()
    return Worker(process, ours, name, end_s)


def end(workers: list[Worker]) -> None:
    """End all, whatever they do: a closed pipe is the sign to, and then they are killed."""
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        worker.process.join(worker.end_s)
        worker.process.kill()
        worker.process.join()


def begin(target: Target, pipe: Connection, setup: Setup, folder: Path) -> None:
    """The life of a process: `target`, and what it raises as a Failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        target(pipe, setup, folder)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # nobody waits for a result
        return
    except VtadError as e:
        _tell(pipe, Failure(str(e), e.exit_code))
    except Exception as e:
        _tell(pipe, Failure(f"internal error: {why(e)}; please report it", INTERNAL))


def judge_here(pipe: Connection, setup: Setup, folder: Path) -> None:
    """Judge one partition after the other. Raises VtadError, EOFError at the end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler sends it to all; the one that writes decides
    cv2.setNumThreads(1)  # every core has a worker
    parent = os.getppid()
    listing = Listing(folder, setup.job)
    with Scorer(setup) as scorer:
        pipe.send(1)
        while True:
            pipe.send(scorer(listing[pipe.recv()], lambda: os.getppid() != parent))  # nobody waits for the rest then


def _message(worker: Worker, stop: Callable[[], bool]) -> int | Scored | None:
    """What a worker sends; None where it ended since all should. Raises VtadError."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(GONE_S)
        if stop():
            return None
        code = worker.process.exitcode
        how = Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        raise WorkerError(
            f"{worker.name}: expected a result, got that its process ended ({how}); partitions that are written stay, "
            "run the same command again to continue"
        ) from None
    if isinstance(message, Failure):
        raise VtadError(message.text, message.exit_code)
    assert isinstance(message, int | Scored)
    return message


def _tell(pipe: Connection, failure: Failure) -> None:
    with suppress(OSError):
        pipe.send(failure)


def _connection(ready: object) -> Connection:
    assert isinstance(ready, Connection)
    return ready


@contextmanager
def _held_back() -> Iterator[None]:
    """A process that is started inside the block does not hear Ctrl-C before it chooses to; we hear it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
