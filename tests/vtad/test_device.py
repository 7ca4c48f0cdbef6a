"""Where training computes, and with whose memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from vtad.fitting.device import bfloat16_gains

CPU = torch.device("cpu")

LOOP = """
import resource, sys
import numpy as np
from vtad.fitting.device import keep_memory
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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be made to keep memory")
def test_memory_that_a_step_frees_serves_the_next_one() -> None:
    assert faults("keep") * 10 < faults("free")


class Clock:
    """Seconds that pass as the test says."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def work(self, in_bfloat16: float, in_float32: float) -> Callable[[bool], None]:
        """Work that takes so long."""

        def step(bfloat16: bool) -> None:
            self.seconds += in_bfloat16 if bfloat16 else in_float32

        return step


@pytest.mark.parametrize(
    ("in_bfloat16", "in_float32", "gains"), [(0.01, 0.03, True), (0.02, 0.02, False), (0.03, 0.01, False)]
)
def test_bfloat16_is_used_when_a_training_step_is_faster_in_it(
    in_bfloat16: float, in_float32: float, gains: bool
) -> None:
    clock = Clock()
    assert bfloat16_gains(CPU, clock.work(in_bfloat16, in_float32), clock.work(1e-3, 1e-3), clock) is gains


def test_other_work_on_the_machine_does_not_decide_whether_bfloat16_is_used() -> None:
    clock, disturbed = Clock(), iter([0.0, 0.1, 0.0, 0.1])

    def step(bfloat16: bool) -> None:
        clock.seconds += 0.01 + next(disturbed) if bfloat16 else 0.03

    assert bfloat16_gains(CPU, step, clock.work(1e-3, 1e-3), clock)


def test_a_cpu_whose_products_are_hopeless_in_bfloat16_is_spared_the_steps() -> None:
    clock = Clock()
    asked: list[bool] = []
    assert not bfloat16_gains(CPU, asked.append, clock.work(0.02, 1e-4), clock)
    assert not asked


def test_the_product_that_is_timed_runs_in_both() -> None:
    assert bfloat16_gains(CPU, lambda bfloat16: None) in (True, False)
