"""The configuration: its rules, its presets and its way through JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vtad.config import PRESETS, Config, ConfigError, from_dict, preset
from vtad.run_folder import create_run, replacing


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_height": 200}, "image_height 200 is not a multiple of patch_size 16: use 192"),
        ({"image_width": 250}, "image_width 250 is not a multiple of patch_size 16: use 256"),
        ({"image_height": 8, "patch_size": 8}, "image_height: expected a multiple of 16, got 8: use 16"),
        ({"patch_size": 12, "image_height": 48, "image_width": 48}, "patch_size: expected a multiple of 8 pixels"),
        ({"embed_dim": 100, "heads": 8}, "embed_dim 100 is not a multiple of heads 8"),
        ({"heads": 0}, "heads: expected 1 or more, got 0"),
        ({"depth": 0}, "depth: expected 1 or more, got 0"),
        ({"mixture_size": 0}, "mixture_size: expected 1 or more"),
        ({"batch_size": -1}, "batch_size: expected 1 or more"),
        ({"patience": 0}, "patience: expected 1 or more"),
        ({"registers": -1}, "expected 0 or more"),
        ({"val_split": 1.0}, "val_split: expected a share between 0 and 1"),
        ({"false_alarms": 0.0}, "false_alarms: expected a share between 0 and 1"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"seed": 10**20}, "seed: expected 0 or more, up to 18446744073709551615"),
        ({"learning_rate": 0.0}, "learning_rate: expected more than 0"),
        ({"minutes": float("nan")}, "minutes: expected a finite number, got nan"),
        ({"nll_weight": -1.0}, "weights of the loss: expected 0 or more"),
        ({"noise": 1.0}, "noise: expected 0 or more and below 1"),
        ({"minutes": None}, "minutes or epochs, got neither"),
        ({"minutes": 0.0}, "expected more than 0"),
        ({"epochs": 0}, "expected more than 0"),
        ({"category": "a/b"}, "expected the name of a folder"),
        ({"category": ".."}, "expected the name of a folder"),
        ({"category": ""}, "expected the name of a folder"),
    ],
)
def test_what_cannot_work_together_is_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        preset("default", **{"category": "pill", **changes})
    assert "\n" not in str(error.value)


def test_the_paper_needs_a_patch_that_deconvolutions_can_make() -> None:
    with pytest.raises(ConfigError, match="power of two, got 48"):
        preset("paper", "pill", patch_size=48, image_height=96, image_width=96)
    preset("paper", "pill", patch_size=4, image_height=20, image_width=36)


def test_the_defaults_are_the_preset_default() -> None:
    assert preset("default", "pill") == Config("pill").check()


def test_the_preset_paper_has_the_published_numbers() -> None:
    c = preset("paper", "pill")
    assert (c.image_height, c.image_width, c.patch_size) == (512, 512, 64)
    assert (c.embed_dim, c.depth, c.heads, c.mlp_dim, c.mixture_size) == (512, 6, 8, 1024, 150)
    assert (c.optimizer, c.learning_rate, c.weight_decay, c.batch_size, c.epochs) == ("adam", 1e-4, 1e-4, 8, 400)
    assert (c.mse_weight, c.ssim_weight, c.noise) == (5.0, 0.5, 0.2)
    assert (c.backbone, c.registers, c.minutes) == (False, 0, None)


def test_the_preset_scratch_needs_no_backbone() -> None:
    assert not preset("scratch", "pill").backbone
    assert preset("default", "pill").backbone


def test_given_minutes_replace_the_epochs_of_a_preset() -> None:
    assert preset("paper", "pill", minutes=3).epochs is None


def test_minutes_and_epochs_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="either minutes or epochs, got both"):
        preset("default", "pill", minutes=3.0, epochs=3)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_configuration_survives_json(name: Any) -> None:
    config = preset(name, "pill", seed=7)
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"embed_dim": "192"}, "embed_dim: expected int, got '192'"),
        ({"embed_dim": 192.0}, "embed_dim: expected int, got 192.0"),
        ({"backbone": 1}, "backbone: expected bool, got 1"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"noise": None}, "noise: expected float, got None"),
        ({"preset": "best"}, "preset: expected .*default.*, got 'best'"),
        ({"optimizer": ["adam"]}, "optimizer: expected"),
        ({"minutes": "8"}, r"minutes: expected float \| None, got '8'"),
        ({"depth": 0}, "depth: expected 1 or more"),
        ({"surprise": 1}, r"unknown fields \['surprise'\]"),
    ],
)
def test_json_that_is_no_configuration_is_refused_by_field(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        from_dict({**dataclasses.asdict(Config("pill")), **changes})
    assert "\n" not in str(error.value)


def test_json_without_a_field_or_of_another_kind_is_refused() -> None:
    values = dataclasses.asdict(Config("pill"))
    del values["heads"]
    with pytest.raises(ConfigError, match=r"missing fields \['heads'\]"):
        from_dict(values)
    others: list[Any] = [[], "pill", None]
    for other in others:
        with pytest.raises(ConfigError, match="a JSON object"):
            from_dict(other)


def test_folders_may_be_paths_and_are_kept_as_text() -> None:
    config = Config("pill", data=Path("my") / "data", out=Path("runs"))  # type: ignore[arg-type]
    assert (config.data, config.out) == (str(Path("my/data")), "runs")


def test_a_value_of_another_type_is_refused_in_python_too() -> None:
    with pytest.raises(ConfigError, match=r"embed_dim: expected int, got 16\.5"):
        preset("default", "pill", embed_dim=16.5)


def test_a_whole_number_in_json_will_do_for_a_share_or_a_rate() -> None:
    assert from_dict({**dataclasses.asdict(Config("pill")), "nll_weight": 1}).nll_weight == 1


def test_runs_that_begin_at_the_same_moment_get_a_folder_each(tmp_path: Path) -> None:
    config = Config(category="pill", out=str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        runs = [job.result().path for job in [pool.submit(create_run, config) for _ in range(40)]]
    assert sorted(run.name for run in runs) == [f"{number:04d}" for number in range(1, 41)]


@pytest.mark.skipif(os.name == "nt", reason="processes cannot be asked")
def test_a_new_run_sweeps_what_killed_processes_left_in_earlier_ones(tmp_path: Path) -> None:
    config = Config(category="pill", out=str(tmp_path))
    run = create_run(config).path
    with replacing(run / "checkpoint.safetensors") as beside:
        beside.touch()
        machine = beside.name.split(".")[2]
    (run / "export").mkdir()
    for folder in (run, run / "export"):
        (folder / f".{'a' * 12}.{machine}.999999999.part").touch()
    create_run(config)
    assert sorted(p.name for p in run.iterdir()) == ["checkpoint.safetensors", "config.json", "export"]
    assert list((run / "export").iterdir()) == []
