"""vtad-doctor: one line a check, what to do where something needed is missing, exit 1 then and 0 otherwise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from tiny_model import make_card, references, with_references, write_model

from vtad_runtime.commands import doctor as doctor_cli
from vtad_runtime.review import doctor
from vtad_runtime.verdict import engine_choice

pytestmark = pytest.mark.slow  # each looks at every package that is installed

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(doctor.__file__).parents[2])}
NAMES = [
    *("python", "vtad", "numpy", "pillow", "simplejpeg", "opencv", "onnxruntime", "providers"),
    *("ffmpeg", "gstreamer", "windows"),
    *("cameras", "extra live", "extra mqtt", "extra score", "extra ray", "extra track", "extra train", "extra report"),
    *("extra export", "extra sweep", "extra openvino"),
    *("processors", "results", "disk", "model", "model bytes", "self-test"),
]
ENGINES = ["other engines"]  # of a model that opens
LINE = re.compile(r"(ok   |--   |FAIL ) (.{20}) (\S.*)")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with room on its disk; its /sys and /dev lie in the folder given, empty."""
    root, here = tmp_path / "machine", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(doctor, "Path", lambda p: root / str(p).lstrip("/"))
    monkeypatch.setattr(engine_choice, "others", lambda: ())  # each is tried in a process of its own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    return root


def model(name: str = "tiny", **changes: Any) -> Path:
    return write_model(Path(f"runs/{name}/1/export/{name}.onnx"), make_card(**changes))


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(doctor_cli.doctor, list(arguments))
    assert "Traceback" not in result.output
    return result


def found(result: Result) -> dict[str, tuple[str, str]]:
    """Mark and text of every check, by name; nothing but such lines is on stdout."""
    matches = [LINE.fullmatch(line) for line in result.stdout.splitlines()]
    assert all(matches), result.stdout
    return {m[2].strip(): (m[1].strip(), m[3]) for m in matches if m}


def failures(result: Result) -> dict[str, str]:
    """The checks that say FAIL; they are what exit 1 and the last line say."""
    failing = {name: text for name, (mark, text) in found(result).items() if mark == "FAIL"}
    assert result.exit_code == (1 if failing else 0), result.output
    said = f"{len(failing)} of {len(found(result))} checks failed: {', '.join(failing)}\n" if failing else ""
    assert result.stderr == said
    return failing


def test_all_that_is_needed_is_0_and_one_line_a_check() -> None:
    path = model()
    before = sorted(Path().rglob("*"))
    result = run()
    assert result.exit_code == 0, result.output
    lines = found(result)
    assert list(lines) == [*NAMES, *ENGINES]
    assert len(result.stdout.splitlines()) == len(lines)
    assert failures(result) == {}
    assert {lines[name][0] for name in ("python", "vtad", "numpy", "opencv", "providers", "results", "self-test")} == {
        "ok"
    }
    assert lines["onnxruntime"][1].startswith(onnxruntime.__version__)
    assert "CPUExecutionProvider" in lines["providers"][1]
    assert lines["model"][1] == (
        f"{path}, the newest export: tiny, trained 2025-01-01T00:00:00Z, 32x32, threshold 2 from 19 good pictures "
        "(5 % false alarms), onnx fp32, proven"
    )
    assert sorted(Path().rglob("*")) == before  # nothing is left behind


def test_without_a_model_the_rest_is_checked_and_what_to_run_is_said() -> None:
    result = run()
    assert failures(result) == {}
    lines = found(result)
    assert list(lines) == NAMES
    assert lines["model"] == (
        "--",
        "no exported model in runs/*/*/export: run vtad-train, then vtad-export, or name one by --model",
    )
    assert lines["self-test"] == ("--", "no model to run")


def test_the_self_test_judges_the_reference_pictures_of_the_model() -> None:
    path = model()
    with_references(path, references().to_text())
    right = found(run())["self-test"]
    assert right[0] == "ok"
    assert right[1].startswith(
        "2 reference pictures judged as by torch at the export: no verdict differs, scores differ by at"
    )
    with_references(path, references().to_text(), score_scale=1.01)
    wrong = failures(run())["self-test"]
    assert wrong.startswith(
        "of 2 reference pictures good.png: expected torch's score 0.32 (OK), got 0.3232 (OK): 5.8e-03 of"
    )
    assert wrong.endswith("export the run again by vtad-export, or name another model by --model")


