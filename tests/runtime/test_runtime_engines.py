"""Engines: OpenVINO judges as onnxruntime does; one that judges otherwise is refused; `auto` takes the fastest that is proven."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click.testing
import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image
from tiny_model import bad, good, make_card, references, with_references, write_model

from vtad_runtime import Detector, watch
from vtad_runtime.commands.run import run
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.engine.engines import ENGINES, cache_folder
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.opening import open_model
from vtad_runtime.sources import capture
from vtad_runtime.verdict import engine_choice
from vtad_runtime.verdict.engine_choice import Trial
from vtad_runtime.verdict.engine_trial import trial
from vtad_runtime.verdict.judgement import Judgement

needs_openvino = pytest.mark.skipif(not ENGINES["openvino"].installed(), reason="needs the extra openvino")
OPENVINO = pytest.param("openvino", marks=needs_openvino)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


def kept(name: str) -> list[Path]:
    """What is in a folder of the cache."""
    folder = cache_folder(name)
    assert folder is not None
    return list(folder.iterdir())


def proven(path: Path, **graph: Any) -> Path:
    return with_references(path, references().to_text(), **graph)


@pytest.mark.parametrize("engine", ["cpu", OPENVINO])
def test_every_engine_judges_alike_alone_and_in_batches(engine: str, tmp_path: Path) -> None:
    path = proven(tmp_path / "m.onnx")
    pictures = [good(), bad(), bad(x=40), bad(size=20), good()]
    first, other = Detector(path), Detector(path, engine=engine, threads=1)
    assert other.engine == engine
    for one, two in zip(first.batch(pictures), other.batch(pictures), strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-5)
        assert (one.verdict, len(one.regions)) == (two.verdict, len(two.regions))
        np.testing.assert_allclose(one.model_heatmap, two.model_heatmap, atol=1e-5)
        assert np.array_equal(one.reconstruction, two.reconstruction)


@pytest.mark.parametrize("engine", ["cpu", OPENVINO])
def test_a_model_file_is_read_once(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opens, read = write_model(tmp_path / "m.onnx"), Path.open, list[str]()

    def counting(self: Path, *args: Any, **options: Any) -> Any:
        read.append(self.name)
        return opens(self, *args, **options)

    monkeypatch.setattr(Path, "open", counting)
    monkeypatch.setattr(Path, "read_bytes", lambda self: counting(self, "rb").read())
    model = open_model(path, 1, engine=engine)
    path.unlink()  # all that follows is of the file that was read
    assert model.integrity.sealed
    assert model.run(good(32, 32).transpose(2, 0, 1)[None]).reconstruction.shape == (1, 3, 32, 32)
    assert read == ["m.onnx"]


@pytest.mark.parametrize("engine", ["cpu", OPENVINO])
@pytest.mark.parametrize("fixed", [None, 2])
def test_several_callers_get_what_one_gets(engine: str, fixed: int | None, tmp_path: Path) -> None:
    card, batch = make_card(), fixed or "batch"
    outputs = tuple(dataclasses.replace(output, shape=(batch, *output.shape[1:])) for output in card.outputs)
    path = write_model(tmp_path / "m.onnx", dataclasses.replace(card, outputs=outputs), batch=batch)
    pictures = [bad(size=4 * i) for i in range(1, 8)]
    alone = Detector(path, 1)
    for threads, callers in [(1, 1), (2, 2), (None, 3)]:
        detector = Detector(path, threads, engine=engine, callers=callers)
        assert detector.callers == (1 if fixed else callers)  # it would judge a picture twice
        with ThreadPoolExecutor(callers) as pool:
            at_once = list(pool.map(detector, pictures))
        for results in (at_once, detector.batch(pictures), detector.batch(pictures[:2])):
            for one, other in zip(alone.batch(pictures[: len(results)]), results, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-5)
                np.testing.assert_allclose(one.model_heatmap, other.model_heatmap, atol=1e-5)
                np.testing.assert_array_equal(one.reconstruction, other.reconstruction)


def test_a_folder_has_the_same_rows_in_the_same_order_by_one_caller_and_by_several(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", make_card())
    (tmp_path / "in").mkdir()
    for i in range(40):
        Image.fromarray(bad(size=i % 20) if i % 3 else good()).save(tmp_path / f"in/{i:02d}.png")

    def rows(callers: int) -> list[tuple[object, ...]]:
        found = list[Judgement]()
        watch(tmp_path / "in", Detector(model, 2, callers=callers), found.append)
        assert all(j.infer_ms > 0 and j.prepare_ms > 0 and j.queue_age_ms > 0 for j in found)
        return [(j.number, j.file, j.verdict, j.score, j.result and j.result.regions) for j in found]

    assert len(one := rows(1)) == 40
    assert one == rows(3)


@pytest.mark.parametrize("callers", [1, 2])
def test_between_two_frames_no_thread_takes_a_core(callers: int, tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "m.onnx", make_card()), 2, callers=callers)
    spent = []
    for _ in range(10):
        detector(good())
        start = time.process_time()
        time.sleep(0.05)  # what is left to capture, decoding and writing
        spent.append(time.process_time() - start)
    assert statistics.median(spent) < 0.005


FIRST_PICTURES = """
import sys, threading
import numpy as np
from vtad_runtime.engine.openvino_engine import OpenVinoSession
sys.setswitchinterval(1e-6)
session, together = OpenVinoSession(sys.argv[1], 2, callers=2), threading.Barrier(6)
def judge():
    together.wait()
    session.verdict(np.full((1, 3, 32, 32), 100, np.uint8))
