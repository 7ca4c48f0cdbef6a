"""Where training computes, and with whose memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

LOOP = """
import resource, sys
import numpy as np
from vtad.device import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
    assert keep_memory()  # once more does no harm
def step():
    return float((np.ones(4_000_000, np.float32) + 1)[-1])
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that ten steps of 32 MB get from the system, in a process of their own."""
    out = subprocess.run([sys.executable, "-c", LOOP, how], capture_output=True, text=True, check=True)
    return int(out.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_memory_that_a_step_frees_serves_the_next_one() -> None:
    assert faults("keep") * 10 < faults("free")
