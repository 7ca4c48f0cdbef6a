"""vtad-bench from the command line: rows that are made once, trainings that are taken or continued, workers side by side."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import Result
from documents import ROOT
from fake_camera import eventually
from tiny_run import TINY, done, error, invoke, tiny

from vtad.run_folder import Run
from vtad_benchmark.commands.bench import bench
from vtad_benchmark.jobs import processes, working
from vtad_benchmark.jobs.plan import Plan
from vtad_benchmark.methods import presets
from vtad_benchmark.methods.options import Options, adopts
from vtad_benchmark.results.rows import read_rows
from vtad_runtime.contract.disk.lock import Lock

if TYPE_CHECKING:
    from vtad_export.proof.exporter import Export

CHANGES = tuple((name, value) for name, value in TINY.items() if name not in ("image_height", "image_width", "epochs"))
SMALL = ["--size", "32x32", "--epochs", "2"]  # the configuration `tiny` of a preset
for field, value in CHANGES:
    SMALL += ["--change", f"{field}={value}"]
SOURCES = os.pathsep.join(str(ROOT / name) for name in (".", "benchmark", "export", "runtime"))


def given(data: Path, out: Path, *more: object) -> list[object]:
    return ["--data", data, "--out", out, "--preset", "scratch", "--seeds", "1", *SMALL, *more]


def started(*arguments: object) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    source = "from vtad_benchmark.commands.programs import bench; bench()"
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("runs/*/*/*/config.json"))


@pytest.fixture(scope="module")
def benched(trained: Run, exported: Export, pills: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with one row of L1, and one of `scratch`, whose run and export were there. Read only."""
    out = tmp_path_factory.mktemp("benchmark")
    plan = Plan(pills, out, ("pill",), 1, ("scratch",), Options(epochs=2, size=(32, 32), changes=CHANGES))
    run = Path(shutil.copytree(trained.path, plan.runs(plan.jobs()[0]) / "pill" / "0001"))
    (run / "export").mkdir()
    shutil.copy2(exported.path, run / "export" / "pill.onnx")
    done(bench, *given(pills, out))
    done(bench, "--data", pills, "--out", out, "--seeds", 1, "--method", "l1", "--minutes", 0.005, "--size", "64x64")
    return out


@pytest.fixture
def copy(benched: Path, tmp_path: Path) -> Path:
    """A copy of `benched`, as on another machine."""
    return Path(shutil.copytree(benched, tmp_path / "copy"))