threads = [threading.Thread(target=judge) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@needs_openvino
@pytest.mark.slow
def test_threads_that_begin_at_the_same_moment_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx")
    for _ in range(5):  # where OpenVINO's tables were made meanwhile, one in two to ten hung
        subprocess.run([sys.executable, "-c", FIRST_PICTURES, str(tmp_path / "m.onnx")], check=True, timeout=60)


@needs_openvino
def test_openvino_takes_bytes_and_a_fixed_batch(tmp_path: Path) -> None:
    data = write_model(tmp_path / "m.onnx").read_bytes()
    session = open_model(data, 1, engine="openvino")
    assert session.run(np.full((3, 3, 32, 32), 100, np.uint8)).score.tolist() == [0, 0, 0]
    assert session.references() is None


@needs_openvino
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"text": ""}, "with its inspection card, got an ONNX model without one"),
        ({"text": "{"}, "card"),
        ({"drop": "ssim_map"}, "expected float outputs"),
        ({"batch": 2}, "expected one input image"),
    ],
)
def test_openvino_refuses_what_onnxruntime_refuses(broken: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", **broken)
    for engine in ("cpu", "openvino"):
        with pytest.raises(ModelError, match=said) as e:
            open_model(path, 1, engine=engine)
        assert "\n" not in str(e.value)


@needs_openvino
def test_what_openvino_compiled_is_kept_by_precision(tmp_path: Path) -> None:
    """OpenVINO would take what it compiled in float32 for bfloat16, and end the process."""
    path = write_model(tmp_path / "m.onnx")
    for engine in ("openvino", "openvino-bf16"):
        try:
            open_model(path, 1, engine=engine)
        except ModelError as e:
            pytest.skip(str(e))  # no bfloat16 here
        assert [file for file in kept(engine) if file.suffix == ".blob"]


@needs_openvino
def test_openvino_refuses_a_torn_file_in_one_line(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ModelError, match="OpenVINO refuses") as e:
        open_model(path, 1, engine="openvino")
    assert "\n" not in str(e.value)


@needs_openvino
def test_an_engine_that_judges_otherwise_is_refused_and_never_taken_by_auto(tmp_path: Path) -> None:
    path = proven(tmp_path / "m.onnx", score_scale=1.5)  # its scores are not those that torch gave
    with pytest.raises(ModelError, match=r"engine openvino is refused: of 2 reference pictures .*; take --engine cpu$"):
        Detector(path, engine="openvino")
    assert Detector(path, engine="auto").engine == "cpu"


def test_auto_without_reference_pictures_or_another_engine_is_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Detector(write_model(tmp_path / "m.onnx"), engine="auto").engine == "cpu"
    monkeypatch.setattr(engine_choice, "others", lambda: ())
    assert Detector(proven(tmp_path / "n.onnx"), engine="auto").engine == "cpu"
    assert not list(kept("engines"))


@needs_openvino
def test_auto_takes_the_fastest_that_is_proven_and_remembers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[str] = []
    real = engine_choice.tried

    def timed(model: Path, threads: int | None, engine: str, **options: Any) -> Trial:
        made.append(engine)
        found = real(model, threads, engine, **options)
        assert found is not None
        return dataclasses.replace(found, times_faster=3.0)

    monkeypatch.setattr(engine_choice, "tried", timed)
    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino",))
    path = proven(tmp_path / "m.onnx")
    with caplog.at_level(logging.INFO, "vtad"):
        for _ in range(2):
            assert Detector(path, engine="auto", threads=1).engine == "openvino"
    assert made.count("openvino") == 1  # the second time it was known
    assert caplog.text.count("engine openvino: 3.0 times as fast as cpu here") == 2
    assert caplog.text.count("2 reference pictures judged as by torch") == 1  # why is said once
    (file,) = kept("engines")
    assert {row["engine"] for row in json.loads(file.read_text())} == {"openvino"}
    for times, damaged in enumerate((b"[{", b"null", b"[1]", b'{"openvino": true}', b"\xff", b""), 2):  # is none
        file.write_bytes(damaged)
        assert Detector(path, engine="auto", threads=1).engine == "openvino"
        assert made.count("openvino") == times


@needs_openvino
def test_an_engine_is_timed_as_it_is_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is ahead on a picture at a time may be behind where several threads judge."""
    path, asked, real = proven(tmp_path / "m.onnx"), list[int](), engine_choice.tried

    def timed(*given: Any, callers: int, **options: Any) -> Trial | None:
        asked.append(callers)
        found = real(*given, callers=callers, **options)
        return found and dataclasses.replace(found, times_faster=3.0 / callers**2)

    monkeypatch.setattr(engine_choice, "tried", timed)
    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino",))
    for _ in range(2):
        assert [Detector(path, 2, engine="auto", callers=n).engine for n in (1, 2)] == ["openvino", "cpu"]
    assert asked == [1, 2]  # and each is remembered


@needs_openvino
@pytest.mark.parametrize("where", ["a file", "no home"])
def test_without_a_folder_for_the_cache_engines_run_all_the_same(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "a file":
        (tmp_path / "cache").touch()
    else:

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("LOCALAPPDATA")
        monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(engine_choice, "tried", trial)
    assert Detector(proven(tmp_path / "m.onnx"), engine="openvino", threads=1)(bad()).verdict == "NG"


def test_a_trial_whose_process_cannot_start_is_a_refusal_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    found = engine_choice.tried(proven(tmp_path / "m.onnx"), 1, "openvino")
    said = "its process did not start: No such file or directory"
    assert found == Trial("openvino", False, said, None, None, lasting=False)


@needs_openvino
def test_a_changed_model_is_proven_each_time(tmp_path: Path) -> None:
    path = proven(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.doc_string = "changed"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="changed since"):
        Detector(path, engine="openvino")
    Detector(path, engine="openvino", allow_changed=True)
    assert not kept("engines")


@pytest.mark.parametrize(
    "engine", [name for name, e in ENGINES.items() if e.provider not in (None, "CPUExecutionProvider")]
)
def test_a_provider_of_onnxruntime_gets_its_options_and_may_not_fall_back_in_silence(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked, taken = proven(tmp_path / "m.onnx"), list[Any](), ["CPUExecutionProvider"]
    with pytest.raises(
        ModelError, match=rf"expected an onnxruntime with {ENGINES[engine].provider}, got .*; it comes with "
    ):
        open_model(path, engine=engine)
    real = ort.InferenceSession

    def session(model: Any, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        made = real(model, options, providers=["CPUExecutionProvider"])
        made.get_providers = lambda: taken
        return made

    provider = str(ENGINES[engine].provider)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [provider, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", session)
    with pytest.raises(ModelError, match="its libraries or its device are missing"):
        open_model(path, engine=engine)
    own = asked[0] if isinstance(asked[0], tuple) else (asked[0], {})
    assert own[0] == provider
    assert own[1].items() >= ENGINES[engine].options.items()
    assert asked[1] == "CPUExecutionProvider"
    taken.insert(0, provider)
    monkeypatch.setattr(engine_choice, "tried", trial)  # in this process, where the stand-in is
    detector = Detector(path, engine=engine)
    assert (detector.engine, detector(bad()).verdict) == (engine, "NG")


def test_the_command_says_which_engine_ran(tmp_path: Path) -> None:
    Image.fromarray(bad()).save(tmp_path / "p.png")
    model = proven(tmp_path / "m.onnx")
    arguments = ["--folder", str(tmp_path / "p.png"), "--model", str(model), "--out", str(tmp_path / "out")]
    done = click.testing.CliRunner().invoke(run, [*arguments, "--engine", "cpu"])
    assert done.exit_code == 1, done.output
    assert json.loads((tmp_path / "out" / "0001" / "run.json").read_text())["engine"] == "cpu"
    done = click.testing.CliRunner().invoke(run, [*arguments, "--engine", "tpu"])
    assert done.exit_code == 2
    done = click.testing.CliRunner().invoke(run, [*arguments, "--engine", "cuda"])
    assert done.exit_code == 2
    assert "CUDAExecutionProvider" in done.output
    assert len(done.output.strip().splitlines()) == 1
    with pytest.raises(VtadError, match="engine"):
        watch(str(tmp_path / "p.png"), model, engine="tpu")


@needs_openvino
def test_the_doctor_lists_engines_with_their_time_and_agreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtad_runtime.review.doctor import checks

    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino",))
    monkeypatch.setattr(engine_choice, "tried", trial)
    found = {check.name: check for check in checks(proven(tmp_path / "m.onnx"))}
    assert found["engine openvino"].ok
    assert "judged as by torch" in found["engine openvino"].line
    assert "ms a picture" in found["engine openvino"].line
    assert found["other engines"].ok is None
    assert "tensorrt (vtad[gpu])" in found["other engines"].line
    unproven = {c.name: c for c in checks(write_model(tmp_path / "n.onnx"))}
    assert unproven["engine openvino"].ok is None
    assert "no reference pictures" in unproven["engine openvino"].line


@needs_openvino
def test_an_engine_that_ends_its_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text("import os; os.kill(os.getpid(), 11)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    path = proven(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="engine openvino is refused: its process ended by signal 11"):
        Detector(path, engine="openvino")
    assert Detector(path, engine="auto").engine == "cpu"


@needs_openvino
def test_of_an_engine_that_a_signal_stopped_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = "import os, signal; signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), 2)"
    (tmp_path / "openvino.py").write_text(
        stopped, encoding="utf-8"
    )  # who runs tests in the background ignores signal 2
    path, known = proven(tmp_path / "m.onnx"), os.environ.get("PYTHONPATH", "")
    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino",))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), known]))
    assert Detector(path, engine="auto").engine == "cpu"
    with pytest.raises(ModelError, match="engine openvino was stopped while it was tried") as caught:
        Detector(path, engine="openvino")
    assert caught.value.exit_code == 130
    (tmp_path / "openvino.py").unlink()
    assert not [file for file in kept("engines") if "openvino" in file.read_text()]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """OpenVINO is three times as fast as the first engine; the names of those that are tried."""
    asked: list[str] = []

    def timed(_: Path, __: int | None, engine: str, **___: Any) -> Trial:
        asked.append(engine)
        return Trial(engine, True, "alike", 1.0, 3.0)

    def opened(model: Path, threads: int | None, *, engine: str, **options: Any) -> Any:
        found = open_model(model, threads, engine="cpu", **options)
        found.engine = engine
        return found

    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino",))
    monkeypatch.setattr(engine_choice, "tried", timed)
    monkeypatch.setattr(engine_choice, "open_model", opened)
    return asked


def test_auto_goes_on_without_an_engine_that_opens_no_more_and_tries_it_anew(
    fast: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(model: Path, threads: int | None, *, engine: str, **options: Any) -> Any:
        if engine == "openvino":
            raise ModelError("its device is missing")
        return open_model(model, threads, engine=engine, **options)

    path = proven(tmp_path / "m.onnx")
    assert Detector(path, engine="auto").engine == "openvino"
    monkeypatch.setattr(engine_choice, "open_model", gone)
    for times in (1, 2):
        assert Detector(path, engine="auto").engine == "cpu"
        assert len(fast) == times
    assert caplog.text.count("engine openvino is not taken: its device is missing") == 2


def test_another_driver_is_another_machine(fast: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = proven(tmp_path / "m.onnx")
    for times, driver in enumerate(("580.1", "580.2"), 1):
        monkeypatch.setattr(engine_choice, "devices", lambda driver=driver: driver)
        for _ in range(2):
            assert Detector(path, engine="auto").engine == "openvino"
            assert len(fast) == times


def test_a_trial_that_a_signal_stopped_stops_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino", "openvino-bf16"))
    monkeypatch.setattr(engine_choice, "tried", lambda _, __, engine, **___: asked.append(engine))
    with caplog.at_level(logging.INFO, "vtad"):
        assert Detector(proven(tmp_path / "m.onnx"), engine="auto").engine == "cpu"
    assert asked == ["openvino"]
    assert "engine cpu: the trial of openvino was stopped" in caplog.text


def test_what_says_nothing_of_an_engine_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = proven(tmp_path / "m.onnx")
    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino",))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    assert Detector(path, engine="auto").engine == "cpu"
    assert [json.loads(file.read_text()) for file in kept("engines")] == [[]]


HANGING_TRIAL = """
import runpy, sys, time
from vtad_runtime.engine import opening
opening.open_model = lambda *_, **__: time.sleep(60)
sys.argv[1:] = ['["m.onnx", 1, "cpu", 1, false]']
runpy.run_module("vtad_runtime.verdict.engine_trial", run_name="__main__")
"""


def test_a_trial_ends_with_the_process_that_waits_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGING_TRIAL], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 130


@needs_openvino
def test_a_trial_says_how_much_faster_it_is(tmp_path: Path) -> None:
    found = trial(proven(tmp_path / "m.onnx"), 1, "openvino")
    assert found.ok
    assert (found.ms or 0) > 0
    assert (found.times_faster or 0) > 0


WRONG = {  # what a run may be asked for in vain, with the source that it is asked of
    "camera": "--camera 7",
    "folder": "--folder missing",
    "empty folder": "--folder empty",
    "video": "--video missing.mp4",
    "hot folder": "--watch missing",
    "stream": "--stream http://127.0.0.1:1/x",
    "results": "--folder p.png --out p.png",
    "JSON": "--folder p.png --json p.png/rows.jsonl",
    "written video": "--folder p.png --write-video p.png",
    "broker": "--folder p.png --mqtt mqtt://host",
    "web server": "--folder p.png --post host",
    "page": "--folder p.png --live 70000",
    "mask": "--folder p.png --roi-mask missing.png",
    "review": "--folder p.png --unsure-from 1000",
    "golden samples": "--folder p.png --golden missing",
    "golden samples alone": "--golden missing",
    "logins": "--stream http://127.0.0.1:1/x --credentials missing",
}


@pytest.fixture
def untried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model, m.onnx, of which another engine was never tried; the names of those that are tried from now on."""
    made: list[str] = []

    def refused(_model: Path, _threads: int | None, engine: str, **_: Any) -> Trial:
        made.append(engine)
        return Trial(engine, False, "of no use", None, None)

    monkeypatch.setattr(engine_choice, "others", lambda: ("openvino",))
    monkeypatch.setattr(engine_choice, "tried", refused)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(good()).save("p.png")
    Path("empty").mkdir()
    proven(Path("m.onnx"))
    return made


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_engines_are_tried_when_all_else_is_known_to_work(arguments: str, untried: list[str]) -> None:
    done = click.testing.CliRunner().invoke(run, [*arguments.split(), "--model", "m.onnx"])
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("Error: "), done.stderr
    assert not untried
    assert not list(Path().glob("results/*"))


def test_a_camera_that_waited_for_engines_is_opened_anew(untried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    class Camera:
        def __init__(self, index: int) -> None:
            opened.append(index)

        isOpened = grab = set = lambda *_: True
        retrieve = lambda _: (True, good())  # noqa: E731
        release = lambda _: None  # noqa: E731

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    ask = ["--camera", "3", "--model", "m.onnx", "--max-frames", "1", "--frame-check", "none"]
    assert click.testing.CliRunner().invoke(run, ask).exit_code == 0
    assert (opened, untried) == ([3], ["openvino"])
    monkeypatch.setattr(capture, "FRESH_S", 0.0)  # as if it had taken long
    assert click.testing.CliRunner().invoke(run, ask).exit_code == 0
    assert opened == [3, 3, 3]


@needs_openvino
def test_the_run_file_names_the_engine_that_was_proven_after_it_was_written(
    untried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "tried", lambda *_, **__: Trial("openvino", True, "alike", 1.0, 3.0))
    done = click.testing.CliRunner().invoke(run, ["--folder", "p.png", "--model", "m.onnx"])
    assert done.exit_code == 0, done.output
    assert "engine openvino: 3.0 times as fast as cpu here; alike" in done.stderr
    assert json.loads(Path("results/0001/run.json").read_text())["engine"] == "openvino"