def test_the_self_test_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    model(roi=(100, 50, 40, 30))  # the picture holds it
    real = re.fullmatch(
        r"140x80 picture judged; loaded in \d+ ms, first picture \d+ ms, then \d+ ms each, with all maps; "
        "no reference pictures in the model",
        found(run())["self-test"][1],
    )
    assert real
    took = [1.5, 0.25, 0.010, 0.020, 0.030, 0.400, 0.025]  # loading, the first picture, five more
    clock = iter([t for start, seconds in enumerate(took) for t in (10.0 * start, 10.0 * start + seconds)])
    monkeypatch.setattr(doctor, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    timed = found(run())["self-test"][1]
    assert "loaded in 1500 ms, first picture 250 ms, then 25 ms each" in timed
    assert list(clock) == []


def test_the_newest_export_is_taken_unless_one_is_named() -> None:
    old, new = model("old"), model("new")
    os.utime(old, (1, 1))
    assert found(run())["model"][1].startswith(f"{new}, the newest export: ")
    assert found(run("--model", str(old)))["model"][1].startswith(f"{old}: ")


def test_a_model_that_does_not_open_is_named_with_what_to_do() -> None:
    whole = model().read_bytes()
    Path("torn.onnx").write_bytes(whole[: len(whole) // 2])
    Path("text.onnx").write_text("hello")
    write_model(Path("bare.onnx"), text="")
    write_model(Path("other.onnx"), text=make_card().to_json().replace('"schema": 3', '"schema": 7'))
    for name, got in [
        ("none.onnx", "got nothing there; vtad-export makes one"),
        ("torn.onnx", "; copy the file again, or make it anew"),
        ("text.onnx", "; copy the file again, or make it anew"),
        ("bare.onnx", "; vtad-export makes one"),
        ("other.onnx", "expected a vtad card of schema 3, 2 or 1, got 7; export the run again with this version"),
    ]:
        failing = failures(run("--model", name))
        assert list(failing) == ["model", "self-test"]
        assert failing["model"].startswith(f"{name}: ")
        assert got in failing["model"]
        assert failing["model"].count("again") <= 1
        assert failing["self-test"] == "the model does not open"


def test_each_advice_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = onnx.load(model())
    changed.doc_string = "changed"
    onnx.save(changed, "changed.onnx")
    failing = failures(run("--model", "changed.onnx"))
    assert list(failing) == ["model", "model bytes", "self-test"]
    assert failing["model"].count("export the run again") == 1
    assert failing["model bytes"] == "changed since its export: model"

    def broken(_: object) -> None:
        raise OSError("libonnxruntime.so: cannot open\nshared object file")

    monkeypatch.setattr(doctor, "import_module", broken)
    failing = failures(run())
    assert failing.pop("numpy").endswith("cannot open shared object file; pip install vtad again")
    of_the_rest = ["pillow", "simplejpeg", "opencv", "onnxruntime", "providers", "opencv build"]
    assert [name for name, said in failing.items() if said.endswith("; see numpy")] == of_the_rest


def test_a_newest_export_that_is_a_link_to_nothing_is_named() -> None:
    link = Path("runs/tiny/1/export/gone.onnx")
    link.parent.mkdir(parents=True)
    link.symlink_to("nowhere.onnx")
    failing = failures(run())
    assert list(failing) == ["model", "self-test"]
    assert failing["model"].startswith(f"{link}: ")
    assert "name a model by --model" in failing["model"]


def test_a_model_that_opens_and_cannot_judge_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(Path("nan.onnx"), score_scale=float("nan"))
    failing = failures(run("--model", "nan.onnx"))
    assert list(failing) == ["self-test"]
    assert failing["self-test"].startswith("expected a finite score, got nan; loaded in ")
    assert "export the run again" in failing["self-test"]

    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("vtad_runtime.engine.onnxruntime_engine.OnnxSession.run", fault)
    failing = failures(run("--model", str(model())))
    assert list(failing) == ["self-test"]
    assert "RuntimeError: out of memory" in failing["self-test"]
    assert "export the run again" in failing["self-test"]


def test_a_place_that_cannot_be_written_to_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("results").write_text("no folder")
    failing = failures(run())
    assert list(failing) == ["results"]
    assert failing["results"].startswith(f"{Path('results').absolute()}: expected a folder to write to, got ")
    assert failing["results"].endswith("; name another by --out")
    Path("results").unlink()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)  # root may write everywhere
    failing = failures(run())
    assert failing == {
        "results": f"{Path.cwd()}: expected a folder to write to, got Permission denied; name another by --out"
    }


def test_a_full_disk_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "others", lambda: ())  # each is tried in a process of its own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0.25e9))
    assert failures(run()) == {"disk": "expected 1 GB free for results, got 0.25; make room"}


def test_a_broken_provider_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model()
    for providers, got in ((["CUDAExecutionProvider"], "got CUDAExecutionProvider"), ([], "got none")):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda p=providers: p)
        failing = failures(run())
        assert list(failing) == ["providers", "model", "self-test"]
        assert failing["providers"] == f"expected CPUExecutionProvider, {got}; pip install vtad again"

    def broken() -> None:
        raise OSError("libonnxruntime.so: cannot open\nshared object file")

    monkeypatch.setattr(onnxruntime, "get_available_providers", broken)
    text = failures(run())["providers"]
    assert "OSError: libonnxruntime.so: cannot open shared object file" in text
    assert "pip install vtad again" in text