@pytest.mark.slow
def test_a_row_holds_what_the_run_folder_says_and_what_it_costs(benched: Path) -> None:
    baseline, found = read_rows(benched)
    (folder,) = runs(benched)
    assert "parity" in (folder / "report.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    card = Run(folder).card()
    assert found.run == folder.relative_to(benched).as_posix()
    assert found.ranking.image_auroc == metrics["scores"]["image"]["auroc"]
    assert (found.ranking.pixel_auroc, found.ranking.aupro) == (
        metrics["heatmap"]["auroc"],
        metrics["heatmap"]["aupro"],
    )
    assert found.ranking.ssim_aupro == metrics["ssim_map"]["aupro"]
    assert found.guaranteed.false_alarms == round(metrics["scores"]["false_alarm_rate"] * found.pictures.good)
    assert found.guaranteed.misses == round(metrics["scores"]["miss_rate"] * found.pictures.defective)
    assert found.guaranteed.good_with_region == round(metrics["good_with_region"] * found.pictures.good)
    assert found.guaranteed.defective_ok == round(metrics["defective_ok"] * found.pictures.defective)
    assert (found.calibration_pictures, found.guaranteed.threshold) == (
        card.calibration.images,
        card.calibration.threshold,
    )
    assert (found.pictures.train_good, found.pictures.good, found.pictures.defective) == (16, 4, 5)
    assert found.pictures.train_fingerprint == card.identity.data_fingerprint
    assert found.training["epochs"] == 2
    assert "token_norm_register_mean" in found.training
    assert found.cost.stored_numbers > found.cost.parameters > 0
    assert min(found.cost.gflop, found.cost.train_seconds, found.cost.ms or 0, found.cost.ratio or 0) > 0
    assert found.cost.megabytes == (folder / "export" / "pill.onnx").stat().st_size / 1e6
    assert (found.export, baseline.export, baseline.run) == ("proven", None, None)
    assert (baseline.method, baseline.asked) == ("l1", {"minutes": 0.005, "size": "64x64"})
    assert (baseline.pictures.height, baseline.pictures.width) == (64, 64)
    assert baseline.calibration_pictures == 3
    assert {"torch", "onnxruntime", "python"} <= found.made.versions.keys()
    assert (benched / "index.html").is_file()


@pytest.mark.slow
def test_what_is_there_is_not_done_again_and_a_copy_of_a_training_is_taken(copy: Path, pills: Path) -> None:
    before = [(path, path.stat().st_mtime_ns) for path in sorted(copy.glob("r*/**/*")) if path.is_file()]
    done(bench, *given(pills, copy))
    assert [(path, path.stat().st_mtime_ns) for path in sorted(copy.glob("r*/**/*")) if path.is_file()][
        : len(before)
    ] == before
    (weights,) = copy.glob("runs/*/*/*/model.safetensors")
    trained_at, exported_at = weights.stat().st_mtime_ns, (weights.parent / "export/pill.onnx").stat().st_mtime_ns
    old = read_rows(copy)[1]
    shutil.rmtree(copy / "rows")
    done(bench, *given(pills, copy))
    (new,) = read_rows(copy)
    assert (new.ranking, new.guaranteed, new.training) == (old.ranking, old.guaranteed, old.training)
    assert new.cost.train_seconds == old.cost.train_seconds
    assert (weights.stat().st_mtime_ns, len(runs(copy))) == (trained_at, 1)
    assert (weights.parent / "export/pill.onnx").stat().st_mtime_ns == exported_at


@pytest.mark.slow
def test_a_changed_configuration_is_another_job(pills: Path, tmp_path: Path) -> None:
    command = ["--data", pills, "--out", tmp_path, "--seeds", 1, "--method", "l1", "--size", "64x64"]
    for minutes in (0.002, 0.003, 0.002):
        done(bench, *command, "--minutes", minutes)
    first, second = read_rows(tmp_path)
    assert (first.asked["minutes"], second.asked["minutes"]) == (0.002, 0.003)
    assert first.fingerprint != second.fingerprint


def test_a_training_is_taken_for_what_it_was_asked_to_be() -> None:
    wanted = Options().config("default", "pill", 1, data="data", out="out/runs/default-seed1")
    found = tiny("default", seed=1)
    assert not adopts(found, wanted)
    sized = dataclasses.replace(wanted, size="given", image_height=304, image_width=480)
    assert adopts(dataclasses.replace(sized, symmetries="mirror", bits=16, shift=0.01, backbone_sha256="ab"), wanted)
    assert adopts(dataclasses.replace(wanted, data="/elsewhere", out="there"), wanted)
    assert not adopts(dataclasses.replace(wanted, registers=0), wanted)
    assert not adopts(dataclasses.replace(wanted, seed=0), wanted)
    given = Options(size=(64, 64)).config("default", "pill", 1)
    assert not adopts(dataclasses.replace(given, image_height=304), given)


def test_every_choice_of_a_method_is_in_its_fingerprint() -> None:
    plain = Options()
    assert plain.fingerprint("default") != plain.fingerprint("scratch")
    assert Options(changes=(("registers", 0),)).fingerprint("default") != plain.fingerprint("default")
    assert Options(minutes=5).fingerprint("l1") != plain.fingerprint("l1")
    assert Options(patches=5).fingerprint("patchcore") != plain.fingerprint("patchcore")
    assert Options(minutes=5, patches=5).fingerprint("padim") == plain.fingerprint("padim")
    assert Options(size=(64, 64)).fingerprint("padim") != plain.fingerprint("padim")
    assert Options(size=(64, 64)).fingerprint("paper") == plain.fingerprint("paper")


def test_a_change_may_be_of_any_field_and_has_its_type(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(processes, "work_here", lambda plan, *_: plans.append(plan))
    texts = ("optimizer=sgd", "shift=0.03", "fit=letterbox", "bits=12", "threshold_rule=guaranteed", "backbone=false")
    changes = [part for text in (*texts, "learning_rate=1e-3", "symmetries=none") for part in ("--change", text)]
    assert invoke(bench, "--data", pills, "--out", tmp_path, *changes).exit_code == 1
    config = plans[0].options.config("default", "cup", 0)
    assert (config.optimizer, config.shift, config.fit, config.bits) == ("sgd", 0.03, "letterbox", 12)
    assert (config.threshold_rule, config.backbone) == ("guaranteed", False)
    assert (config.learning_rate, config.symmetries) == (1e-3, "none")


def test_the_folder_of_a_training_is_the_one_of_earlier_versions() -> None:
    plan = Plan(Path("data"), Path("out"), ("cup",), 2, ("default", "padim"), Options(epochs=20))
    names = [plan.runs(job).as_posix() for job in plan.jobs()]
    assert names == [
        f"out/runs/{name}"
        for name in ("default-epochs20-seed0", "padim-seed0", "default-epochs20-seed1", "padim-seed1")
    ]
    (job,) = Plan(Path("data"), Path("out"), ("cup",), 1, ("default",), Options()).jobs()
    assert (job.folder, str(job)) == ("default-seed0", "cup, default, seed 0")


@pytest.mark.slow
def test_every_method_sees_the_same_pixels(pills: Path, tmp_path: Path) -> None:
    methods = ("padim", "patchcore", "ssim")
    command = ["--data", pills, "--out", tmp_path, "--seeds", 1, "--size", "48x64", "--minutes", 0.002, "--patches", 32]
    done(bench, *command, *(part for name in methods for part in ("--method", name)))
    rows = read_rows(tmp_path)
    assert [row.method for row in rows] == list(methods)
    assert {(row.pictures.height, row.pictures.width, row.pictures.fit) for row in rows} == {(48, 64, "stretch")}
    assert all(row.ranking.aupro is not None and row.estimated is None for row in rows)


def test_a_preset_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "best.toml").write_text('preset = "scratch"\nregisters = 2\n')
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "best.toml", tmp_path / "b" / "best.toml")
    file, other = (str(folder / "best.toml") for folder in (tmp_path, tmp_path / "b"))
    (job,) = Plan(Path("data"), Path("out"), ("cup",), 1, (file,), Options()).jobs()
    assert (job.folder, str(job)) == ("best-seed0", "cup, best, seed 0")
    config = Options().config(file, "cup", 0)
    assert (config.preset, config.registers) == ("scratch", 2)
    assert adopts(config, Options().config(other, "cup", 0))
    assert Options().fingerprint(file) == Options().fingerprint(other) != Options().fingerprint("scratch")
    (tmp_path / "best.toml").write_text('preset = "scratch"\nregisters = 3\n')
    assert Options().fingerprint(file) != Options().fingerprint(other)


