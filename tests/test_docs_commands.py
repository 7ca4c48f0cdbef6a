"""Every command and every line of Python of the README and the guide runs, on pictures and models that are tiny."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from documents import GUIDE, OURS, README, ROOT, blocks, program
from fake_camera import eventually, mjpeg_camera, write_video
from PIL import Image
from tiny_run import TINY, flags, tiny
from tiny_vit import write_vit

from vtad.preset_file import preset_text
from vtad_runtime.verdict import engine_choice

if TYPE_CHECKING:
    from vtad.run_folder import Run
    from vtad_export.proof.exporter import Export

pytestmark = pytest.mark.service  # a minute of every command that the docs name

TINY_DEMO = ("--size", "64", "--train", "6", "--good", "1", "--defects", "1")
ENDLESS = ("--camera", "--stream", "--watch")
# Each converts for many seconds; the test that runs it.
RUN_ELSEWHERE = {
    "vtad-train --category screw --track": "test_a_training_in_a_file_goes_on_in_the_same_mlflow_run",
    "vtad-train --category screw --track http://mlflow.local:5000 --experiment 'new light'": (
        "test_a_server_that_dies_in_the_middle_costs_one_warning"
    ),
    "vtad-export --register": (
        "test_a_server_that_was_away_gets_everything_from_the_evaluation_and_the_export_and_the_model_is_registered"
    ),
    "vtad-export": "typed",  # in tests/test_roundtrip.py
    "vtad-export --format all": "test_all_makes_every_format_in_every_precision_and_prints_one_table",
    "vtad-sweep --category screw --storage postgresql://ann:password@server.local/sweeps": "test_of_three_workers_one_is_killed_"
    "and_its_trial_is_tried_again_and_counted_once",
    "vtad-export --format onnx --precision int8": "test_flips_within_the_limit_are_listed_with_both_scores",
    "vtad-bench --seeds 2": "test_processes_share_the_jobs_and_do_none_twice",
    "vtad-bench --preset scratch --method padim --method patchcore --jobs 4": "test_every_method_sees_the_same_pixels",
}
OTHER_CODES = {
    "vtad-run": (0, 1),
    "vtad-score": (0, 1),
    "vtad-replay": (0, 1),
}  # 1: something is not OK, or a verdict flips


@pytest.fixture(scope="session")
def project(pills: Path, trained: Run, exported: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name: pictures, runs, an export, results, golden parts. Read only."""
    here = tmp_path_factory.mktemp("documents") / "project"
    for category in ("pill", "screw"):
        shutil.copytree(pills / "pill", here / "data" / category)
        run = Path(shutil.copytree(trained.path, here / "runs" / category / "0001"))
        for file in (run / "config.json", run / "card.json"):
            file.write_text(file.read_text().replace('"pill"', f'"{category}"').replace(str(pills), "data"))
        (run / "export").mkdir()
        shutil.copyfile(exported.path, run / "export" / f"{category}.onnx")
    for name in ("pill.onnx", "new.onnx"):
        shutil.copyfile(exported.path, here / name)
    good = here / "data/pill/test/good"
    shutil.copytree(good, here / "incoming")
    shutil.copytree(here / "data/pill/train/good", here / "good-parts")
    _bad_parts(here / "data/pill/test", here / "bad-parts")
    _golden_samples(here)
    mask = np.full((64, 64), 255, np.uint8)
    mask[:, :8] = 0
    Image.fromarray(mask).save(here / "mask.png")
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(good.iterdir())]
    write_video(here / "line.mp4", frames, codec="mp4v", fps=2)
    write_vit(here / "dinov2_vits14.pth")
    (here / "mine.toml").write_text(preset_text("scratch", TINY))
    (here / "space.toml").write_text("depth = { low = 1, high = 2 }\n")
    (here / "sweeps" / "screw").mkdir(parents=True)
    (here / "sweeps" / "screw" / "best.toml").write_text(preset_text("scratch", {"learning_rate": 1e-3}))
    (here / "passwords.txt").write_text("machine 127.0.0.1 login admin password secret\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        _unfinished_run()
        shutil.copytree("runs/pill/0002", "runs/screw/0002")
        assert CliRunner().invoke(program("vtad-run"), ["--folder", "data/pill/test"]).exit_code in (0, 1)
    return here


def _bad_parts(test: Path, folder: Path) -> None:
    """Known bad parts, each as it is and mirrored: ten."""
    folder.mkdir()
    for i, path in enumerate(sorted(path for path in test.rglob("*.png") if path.parent.name != "good")):
        rgb = np.asarray(Image.open(path))
        Image.fromarray(rgb).save(folder / f"{i}.png")
        Image.fromarray(rgb[:, ::-1]).save(folder / f"{i}-mirrored.png")


def _golden_samples(here: Path) -> None:
    """A part that the model finds good, and the same one painted over."""
    from vtad_runtime import Detector

    detector = Detector(here / "pill.onnx")
    for name in ("good", "bad"):
        (here / "golden" / name).mkdir(parents=True)
    least = min((here / "good-parts").iterdir(), key=lambda path: detector(np.asarray(Image.open(path))).score)
    shutil.copyfile(least, here / "golden" / "good" / "1.png")
    rgb = np.array(Image.open(least))
    rgb[16:48, 16:48] = (255, 0, 255)
    Image.fromarray(rgb).save(here / "golden" / "bad" / "1.png")


def _unfinished_run() -> None:
    """Train until the first epoch is over, and stop."""
    from vtad.fitting.loop import Interrupted
    from vtad.training import train

    reports: list[Any] = []
    with pytest.raises(Interrupted):
        train(tiny(epochs=3), report=reports.append, stop=lambda: any(r.text == "epoch 2" for r in reports))


class Camera:
    """In the place of OpenCV's: noisy pictures without end."""

    def __init__(self, index: int) -> None:
        self._opened, self._rng = index in (0, 1), np.random.default_rng(0)

    def isOpened(self) -> bool:
        return self._opened

    def get(self, _: int) -> float:
        return 64

    def set(self, *_: float) -> bool:
        return True

    def grab(self) -> bool:
        time.sleep(0.01)
        return True

    def retrieve(self) -> tuple[bool, Any]:
        return True, self._rng.integers(60, 190, (64, 64, 3), dtype=np.uint8)

    def release(self) -> None: ...


@contextmanager
def web_server() -> Iterator[str]:
    """Takes every message; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def made_small(words: list[str]) -> list[str]:
    """The arguments of a command with what makes it small or ends it."""
    command, *arguments = words
    if command == "vtad-data" and arguments[0] == "demo":
        return [*arguments, *TINY_DEMO]
    if command == "vtad-train" and "--resume" not in arguments:
        small = flags(preset="default" if "--backbone" in arguments else "scratch", epochs=1)
        if "--preset" in arguments and arguments[arguments.index("--preset") + 1].endswith(".toml"):
            at = small.index("--preset")
            del small[at : at + 2]
        if "--minutes" in arguments:
            at = small.index("--epochs")
            small[at : at + 2] = ["--minutes", "0.005"]
        return [*arguments, *small]
    if command == "vtad-sweep":
        return [*arguments, "--preset", "mine.toml", "--trials", "1", "--minutes-per-trial", "0.003"]
    if command == "vtad-run":
        if arguments[-1] == "--live" or ("--live" in arguments and arguments[arguments.index("--live") + 1][0] == "-"):
            arguments.insert(arguments.index("--live") + 1, "0")  # any free port
        if any(source in arguments for source in ENDLESS) and "--max-frames" not in arguments:
            return [*arguments, "--max-frames", "2"]
    if command == "vtad-score":
        return [*arguments, "--workers", "1"]
    if command == "vtad-run" and "--max-frames" in arguments:
        return [*arguments, "--max-frames", "2"]
    return arguments


@contextmanager
def stopped_when(happened: Callable[[], bool]) -> Iterator[None]:
    """A signal as soon as something has happened."""

    def stop() -> None:
        eventually(happened)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    yield
    thread.join()


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("line", [line for line in OURS if line not in RUN_ELSEWHERE])
def test_a_command_of_the_readme_or_the_guide_runs(
    line: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "project"))
    monkeypatch.delenv("VTAD_DATA", raising=False)
    monkeypatch.setattr(engine_choice, "others", lambda: ())  # each would be tried in a process of its own
    with ExitStack() as stack:
        if "camera.local" in line:
            picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            line = line.replace("http://camera.local/video", stack.enter_context(mjpeg_camera(picture)).url)
        if "server.local" in line:
            line = line.replace("https://server.local", stack.enter_context(web_server()))
        if "--camera" in line or "--list-cameras" in line:
            monkeypatch.setattr(cv2, "VideoCapture", Camera)
        if "--golden golden --every" in line:
            stack.enter_context(stopped_when(Path("golden/golden.json").exists))
        line = line.replace("broker.local", "127.0.0.1:9").replace("0.0.0.0:8000", "0.0.0.0:0")
        words = shlex.split(line)
        result = CliRunner().invoke(program(words[0]), made_small(words))
    assert result.exit_code in OTHER_CODES.get(words[0], (0,)), f"{result.output}\n{result.exception!r}"
    assert "Traceback" not in result.output


def test_what_takes_long_runs_in_a_test_of_its_own() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for line, name in RUN_ELSEWHERE.items():
        words = shlex.split(line)
        program(words[0]).make_context(words[0], words[1:])
        assert f"def {name}(" in tests


def test_the_python_of_the_readme_and_the_guide_runs(
    project: Path, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(project, tmp_path / "project"))
    monkeypatch.setattr("vtad.Config", lambda category: tiny(category=category, epochs=1))
    # It converts for seconds; tests/test_python_api.py waits for that.
    monkeypatch.setattr("vtad_export.to_onnx", lambda _, path: shutil.copyfile(exported.path, path))
    Path("pill.onnx").unlink()
    (readme,), (guide,) = blocks(README, "python"), blocks(GUIDE, "python")
    exec(compile(readme, "README.md", "exec"), {})
    exec(compile(guide, "docs/guide.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 1 + 2 + 9 + 1
