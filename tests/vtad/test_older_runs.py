"""A run that was trained before the names of today opens, judges and continues as it did."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_run import tiny

from vtad.config import Config, from_dict
from vtad.fitting.loop import Interrupted
from vtad.models.detector import Detector
from vtad.models.trained import load_detector
from vtad.older_runs import config_of_today, tensors_of_today
from vtad.run_folder import Run
from vtad.training import train

STORED = Path(__file__).parents[1] / "data" / "run_with_old_names"  # every scorer weighs something in it
OTHERS: dict[str, dict[str, Any]] = json.loads((STORED / "other_presets.json").read_text())


@pytest.fixture
def old_run(tmp_path: Path) -> Run:
    """The stored run, unpacked."""
    path = Path(shutil.copytree(STORED, tmp_path / "runs" / "pill" / "0001"))
    (path / "model.safetensors").write_bytes(lzma.decompress((path / "model.safetensors.xz").read_bytes()))
    return Run(path)


def test_it_judges_as_it_did_when_it_was_trained(old_run: Run) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    with torch.inference_mode():
        score, heatmap, _, density_map, reconstruction = load_detector(old_run)(torch.from_numpy(image))
    expected = json.loads((STORED / "outputs.json").read_text())
    for name, found in (
        ("score", score),
        ("heatmap_mean", heatmap.mean((1, 2))),
        ("heatmap_max", heatmap.amax((1, 2))),
        ("density_map_mean", density_map.mean((1, 2))),
        ("reconstruction_mean", reconstruction.mean((1, 2, 3))),
    ):
        assert found.tolist() == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize("preset", list(OTHERS))
def test_every_tensor_of_the_other_backbones_has_its_name_of_today(preset: str) -> None:
    config = from_dict(config_of_today(OTHERS[preset]["config"]))
    before = {name: name for name in OTHERS[preset]["tensors"]}
    assert set(tensors_of_today(before)) == set(Detector(config).state_dict())
    assert config.bits == 16  # what every picture of 16 bits had then


def test_what_has_the_names_of_today_stays_as_it_is(trained: Run) -> None:
    tensors = load_file(trained.weights)
    assert set(tensors_of_today(tensors)) == set(tensors)
    values = json.loads((trained.path / "config.json").read_text())
    assert config_of_today(values) == values


@pytest.mark.slow
def test_a_training_stopped_under_the_old_names_continues_to_the_same_weights(
    old_run: Run, pills: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"shift": 0.06, "picture_directions": 0, "query_key_norm": False}  # as they were for all
    config = tiny(data=str(pills), out=str(tmp_path / "new"), **changes)
    unbroken = train(config)
    stopped = stopped_at_once(config)
    under_old_names(stopped, old_run)
    assert "teacher" in json.loads((stopped.path / "config.json").read_text())
    train(config, resume=stopped)
    first, second = load_file(unbroken.weights), load_file(stopped.weights)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def stopped_at_once(config: Config) -> Run:
    stop: Callable[[], bool] = lambda: True  # noqa: E731
    with pytest.raises(Interrupted) as caught:
        train(config, stop=stop)
    return caught.value.run


def under_old_names(run: Run, old: Run) -> None:
    """Rewrite a stopped run's files as they were when `old` was trained."""
    before = tensors_of_today({name: name for name in load_file(old.weights)})
    with safe_open(run.checkpoint, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict

    def old_name(name: str) -> str:
        kind, _, rest = name.partition(".")
        if kind == "best":
            return "best." + before[f"model.{rest}"].removeprefix("model.")
        return f"model.{before[rest]}" if kind == "model" else name

    save_file({old_name(name): value for name, value in tensors.items()}, run.checkpoint, metadata)
    stored, later = json.loads((STORED / "config.json").read_text()), config_of_today({}).keys()
    fields = {now: name for name in stored for now in config_of_today({name: 0}).keys() - later}
    values = json.loads((run.path / "config.json").read_text())
    kept = {fields[name]: value for name, value in values.items() if name in fields}
    (run.path / "config.json").write_text(json.dumps(kept))
