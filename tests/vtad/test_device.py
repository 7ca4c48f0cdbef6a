"""Where training computes, and with whose memory."""

from __future__ import annotations

import platform
import subprocess
import sys
import time

import pytest
import torch

from vtad.fitting import device
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
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_memory_that_a_step_frees_serves_the_next_one() -> None:
    assert faults("keep") * 10 < faults("free")


@pytest.fixture
def product_is_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU whose products take the same time in bfloat16, or nearly."""
    monkeypatch.setattr(device, "_product", lambda bfloat16: time.sleep(1e-3))


@pytest.mark.usefixtures("product_is_alike")
@pytest.mark.parametrize(
    ("in_bfloat16", "in_float32", "gains"), [(0.01, 0.03, True), (0.02, 0.02, False), (0.03, 0.01, False)]
)
def test_bfloat16_is_used_when_a_training_step_is_faster_in_it(
    in_bfloat16: float, in_float32: float, gains: bool
) -> None:
    assert bfloat16_gains(CPU, lambda bfloat16: time.sleep(in_bfloat16 if bfloat16 else in_float32)) is gains


@pytest.mark.usefixtures("product_is_alike")
def test_other_work_on_the_machine_does_not_decide_whether_bfloat16_is_used() -> None:
    disturbed = iter([0.0, 0.1, 0.0, 0.1])

    def step(bfloat16: bool) -> None:
        time.sleep(0.01 + next(disturbed) if bfloat16 else 0.03)

    assert bfloat16_gains(CPU, step)


def test_a_cpu_whose_products_are_hopeless_in_bfloat16_is_spared_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_product", lambda bfloat16: time.sleep(0.02 if bfloat16 else 1e-4))
    asked: list[bool] = []
    assert not bfloat16_gains(CPU, asked.append)
    assert not asked