def test_an_old_python_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHON", (9, 1))
    assert failures(run())["python"].startswith("expected 9.1 or later, got 3.")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("numpy", "numpy"),
        ("pillow", "PIL.Image"),
        ("simplejpeg", "simplejpeg"),
        ("opencv", "cv2"),
        ("onnxruntime", "onnxruntime"),
    ],
)
def test_a_needed_package_that_is_missing_is_one_line_and_the_checks_go_on(name: str, module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from vtad_runtime.commands.doctor import doctor; doctor()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    matches = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
    assert all(matches), done.stdout  # OpenCV itself prints to stdout where numpy is missing
    lines = {m[2].strip(): (m[1].strip(), m[3]) for m in matches if m and m[2].strip() not in ENGINES}
    build = {"ffmpeg", "gstreamer", "windows"}  # of an OpenCV that cannot be imported there is one line instead
    assert [n for n in lines if n not in {"model", *build}] == [
        n for n in (*NAMES[:8], "opencv build", *NAMES[11:]) if n in lines and n != "model"
    ]
    assert {"providers", "cameras", "extra live", "results", "disk", "self-test"} <= lines.keys()
    mark, text = lines[name]
    assert mark == "FAIL"
    assert text.startswith(f"expected module {module}, got ")
    assert "ModuleNotFoundError" in text or "ImportError" in text
    failing = {n: said for n, (at, said) in lines.items() if at == "FAIL" and n not in {"cameras", "disk"}}
    assert next(iter(failing.values())).endswith("; pip install vtad again")
    assert all(said.endswith(f"; see {next(iter(failing))}") for said in list(failing.values())[1:])
    assert name in done.stderr.splitlines()[-1]


def test_what_is_absent_and_not_needed_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An extra that is missing or broken; an OpenCV without video files and windows."""
    monkeypatch.setattr(doctor, "EXTRAS", {"live": ("no_such_module",), "mqtt": ("broken_parent.client",)})
    package = tmp_path / "site/broken_parent/__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("raise RuntimeError('built for another machine')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n  Media I/O:\n")
    result = run()
    assert result.exit_code == 0, result.output
    lines = found(result)
    assert lines["extra live"] == ("--", "not installed (no_such_module): pip install 'vtad[live]'")
    assert lines["extra mqtt"] == ("--", "not installed (broken_parent.client): pip install 'vtad[mqtt]'")
    assert lines["ffmpeg"] == ("--", "not in OpenCV: no video files, no streams")
    assert lines["gstreamer"][0] == lines["windows"][0] == "--"


def test_what_opencv_can_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "getBackends", lambda: [cv2.CAP_FFMPEG, cv2.CAP_GSTREAMER])
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    lines = found(run())
    assert (lines["ffmpeg"][0], lines["gstreamer"][0], lines["windows"]) == ("ok", "ok", ("ok", "QT5"))

    def broken() -> str:
        raise AttributeError("a cv2 that is half there")

    monkeypatch.setattr(cv2, "getBuildInformation", broken)
    (failing,) = [line for line in run().stdout.splitlines() if line.startswith("FAIL")]
    assert "opencv build" in failing
    assert failing.endswith("AttributeError: a cv2 that is half there; pip install vtad again")


def test_cameras_are_listed_and_those_that_are_shut_say_what_to_do(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("video10", "USB\nCam\n"), ("video2", "Lid"), ("video0", "Shut")):
        node = machine / "sys/class/video4linux" / name
        node.mkdir(parents=True)
        (node / "name").write_text(said)
        (machine / "dev").mkdir(exist_ok=True)
        (machine / "dev" / name).write_text("")
    monkeypatch.setattr(os, "access", lambda p, _: Path(p).name != "video0")
    lines = found(run())
    assert lines["cameras"] == ("ok", f"{machine}/dev/video2 Lid, {machine}/dev/video10 USB Cam")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert failures(run()) == {
        "cameras": f"{machine}/dev/video0: no permission; add this user to the group of that file, mostly `video`"
    }


def test_a_category_with_a_line_end_stays_one_line() -> None:
    text = make_card().to_json().replace('"category": "tiny"', '"category": "two\\nlines"')
    write_model(Path("odd.onnx"), text=text)
    assert "two lines, trained" in found(run("--model", "odd.onnx"))["model"][1]


def test_json_holds_the_same_checks() -> None:
    model()
    whole = run("--json")
    assert whole.exit_code == 0
    said = json.loads(whole.stdout)
    assert said["ok"] is True
    assert [check["name"] for check in said["checks"]] == [*NAMES, *ENGINES]
    assert all(check.keys() == {"name", "ok", "line"} for check in said["checks"])
    result = run("--json", "--model", "none.onnx")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["ok"] is False
    assert [check["name"] for check in said["checks"] if check["ok"] is False] == ["model", "self-test"]


def test_usage_is_2_and_help_names_the_exit_codes_and_is_quick() -> None:
    assert run("--nothing").exit_code == 2
    text = run("--help").stdout
    for code in ("0 ", "1 ", "2 ", "70 "):
        assert f"  {code}" in text
    heavy = "{'numpy', 'cv2', 'PIL', 'onnxruntime'}"
    code = f"import sys, vtad_runtime.commands.doctor; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
