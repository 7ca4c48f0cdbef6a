"""What a program takes, in a process of its own: time of the processor, so that other work counts little; its peak of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.table import NotMeasured

# Linux counts what the parent held when it started a process as that process's own peak, so a small one starts it.
WAITING = """
import json, os, subprocess, sys
if sys.argv[2] == "one core" and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
process = subprocess.Popen(json.loads(sys.argv[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
RUN = "from vtad_runtime.commands.programs import run; run()"  # vtad-run


@dataclass(frozen=True)
class Used:
    """By one process."""

    seconds: float  # of the processor
    peak_mb: float  # of the resident set


def used_by(arguments: Sequence[str], cwd: Path, *, one_core: bool = False) -> Used:
    """What Python takes for this code and its arguments. Raises NotMeasured: it failed.

    `one_core`: it is held to one where the system can, for threads that wait for each other take up to three times as much on
    several cores with other work beside.
    """
    command = json.dumps([sys.executable, "-c", *arguments])
    done = subprocess.run(
        [sys.executable, "-S", "-c", WAITING, command, "one core" if one_core else ""],
        cwd=cwd,
        capture_output=True,
        check=True,
    )
    code, seconds, peak = json.loads(done.stdout)
    if code not in (0, 1):
        raise NotMeasured(f"a run ended with {code}; run it by hand: {' '.join(arguments[1:])}")
    return Used(seconds, peak / (2**20 if sys.platform == "darwin" else 2**10))