@pytest.mark.slow
def test_a_category_without_masks_has_no_pixel_figures(copy: Path, pills: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(pills / "pill", data / "pill")
    shutil.rmtree(data / "pill" / "ground_truth")
    shutil.rmtree(copy / "rows")
    done(bench, *given(data, copy))
    done(bench, "--data", data, "--out", copy, "--seeds", 1, "--method", "l1", "--minutes", 0.002, "--size", "64x64")
    rows = read_rows(copy)
    assert [row.method for row in rows] == ["l1", "scratch"]
    for row in rows:
        assert row.pictures.without_mask == row.pictures.defective == 5
        assert row.ranking.image_auroc is not None
        assert (row.ranking.pixel_auroc, row.ranking.aupro) == (None, None)


@pytest.mark.slow
def test_a_job_that_fails_holds_nothing_else_up_and_is_tried_again(pills: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(pills / "pill", data / "a")
    shutil.copytree(pills / "pill", data / "b")
    tests = data / "a" / "test"
    tests.rename(data / "tests")
    command = ["--data", data, "--out", out, "--seeds", 1, "--method", "l1", "--minutes", 0.002, "--size", "64x64"]
    result = invoke(bench, *command)
    assert result.exit_code == 1
    assert "a, l1, minutes 0.002, size 64x64, seed 0: " in result.stderr
    assert "expected test images" in result.stderr
    assert [row.category for row in read_rows(out)] == ["b"]
    assert "expected test images" in (out / "index.html").read_text()
    (data / "tests").rename(tests)
    done(bench, *command)
    assert [row.category for row in read_rows(out)] == ["a", "b"]
    assert not list(out.glob("locks/*/*.failed"))


def test_a_fault_of_ours_ends_its_job_alone(pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(plan: object, job: object, *_: object) -> None:
        raise ZeroDivisionError(f"a fault in {job}")

    monkeypatch.setattr(working, "do", fault)
    result = invoke(bench, "--data", pills, "--out", tmp_path, "--seeds", 2, "--method", "l1")
    assert result.exit_code == 1
    for seed in (0, 1):
        said = f"internal error: ZeroDivisionError: a fault in pill, l1, seed {seed}; please report it"
        assert f"pill, l1, seed {seed}: {said}" in result.stderr


def test_a_file_system_without_locks_is_worked_on(pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    monkeypatch.setattr(working, "do", lambda *_: pytest.fail("a method was begun"))
    with pytest.raises(pytest.fail.Exception, match="a method was begun"):
        invoke(bench, "--data", pills, "--out", tmp_path, "--seeds", 1, "--method", "l1")


def test_what_nothing_could_judge_is_not_trained(
    make_category: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_category("part", train=16)
    shutil.rmtree(data / "part" / "test", ignore_errors=True)
    monkeypatch.setattr(presets, "train", lambda *_, **__: pytest.fail("it was trained"))
    result = invoke(bench, "--data", data, "--out", tmp_path / "out", "--seeds", 1)
    assert result.exit_code == 1
    assert "expected test images" in result.stderr


@pytest.mark.slow
def test_a_job_that_another_process_does_is_left_to_it(pills: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["--data", pills, "--out", out, "--seeds", 2, "--method", "l1", "--minutes", 0.002, "--size", "64x64"]
    options = Options(minutes=0.002, size=(64, 64))
    plan = Plan(pills, out, ("pill",), 2, ("l1",), options)
    lock = plan.lock(plan.jobs()[0])
    lock.parent.mkdir(parents=True)
    held = Lock(lock)
    result: Result = invoke(bench, *command)
    assert result.exit_code == 3
    assert "seed 0: another process does it" in result.stderr
    assert [row.seed for row in read_rows(out)] == [1]
    held.close()
    done(bench, *command)
    assert [row.seed for row in read_rows(out)] == [0, 1]


@pytest.mark.service
def test_a_bench_that_was_killed_goes_on_from_its_checkpoint(pills: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = given(pills, out, "--change", "patience=1000", "--epochs", 400)
    killed = started(*command)
    eventually(lambda: any(path.stat().st_size for path in out.glob("runs/*/*/*/checkpoint.safetensors")))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (folder,) = runs(out)
    assert not (folder / "card.json").exists()
    before = len((folder / "metrics.jsonl").read_text().splitlines())
    assert before > 0
    stopped = started(*command)
    eventually(lambda: len((folder / "metrics.jsonl").read_text().splitlines()) > before + 2)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate()
    assert stopped.returncode == 143
    assert said.splitlines()[-1] == "Error: stopped; the same command continues"
    assert runs(out) == [folder]
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == sorted(set(epochs))


@pytest.mark.service
def test_processes_share_the_jobs_and_do_none_twice(pills: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for name in ("a", "b", "c", "d"):
        shutil.copytree(pills / "pill", data / name)
    command = ("--data", data, "--out", out, "--method", "l1", "--minutes", 0.01, "--size", "64x64", "--seeds", 1)
    both = started(*command, "--jobs", 2), started(*command)
    said = [process.communicate(timeout=300)[1] for process in both]
    assert {process.returncode for process in both} <= {0, 3}, said
    assert [row.category for row in read_rows(out)] == ["a", "b", "c", "d"]
    lines = [line for text in said for line in text.splitlines()]
    assert sum(": done in" in line for line in lines) == 4
    assert all(line.startswith("[") for line in lines if ": done in" in line)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--category", "cup", "expected some of pill, got cup"),
        ("--preset", "best", "--preset: expected default"),
        ("--size", "64", "expected HEIGHTxWIDTH"),
        ("--size", "60x64", "multiple of"),
        ("--change", "registers=few", "--change: expected a field of the configuration and its value"),
        ("--change", "register=0", "got 'register=0'"),
        ("--change", "bits=11", "bits: expected"),
        ("--change", "minutes=3", "minutes has an option of its own"),
        ("--change", "seed=3", "seed has an option of its own"),
        ("--data", "nowhere", "expected a folder of categories"),
    ],
)
def test_a_bad_option_is_one_line(pills: Path, tmp_path: Path, option: str, value: str, said: str) -> None:
    good = {"--data": str(pills), "--preset": "scratch", "--out": str(tmp_path / "out"), option: value}
    assert said in error(2, bench, *(part for pair in good.items() for part in pair))


def test_without_its_packages_the_command_names_the_extra(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vtad_benchmark.results.writing.find_spec", lambda name: None if name == "pyarrow" else object()
    )
    said = error(2, bench, "--data", pills, "--out", tmp_path / "out")
    assert "expected pyarrow" in said
    assert "pip install 'vtad[benchmark]'" in said
