"""The real programs as processes: run to their end, killed at a chosen moment, or ended by SIGTERM."""

from __future__ import annotations

import atexit
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryFile

PROGRAMS = {
    "vtad-run": "vtad_runtime.commands.programs:run",
    "vtad-calibrate": "vtad_runtime.commands.programs:calibrate",
    "vtad-train": "vtad.commands.programs:train",
    "vtad-export": "vtad_export.commands.programs:export",
}
LONGEST_S = 180.0  # of any program here, on a busy machine
LOOK_S = 0.001  # between two looks at a folder in which a process writes
MOSTLY = 0.8  # of the time that a program usually runs: later it may have ended, and nothing is killed
KILLED = 128 + signal.SIGKILL  # as a shell says it


@dataclass(frozen=True)
class Moment:
    """When a process is killed: after a while, at the next sign of it, and a little later.

    No sign is waited for until it would usually end.
    """

    after_s: float
    sign: str  # "none"; "file": a new one where it writes; "part": one that is half written
    delay_s: float
    usual_s: float  # that it runs

    @staticmethod
    def drawn(rng: Random, usual_s: float) -> Moment:
        """Anywhere in a run that usually takes so long, oftener where it writes."""
        after_s, early = MOSTLY * usual_s * rng.random(), rng.random() < 0.5
        sign = rng.choice(("none", "file", "part", "part"))
        delay_s = {"none": 0.0, "file": usual_s / 2, "part": 0.02}[sign] * rng.random() ** 2
        return Moment(0.0 if early and sign != "none" else after_s, sign, delay_s, usual_s)


@dataclass(frozen=True)
class Ended:
    """A process that ended."""

    command: str
    exit_code: int  # KILLED where it was killed; what it had ended with before, if that came first
    output: str
    errors: str
    seconds: float


class Process:
    """A program that runs in `cwd`; with `largest` no file that it writes grows beyond so many bytes."""

    def __init__(self, program: str, *arguments: object, cwd: Path, largest: int | None = None) -> None:
        module, name = PROGRAMS[program].split(":")
        given = [str(a) for a in arguments]
        self._command, self._begun = " ".join([program, *given]), time.monotonic()
        self._output, self._errors = TemporaryFile(), TemporaryFile()  # noqa: SIM115 - `ended` closes them
        code = f"import sys; from {module} import {name}; sys.argv[0] = {program!r}; {name}()"
        if largest is not None:
            code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {_hard_limit()})); {code}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *given],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
        )
        atexit.register(self._process.kill)  # should chaos itself be stopped

    def until(self, there: Callable[[], bool], longest_s: float = LONGEST_S, look_s: float = 0.02) -> bool:
        """Wait until something is there; whether it came before the process ended and before that long."""
        while not there():
            if self._process.poll() is not None or time.monotonic() - self._begun > longest_s:
                return there()
            time.sleep(look_s)
        return True

    def kill(self, moment: Moment, where: Path) -> Ended:
        """Kill it at a moment of its writing below `where`, if it has not ended before."""
        self._ends_within(moment.after_s)
        before, ending = names_below(where), ".part" if moment.sign == "part" else ""
        if moment.sign != "none":
            seen = lambda: any(name.endswith(ending) for name in names_below(where) - before)  # noqa: E731
            self.until(seen, MOSTLY * moment.usual_s, LOOK_S)
        if not self._ends_within(moment.delay_s):
            self._process.kill()
        return self.ended()

    def _ends_within(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def stop(self) -> Ended:
        """End it by SIGTERM."""
        self._process.terminate()
        return self.ended()

    def ended(self) -> Ended:
        """Wait for its end. One that never ends is killed, which its exit code says."""
        try:
            code = self._process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        atexit.unregister(self._process.kill)
        seconds = time.monotonic() - self._begun
        texts = []
        for file in (self._output, self._errors):
            with file:
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        return Ended(self._command, code if code >= 0 else 128 - code, texts[0], texts[1], seconds)


def names_below(folder: Path) -> frozenset[str]:
    """Paths of all files below a folder, hidden ones too."""
    return frozenset(os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)


def _hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[1]
