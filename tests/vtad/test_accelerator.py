"""Training on a GPU, where there is one: every preset trains there, and what it made judges alike on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import tiny

from vtad.evaluation.evaluate import evaluate
from vtad.fitting.device import pick_device
from vtad.fitting.loop import Interrupted
from vtad.models.trained import load_detector
from vtad.training import train

DEVICE = pick_device("auto")
pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="no GPU on this machine")


@pytest.fixture
def train_on(pills: Path, tmp_path: Path) -> Callable[..., Any]:
    """train_on(preset, **changes) -> a complete run, trained on the GPU."""

    def begin(name: str, **changes: Any) -> Any:
        return train(tiny(name, data=str(pills), out=str(tmp_path / "runs"), device=DEVICE.type, **changes))

    return begin


@pytest.mark.parametrize("name", ["default", "scratch", "paper"])
def test_what_a_gpu_trained_judges_alike_on_the_cpu(name: str, train_on: Callable[..., Any]) -> None:
    """Exports and the runtime compute on the CPU: a threshold found elsewhere must hold there."""
    run = train_on(name, **({"symmetries": "auto"} if name == "default" else {}))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8))
    with torch.inference_mode():
        there = load_detector(run, DEVICE)(pixels.to(DEVICE))
        here = load_detector(run)(pixels)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=2e-3)


def test_evaluation_on_a_gpu_gives_the_figures_of_the_cpu(train_on: Callable[..., Any]) -> None:
    """`vtad-eval` takes the GPU where there is one."""
    run = train_on("scratch")
    there, here = (dataclasses.asdict(evaluate(run, device=device).scores.image) for device in (DEVICE.type, "cpu"))
    assert there == pytest.approx(here, abs=1e-6)


def test_a_training_on_a_gpu_stops_and_resumes(train_on: Callable[..., Any], pills: Path, tmp_path: Path) -> None:
    """The checkpoint's tensors go back to where they were."""
    asked: Iterator[bool] = iter([False, True])
    config = tiny("default", data=str(pills), out=str(tmp_path / "runs"), device=DEVICE.type)
    with pytest.raises(Interrupted) as stopped:
        train(config, stop=lambda: next(asked))
    assert train(config, resume=stopped.value.run).complete
