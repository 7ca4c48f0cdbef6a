"""Several workers on this machine: processes that take their jobs from the same folder."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from vtad_benchmark.jobs.plan import Plan
from vtad_benchmark.jobs.working import GOES_ON, Surroundings, work
from vtad_runtime.contract.command_line.command import say
from vtad_runtime.contract.command_line.stopping import stoppable, stopped
from vtad_runtime.contract.errors import INTERNAL, STOPPED, VtadError, why
from vtad_runtime.contract.progress import Bar

LOOK_S = 0.2  # between two looks at the workers


def work_here(plan: Plan, began: float, processes: int) -> None:
    """Work in this process, or in several. Raises VtadError: stopped, a full disk."""
    if processes == 1:
        from vtad.fitting.device import keep_memory

        keep_memory()
        work(plan, Surroundings(began, _say))
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]  # each its own: one that is killed blocks no other
    workers = [context.Process(target=_worker, args=(plan, began, threads, say_to)) for _, say_to in pipes]
    jobs = plan.jobs()
    with stoppable() as stop, Bar("jobs", len(jobs)) as bar:
        for worker, (_, say_to) in zip(workers, pipes, strict=True):
            worker.start()
            say_to.close()  # the worker has its own
        listening = [heard for heard, _ in pipes]
        asked = False
        while listening:
            listening = [heard for heard in listening if heard not in _said(wait(listening, LOOK_S))]
            bar.to(sum(plan.row(job).is_file() for job in jobs))
            if stop() and not asked:
                asked = True
                for worker in workers:
                    worker.terminate()  # each ends as by itself: at its next step, with a checkpoint
        for worker in workers:
            worker.join()
        if stop.signal is not None:
            raise stopped(stop, GOES_ON)
    _require_well(workers)


def _require_well(workers: Sequence[BaseProcess]) -> None:
    """Raise VtadError where a worker met an error of its own; what one that was killed left undone is said by what is missing."""
    for worker in workers:
        code = worker.exitcode or 0
        if code > 0:
            raise VtadError("a worker ended early, see above; the same command continues", code)
        if code < 0:
            _say(f"a worker was ended by signal {-code}; its job is free for others")


def _said(ready: Sequence[object]) -> list[object]:
    """Say what workers have to say; those that have ended are returned."""
    ended: list[object] = []
    for one in ready:
        assert isinstance(one, Connection)
        try:
            _say(one.recv())
        except (EOFError, OSError):
            ended.append(one)
    return ended


def _worker(plan: Plan, began: float, threads: int, lines: Connection) -> None:
    """What one process does; it says its lines to the one that started it, whose stderr they are for."""
    import cv2
    import torch

    from vtad.fitting.device import keep_memory

    def report(text: str) -> None:
        with suppress(OSError):  # that one is gone
            lines.send(text)

    keep_memory()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    parent = os.getppid()
    try:
        work(plan, Surroundings(began, report, orphaned=lambda: os.getppid() != parent))
    except VtadError as e:
        if e.exit_code < 128:
            report(f"Error: {e}")
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as e:
        report(f"Error: internal error: {why(e)}; please report it")
        sys.exit(INTERNAL)


def _say(text: str) -> None:
    say(text, err=True)
