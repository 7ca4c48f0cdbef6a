"""vtad-run on videos, streams and hot folders, as its user meets it: rows, events, exit codes, what is left on disk."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_camera import MjpegCamera, eventually, mjpeg_camera, write_video
from PIL import Image
from tiny_model import bad, good, make_card, write_model

from vtad_runtime.commands import run as cli
from vtad_runtime.commands.calibrate import calibrate
from vtad_runtime.sources import opencv_sources as devices
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.verdict.detector import Detector

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
COMMAND = (sys.executable, "-c", "from vtad_runtime.commands.run import run; run()")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "runs/tiny/1/export/tiny.onnx")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.run, list(arguments))
    assert "Traceback" not in result.output
    assert not [t for t in threading.enumerate() if t.name.startswith("vtad")]
    return result


def failed(exit_code: int, *arguments: str) -> str:
    """The last line of a run that ends by one error."""
    result = run(*arguments)
    assert result.exit_code == exit_code, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return error


def rows(folder: str = "results/0001") -> list[dict[str, Any]]:
    file = Path(folder, "results.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def verdicts(folder: str = "results/0001") -> list[str]:
    return [row["verdict"] for row in rows(folder)]


def save(rgb: np.ndarray[Any, Any], path: str) -> None:
    """Write a picture the way a careful program does: beside, then renamed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save("picture.part", "PNG")
    Path("picture.part").replace(path)


class Running:
    """vtad-run in a process of its own."""

    def __init__(self, *arguments: str, command: tuple[str, ...] = COMMAND) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        self._readers = [
            threading.Thread(target=lambda p=pipe, to=lines: to.extend(p), daemon=True)
            for pipe, lines in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def end(self, number: int | None = signal.SIGTERM) -> int:
        """Send the signal and wait; the exit code."""
        if number is not None:
            self._process.send_signal(number)
        code = self._process.wait(30)
        for reader in self._readers:
            reader.join(5)
        return code

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in list(self.stderr) if line.startswith("{")]
        return [event for event in events if event["event"] == name]


@pytest.fixture
def golden_folder() -> str:
    save(good(), "golden/good/1.png")
    save(bad(), "golden/bad/1.png")
    return "golden"


@contextmanager
def running(*arguments: str, command: tuple[str, ...] = COMMAND) -> Iterator[Running]:
    process = Running(*arguments, command=command)
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    with mjpeg_camera(good(128, 128)) as camera:
        yield camera


def test_a_video_is_judged_frame_by_frame_and_none_is_dropped() -> None:
    write_video(Path("a.avi"), [good()] * 20 + [bad()] * 5)
    result = run("--video", "a.avi")
    assert result.exit_code == 1
    assert verdicts() == ["OK"] * 20 + ["NG"] * 5
    assert [(r["frame"], r["dropped"], r["source"]) for r in rows()] == [(n, 0, "a.avi") for n in range(1, 26)]
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("frame")]
    assert [(line[1], line[2]) for line in lines] == [(str(r["frame"]), r["verdict"]) for r in rows()]
    assert all(r["heatmap"] is None for r in rows()[:20])  # --save ng
    assert all(Path("results/0001", r["heatmap"]).is_file() for r in rows()[20:])
    summary = json.loads(Path("results/0001/summary.json").read_text())
    assert (summary["verdicts"], summary["frames"], summary["stopped"]) == ({"OK": 20, "NG": 5}, 25, False)
    assert len(Path("results/0001/results.csv").read_text().splitlines()) == 26
    write_video(Path("b.mp4"), [good()] * 3, "mp4v")
    assert run("--source", "b.mp4").exit_code == 0


def test_a_model_without_calibration_scores_judges_and_says_that_drift_is_not_watched() -> None:
    write_video(Path("a.avi"), [good()] * 5 + [bad()])
    assert "drift" not in run("--video", "a.avi").output
    none = dataclasses.replace(make_card().calibration, scores=(), images=0)
    write_model(Path("none.onnx"), dataclasses.replace(make_card(), calibration=none))
    result = run("--video", "a.avi", "--model", "none.onnx")
    assert result.exit_code == 1
    assert verdicts("results/0002") == ["OK"] * 5 + ["NG"]
    (line,) = [line for line in result.output.splitlines() if "drift" in line]
    assert line == (
        "drift is not watched: the card holds no calibration scores; vtad-calibrate makes a model that does"
    )
    assert json.loads(Path("results/0002/summary.json").read_text())["drift"]["n"] == 0
    for i in range(3):
        save(good(64, 64 + i), f"line/{i}.png")
    calibrated = CliRunner().invoke(calibrate, ["--model", "none.onnx", "--good", "line", "--out", "some.onnx"])
    assert calibrated.exit_code == 0, calibrated.output
    assert "drift" not in run("--video", "a.avi", "--model", "some.onnx").output


def test_every_is_in_the_time_of_the_video_and_max_frames_ends_it() -> None:
    write_video(Path("a.avi"), [good()] * 50, fps=25)
    run("--video", "a.avi", "--every", "200ms")
    assert [r["frame"] for r in rows()] == list(range(1, 51, 5))
    assert run("--video", "a.avi", "--max-frames", "3").exit_code == 0
    assert len(rows("results/0002")) == 3


def test_json_on_stdout_is_nothing_but_json() -> None:
    write_video(Path("a.avi"), [good(), bad()])
    result = run("--video", "a.avi", "--json", "-", "--alarm", "1/2")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["verdict"], line["alarm"]) for line in lines] == [("OK", False), ("NG", True)]
    assert "results: results/0001" in result.stderr
    assert "alarm on at frame 2" in result.stderr


def test_a_log_for_machines_holds_nothing_but_json() -> None:
    write_video(Path("a.avi"), [good(), bad()])
    result = run("--video", "a.avi", "--log-json")
    assert result.stdout == ""
    events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert events[0] == "note"
    assert {"started", "stopped"} <= set(events)


def test_between_two_scores_the_verdict_is_unsure() -> None:
    slightly = good()
    slightly[16:32, 16:32] += 30  # 1.2 units; the threshold is 2
    write_video(Path("a.avi"), [good(), slightly, bad()])
    assert run("--video", "a.avi", "--unsure-from", "1").exit_code == 1
    assert verdicts() == ["OK", "UNSURE", "NG"]
    assert "is above 1: odd for a good part" in rows()[1]["reason"]
    assert "up to the threshold 2" in failed(2, "--video", "a.avi", "--unsure-from", "3")
    save(slightly, "in/1.png")
    assert run("--folder", "in", "--unsure-from", "1").exit_code == 1
    assert verdicts("results/0002") == ["UNSURE"]


def grey(units: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A surface that scores so many units."""
    return good() + np.uint8(round(25 * units))


def test_what_few_good_parts_reach_is_unsure_and_a_share_of_0_turns_it_off() -> None:
    card = make_card()
    scores = tuple(i / 60 for i in range(99))  # up to 1.63; 5 % of them lie above 1.55
    calibration = dataclasses.replace(card.calibration, scores=scores, images=99, false_alarms=0.01, achievable=0.01)
    write_model(Path("many.onnx"), dataclasses.replace(card, calibration=calibration))
    for i, units in enumerate((1.52, 1.6, 2.4)):
        save(grey(units), f"in/{i}.png")
    folder = "--folder", "in", "--model", "many.onnx"
    result = run(*folder)
    assert result.exit_code == 1
    assert "UNSURE from 1.5" in result.output
    assert verdicts() == ["OK", "UNSURE", "NG"]
    assert "is above 1.5" in rows()[1]["reason"]
    assert verdicts_of(Detector("many.onnx")) == ["OK", "UNSURE", "NG"]
    assert json.loads(Path("results/0001/summary.json").read_text())["unsure_from"] == pytest.approx(1.55, abs=0.03)
    assert run(*folder, "--review", "0").exit_code == 1
    assert verdicts("results/0002") == ["OK", "OK", "NG"]
    assert verdicts_of(Detector("many.onnx", review=0)) == ["OK", "OK", "NG"]
    assert run(*folder, "--review", "0.2").exit_code == 1
    assert verdicts("results/0003") == ["UNSURE", "UNSURE", "NG"]
    assert "either --review or --unsure-from, got both" in failed(2, *folder, "--review", "0.1", "--unsure-from", "1")


def verdicts_of(detector: Detector) -> list[str]:
    return [detector(path).verdict for path in sorted(Path("in").iterdir())]


def test_a_black_video_is_unsure_unless_that_is_not_checked() -> None:
    write_video(Path("a.avi"), [good() * 0] * 2)
    assert run("--video", "a.avi").exit_code == 1
    assert verdicts() == ["UNSURE", "UNSURE"]
    assert rows()[0]["reason"].startswith("black picture")
    run("--video", "a.avi", "--frame-check", "none")
    assert verdicts("results/0002") == ["NG", "NG"]


def test_what_is_saved_can_be_chosen() -> None:
    write_video(Path("a.avi"), [good(), bad()])
    run("--video", "a.avi", "--save", "all", "--image", "png", "--save-originals", "--view", "panel")
    for row in rows():
        assert row["heatmap"].endswith(".png")
        with Image.open(Path("results/0001", row["original"])) as original:
            assert original.size == (64, 64)


def test_an_annotated_video_and_a_file_of_json_lines() -> None:
    write_video(Path("a.avi"), [good()] * 4 + [bad()])
    run("--video", "a.avi", "--write-video", "out.mp4", "--json", "out/rows.jsonl")
    capture = cv2.VideoCapture("out.mp4")
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    assert len(Path("out/rows.jsonl").read_text().splitlines()) == 5
    assert "got one that is there already" in failed(2, "--video", "a.avi", "--write-video", "out.mp4")


def test_a_folder_feeds_the_same_outputs() -> None:
    save(good(), "in/1.png")
    save(bad(), "in/2.png")
    Path("in/3.png").write_text("no picture")
    result = run("--folder", "in", "--json", "-")
    assert result.exit_code == 3
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["file"], line["verdict"]) for line in lines] == [
        ("in/1.png", "OK"),
        ("in/2.png", "NG"),
        ("in/3.png", "ERROR"),
    ]
    assert run("--folder", "in", "--max-frames", "1", "--image", "png", "--roi", "0,0,8,8").exit_code == 0
    with Image.open("results/0002/heatmaps/1.png.png") as heatmap:
        assert heatmap.size[0] == 360  # 8 pixels, enlarged


def test_a_region_and_a_mask_that_do_not_fit_are_one_line() -> None:
    write_video(Path("a.avi"), [good()] * 3)
    assert "got a frame of 64x64" in failed(2, "--video", "a.avi", "--roi", "60,60,10,10")
    save(np.full((32, 32, 3), 255, np.uint8), "mask.png")
    assert "got 64x64" in failed(2, "--video", "a.avi", "--roi-mask", "mask.png")
    assert "expected a picture file" in failed(2, "--video", "a.avi", "--roi-mask", "none.png")


def test_a_mask_silences_what_lies_outside() -> None:
    write_video(Path("a.avi"), [bad(x=16, y=16, size=16)] * 2)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 40:] = 255
    save(mask, "mask.png")
    assert run("--video", "a.avi", "--roi-mask", "mask.png", "--save", "none").exit_code == 0
    assert run("--video", "a.avi", "--save", "none").exit_code == 1


def test_sources_that_do_not_open_are_one_line_and_leave_nothing() -> None:
    Path("text.mp4").write_text("no video")
    assert "camera 7: expected a camera that opens, got none" in failed(2, "--camera", "7")
    assert "text.mp4: expected a video that OpenCV reads" in failed(2, "--video", "text.mp4")
    assert "got nothing there" in failed(2, "--video", "missing.mp4")
    os.mkfifo("pipe.mp4")
    assert "pipe.mp4: expected a video file, got no plain file" in failed(2, "--video", "pipe.mp4")
    assert "got no plain file" in failed(2, "--folder", "pipe.mp4")
    assert "expected a stream that opens, got Connection refused" in failed(2, "--stream", "http://127.0.0.1:1/x")
    assert "expected a folder to watch" in failed(2, "--watch", "missing")
    assert not Path("results").exists()


def test_a_run_that_fails_before_its_first_row_leaves_no_results() -> None:
    write_video(Path("a.avi"), [good()] * 3)
    failed(2, "--video", "a.avi", "--roi", "0,0,65,64")
    Path("there.mp4").touch()
    failed(2, "--video", "a.avi", "--write-video", "there.mp4")
    assert not list(Path("results").glob("*"))


def test_a_video_that_breaks_off_is_said_never_passed_over() -> None:
    whole = write_video(
        Path("a.avi"), [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(40)]
    )
    data = whole.read_bytes()
    Path("b.avi").write_bytes(data[: len(data) // 2])
    result = run("--video", "b.avi", "--save", "none", "--frame-check", "none")
    assert result.exit_code in (2, 3)
    if result.exit_code == 3:
        assert "damaged or cut off" in rows()[-1]["reason"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--folder", "in", "--every", "1s"), "--every: expected only with --camera, --stream, --video"),
        (("--watch", "in", "--drop", "oldest"), "--drop: expected only with"),
        (("--video", "a.avi", "--sort-to", "x"), "--sort-to: expected only with --watch"),
        (("--video", "a.avi", "--fps", "5"), "--fps: expected only with --camera"),
        (
            ("--video", "a.avi", "--frame-check", "black,blur"),
            "expected some of frozen,black,saturated,focus, or none, got",
        ),
        (("--video", "a.avi", "--alarm-off", "1"), "--alarm-off: expected together with --alarm"),
        (("--video", "a.avi", "--strict"), "--strict: expected together with --golden"),
        (("--video", "a.avi", "--golden-frame"), "--golden-frame: expected only with --camera, --stream"),
        (("--stream", "nowhere"), "--stream: expected rtsp://"),
        (("--video", "a.avi", "--every", "5"), "expected a time above 0 with its unit"),
        (("--video", "a.avi", "--keep", "much"), "expected a size such as 10GB"),
    ],
)
def test_options_that_would_do_nothing_or_make_no_sense_are_refused(arguments: tuple[str, ...], said: str) -> None:
    assert said in failed(2, *arguments)


def test_a_window_needs_an_opencv_that_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(Path("a.avi"), [good(), bad()])

    def no_window(*_: Any) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", no_window)
    assert "use --live to watch in a browser" in failed(2, "--video", "a.avi", "--show")


def test_the_window_shows_frames_in_the_main_thread_and_q_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(Path("a.avi"), [good()] * 400)
    shown: list[tuple[str, tuple[int, ...]]] = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, bgr: shown.append((threading.current_thread().name, bgr.shape)))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append(("closed", ())))
    run("--video", "a.avi", "--show", "--save", "none")
    assert [name for name, _ in shown] == ["MainThread"] * 3 + ["closed"]
    assert len(rows()) < 400


def test_list_cameras_says_what_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        def __init__(self, index: int) -> None:
            self.index = index

        def isOpened(self) -> bool:
            return self.index == 2

        def get(self, which: int) -> float:
            return {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0}[which]

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Two)
    assert run("--list-cameras").stdout.startswith("camera 2: 640x480")
    monkeypatch.setattr(Two, "isOpened", lambda _: False)
    assert run("--list-cameras").stdout == "no camera found\n"


class LineCamera:
    """Stands for cv2.VideoCapture on a V4L2 device: BGR frames, settings, and a cable that comes loose once."""

    cable: ClassVar[list[str]] = ["plugged", "loose", "plugged"]
    settings: ClassVar[dict[int, float]] = {}

    def __init__(self, index: int) -> None:
        self.index, self.frames, self.state = index, 0, self.cable.pop(0)

    def isOpened(self) -> bool:
        return self.state == "plugged"

    def set(self, which: int, value: float) -> bool:
        self.settings[which] = value
        return True

    def grab(self) -> bool:
        self.frames += 1
        time.sleep(0.02)
        return self.frames <= 3

    def retrieve(self) -> tuple[bool, Any]:
        red = good()
        red[16:32, 16:32] = (255, 100, 100)  # the tiny model's density map sees red only
        return True, red[:, :, ::-1]

    def release(self) -> None:
        pass


def test_a_camera_is_set_up_read_as_rgb_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", LineCamera)
    monkeypatch.setattr("vtad_runtime.sources.capture.FIRST_WAIT_S", 0.4)  # what was read before is judged by then
    result = run("--camera", "0", "--resolution", "1280x720", "--fps", "30", "--max-frames", "6", "--drop", "none")
    assert result.exit_code == 3  # it was gone for a while
    assert verdicts() == ["NG"] * 3 + ["ERROR"] + ["NG"] * 3
    assert rows()[0]["regions"][0]["seen_by"] == "both"
    assert rows()[3]["reason"] in (
        "no further frame",
        "camera 0: expected a camera that opens, got none; check its number and permissions; --list-cameras says which open",
    )
    assert "camera 0: frames again" in result.stderr
    wanted = {cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720, cv2.CAP_PROP_FPS: 30}
    assert wanted.items() <= LineCamera.settings.items()


def test_a_stream_is_judged_live_and_a_signal_ends_it_with_0(camera: MjpegCamera) -> None:
    with running("--stream", camera.url, "--json", "-", "--log-json") as process:
        eventually(lambda: len(process.stdout) >= 3)
        assert json.loads(process.stdout[0])["verdict"] == "OK"
        camera.picture = bad(128, 128, 32, 48, 16)
        eventually(lambda: "NG" in verdicts())
        camera.picture = good(160, 96)  # a stream may change its size
        eventually(lambda: verdicts()[-1] == "OK")
        camera.mode = "garbage"
        eventually(lambda: "damaged" in (rows()[-1]["reason"] or ""))
        camera.mode = "on"
        eventually(lambda: verdicts()[-1] == "OK")
        assert process.end() == 0
        (stopped,) = process.events("stopped")
    assert len(process.stdout) == stopped["rows"] == len(rows())
    assert json.loads(Path("results/0001/summary.json").read_text())["stopped"]
    ages = [row["queue_age_ms"] for row in rows()]
    assert max(ages) < 10_000  # some milliseconds on an idle machine


def test_a_lost_stream_is_error_until_it_is_back(camera: MjpegCamera) -> None:
    with running("--source", camera.url, "--log-json", "--save", "none") as process:
        eventually(verdicts)
        camera.mode = "off"
        eventually(lambda: verdicts()[-1] == "ERROR")
        assert rows()[-1]["score"] is None
        assert process.events("source_lost")
        eventually(lambda: process.events("source_retry"))
        camera.mode = "on"
        eventually(lambda: verdicts()[-1] == "OK")
        assert process.events("source_back")
        camera.hang_up()
        eventually(lambda: len(process.events("source_back")) == 2)
        assert process.end(signal.SIGINT) == 0


def test_a_stream_that_stalls_is_error_within_seconds(camera: MjpegCamera) -> None:
    with running("--stream", camera.url, "--save", "none") as process:
        eventually(verdicts)
        camera.mode = "stall"
        start = time.monotonic()
        eventually(lambda: verdicts()[-1] == "ERROR")
        assert time.monotonic() - start < 30
        assert process.end() == 0


def test_a_frozen_stream_is_unsure(camera: MjpegCamera) -> None:
    with running("--stream", camera.url, "--save", "none") as process:
        eventually(verdicts)
        camera.noise = False
        eventually(lambda: verdicts()[-1] == "UNSURE")
        assert rows()[-1]["reason"].startswith("frozen picture")
        camera.noise = True
        eventually(lambda: verdicts()[-1] == "OK")
        process.end()


def test_max_age_makes_late_frames_stale(camera: MjpegCamera) -> None:
    with running("--stream", camera.url, "--save", "none", "--max-age", "0.001ms") as process:
        eventually(lambda: len(rows()) > 3)
        process.end()
    assert set(verdicts()) == {"STALE"}


def test_two_sources_in_two_processes_keep_to_their_own_files(camera: MjpegCamera) -> None:
    write_video(Path("a.avi"), [bad()] * 40)
    with running("--stream", camera.url) as first:
        eventually(verdicts)
        with running("--video", "a.avi") as second:
            assert second.end(None) == 1
        first.end()
    assert {row["source"] for row in rows("results/0001")} == {camera.url}
    assert [row["source"] for row in rows("results/0002")] == ["a.avi"] * 40


def test_a_video_stopped_by_a_signal_says_so_by_its_exit_code() -> None:
    write_video(Path("a.avi"), [good(256, 256)] * 3000)
    with running("--video", "a.avi", "--save", "all") as process:
        eventually(lambda: len(rows()) > 5)
        assert process.end() == 143
    assert len(rows()) < 3000


def test_a_reader_of_the_output_that_goes_away_ends_the_run_quietly() -> None:
    write_video(Path("a.avi"), [good()] * 2000)
    pipe = f"'{sys.executable}' -c '{COMMAND[2]}' --video a.avi --json - --save none 2>err | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{pipe}; exit ${{PIPESTATUS[0]}}"], check=False, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 141
    assert json.loads(done.stdout)["frame"] == 1
    assert "Error" not in Path("err").read_text()


def test_a_hot_folder_is_judged_once_over_a_restart() -> None:
    save(good(), "in/1.png")
    with running("--watch", "in") as process:
        eventually(lambda: len(rows()) == 1)
        save(bad(), "in/2.png")
        Path("in/3.png").write_text("no picture")
        eventually(lambda: len(rows()) == 3)
        assert process.end() == 0
    assert [(row["file"], row["verdict"]) for row in rows()] == [
        ("in/1.png", "OK"),
        ("in/2.png", "NG"),
        ("in/3.png", "ERROR"),
    ]
    save(bad(), "in/4.png")
    result = run("--watch", "in", "--max-frames", "1", "--sort-to", "sorted")
    assert result.exit_code == 1
    assert [row["file"] for row in rows("results/0002")] == ["in/4.png"]
    assert Path("sorted/NG/4.png").is_file()
    assert not Path("in/4.png").exists()


def test_a_file_whose_writer_rests_in_the_middle_is_judged_when_it_is_whole() -> None:
    save(good(), "whole.png")
    whole = Path("whole.png").read_bytes()
    Path("in").mkdir(exist_ok=True)
    with running("--watch", "in", "--sort-to", "sorted") as process:
        with Path("in/slow.png").open("wb", buffering=0) as file:
            file.write(whole[: len(whole) // 2])
            time.sleep(1.5)
            file.write(whole[len(whole) // 2 :])
        eventually(lambda: Path("sorted/OK/slow.png").is_file())
        assert process.end() == 0
    assert [(row["file"], row["verdict"]) for row in rows()] == [("in/slow.png", "OK")]


HANGS = """
import time
from vtad_runtime.commands.run import run
from vtad_runtime.contract.command_line import stopping
from vtad_runtime.outputs.results_folder import ResultsFolder
stopping.LAST_S = 0.5
ResultsFolder.write = lambda *_, **__: print("hangs", flush=True) or time.sleep(60)
run()
"""


def test_a_run_in_which_something_hangs_ends_within_seconds_of_the_signal_and_blames_no_file() -> None:
    def hang_and_stop() -> None:
        with running("--watch", "in", command=(sys.executable, "-c", HANGS)) as process:
            eventually(lambda: "hangs\n" in process.stdout)
            start = time.monotonic()
            assert process.end() == 0
            assert time.monotonic() - start < 5
            assert "after the signal: ended at once" in process.stderr[-1]

    save(good(), "in/1.png")
    for _ in range(2):
        hang_and_stop()
    assert run("--watch", "in", "--max-frames", "1").exit_code == 0


ENGINE_HANGS = """
import ctypes
from vtad_runtime.commands.run import run
from vtad_runtime.contract.command_line import stopping
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
stopping.LAST_S = 0.5

def hang(*_):
    print("hangs", flush=True)
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):  # no signal ends the second one, and no line of Python runs in this thread again
        ctypes.CDLL(None).pthread_mutex_lock(lock)

OnnxSession.verdict = hang
run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="hangs by a lock of Linux's")
def test_a_run_whose_engine_hangs_ends_within_seconds_of_the_signal_and_blames_no_file() -> None:
    save(good(), "in/1.png")
    for _ in range(2):
        with running("--watch", "in", command=(sys.executable, "-c", ENGINE_HANGS)) as process:
            eventually(lambda process=process: "hangs\n" in process.stdout)  # type: ignore[misc]
            start = time.monotonic()
            assert process.end() == 0
            assert time.monotonic() - start < 5
            assert "after the signal: ended at once" in process.stderr[-1]
    assert run("--watch", "in", "--max-frames", "1").exit_code == 0


EVIL = """
import os, signal
from vtad_runtime.commands.run import run
from vtad_runtime.sources import files
read_picture = files.read_picture

def fatal(path, *options):
    if path.name == "evil.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_picture(path, *options)

files.read_picture = fatal
run()
"""


def test_a_picture_that_kills_the_process_is_set_aside_after_two_deaths_and_the_others_are_judged_once() -> None:
    names = ["in/1.png", "in/2.png", "in/evil.png", "in/3.png", "in/4.png"]
    for moment, name in enumerate(names, start=1):
        save(good(), name)
        os.utime(name, (moment, moment))

    def start() -> subprocess.CompletedProcess[str]:
        options = ("--watch", "in", "--max-frames", "5", "--sort-to", "sorted")
        return subprocess.run(
            [sys.executable, "-c", EVIL, *options], capture_output=True, text=True, env=ENVIRONMENT, check=False
        )

    assert [start().returncode for _ in range(2)] == [-signal.SIGKILL] * 2
    judged = sum(len(rows(f"results/{number}")) for number in ("0001", "0002"))
    options = ("--watch", "in", "--max-frames", str(5 - judged), "--sort-to", "sorted")
    last = run(*options)  # this one would survive
    assert last.exit_code == 3
    found = [row for number in ("0001", "0002", "0003") for row in rows(f"results/{number}")]
    assert sorted(row["file"] for row in found) == sorted(names)
    said = "set aside: the process died 2 times with this file in hand; to try it again, copy it here anew"
    assert {row["file"]: row["reason"] for row in found if row["verdict"] != "OK"} == {"in/evil.png": said}
    assert f"in/evil.png: {said}" in last.stderr
    assert Path("sorted/ERROR/evil.png").is_file()


KILLED_BEFORE_IT_SORTS = """
import os, signal
from vtad_runtime.commands.run import run
from vtad_runtime.sources.hot_folder import HotFolder
HotFolder.done = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run()
"""


def test_a_kill_before_a_file_is_noted_and_sorted_loses_no_message() -> None:
    save(good(), "in/1.png")
    options = ("--watch", "in", "--sort-to", "sorted", "--json", "rows.jsonl", "--post", "http://127.0.0.1:9/")
    command = [sys.executable, "-c", KILLED_BEFORE_IT_SORTS, *options]
    assert subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=False).returncode == -signal.SIGKILL
    assert [json.loads(line)["file"] for line in Path("rows.jsonl").read_text().splitlines()] == ["in/1.png"]
    (spool,) = Path("results/spool").glob("webhook-*/messages.sqlite")
    with closing(sqlite3.connect(spool)) as messages:
        assert messages.execute("SELECT count(*) FROM messages").fetchone() == (1,)


def test_a_second_run_on_the_same_hot_folder_ends_with_one_line_whatever_its_results_folder() -> None:
    save(good(), "in/1.png")
    with running("--watch", "in") as process:
        eventually(rows)
        said = failed(2, "--watch", "in", "--out", "elsewhere")
        assert said.startswith("Error: in: expected a hot folder that no other run watches, got one in use: ")
        assert f"held by process {process.pid}; stop that vtad-run" in said
        assert not Path("elsewhere/0001").exists()
        assert process.end() == 0
    save(good(), "in/2.png")
    assert run("--watch", "in", "--out", "elsewhere", "--max-frames", "2").exit_code == 0


def damaged_tiffs() -> list[str]:
    """Files of which libtiff or Pillow prints raw lines; their names."""
    grey = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(grey).save(whole, "TIFF", compression="tiff_lzw")
    Path("in").mkdir(exist_ok=True)
    for number in range(8):
        data = bytearray(whole.getvalue())
        data[8 + 60 * number : 8 + 60 * number + 40] = b"\xff" * 40
        Path(f"in/{number}.tif").write_bytes(data)
    Path("in/cut.tif").write_bytes(whole.getvalue()[:-100])
    return sorted(path.name for path in Path("in").iterdir())


def test_every_line_on_stderr_is_ours_also_where_libraries_print_theirs() -> None:
    names = damaged_tiffs()

    def stderr(*options: str) -> list[str]:
        done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 3
        return done.stderr.splitlines()

    events = [json.loads(line) for line in stderr("--watch", "in", "--max-frames", str(len(names)), "--log-json")]
    said = [event for event in events if event["event"] == "library"]
    assert said
    assert all(Path(event["file"]).name in names for event in said)
    assert len({event["message"] for event in said}) == len(said)
    lines = stderr("--folder", "in")
    assert sum("a library says: " in line for line in lines) == len(said)
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)


def test_the_last_line_of_a_run_that_fails_is_json_too() -> None:
    done = run("--watch", "none", "--log-json")
    assert done.exit_code == 2
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("failed", 2)
    assert "none: expected a folder to watch" in events[-1]["message"]


def test_a_hot_folder_judges_every_name_that_ends_like_a_picture_and_says_what_it_leaves_out() -> None:
    for name in ("cam1.part.png", "line.tmp.0001.png", "~w.png", "~x.png", ".y.png", "z.png.part"):
        save(good(), "in/z.png")
        Path("in/z.png").rename(f"in/{name}")
    result = run("--watch", "in", "--max-frames", "2", "--log-json")
    assert {row["file"] for row in rows()} == {"in/cam1.part.png", "in/line.tmp.0001.png"}
    said = [json.loads(line) for line in result.stderr.splitlines() if "hot_folder_left_out" in line]
    assert [(event["files"], "begin with ~: ~w.png, ..." in event["message"]) for event in said] == [(2, True)]


def test_no_request_to_the_live_page_is_an_internal_error(camera: MjpegCamera) -> None:
    pytest.importorskip("uvicorn")
    dice = random.Random(5)
    odd = ["", "9" * 5000, "-1", "\u00e9", "%ff", "%00", "..", "//", "[", "]", "::1", "?", "=", "&", ";", "\t", "token"]
    pieces = [*odd, "ng/", "1-small.jpg", "events/", "page.js", "localhost", "127.0.0.1", ":", "*", "vtad=", '"', "x"]

    def text() -> str:
        return "".join(dice.choices(pieces, k=dice.randrange(6)))

    with running("--stream", camera.url, "--live", "127.0.0.1:0", "--save", "none") as process:
        (line,) = eventually(lambda: [line for line in process.stdout if line.startswith("live page: ")])
        port = urlsplit(line.split()[-1]).port
        eventually(verdicts)

        def status(path: str, host: str = "localhost", cookie: str = "") -> int:
            request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(request.encode())
                return int(connection.recv(4096).split()[1])

        assert status(f"ng/{'9' * 5000}") == status(f"ng/{'9' * 5000}-small.jpg") == status("ng/x-small.jpg") == 404
        assert status("", "localhost:[") == status("", "localhost:80/x") == 403
        for _ in range(300):
            request = text(), dice.choice(["localhost", f"localhost:{text()}", text()]), text()
            assert status(*request) < 500, request
        assert process.end() == 0


def test_the_live_page_shows_the_run_and_its_golden_samples(camera: MjpegCamera, golden_folder: str) -> None:
    pytest.importorskip("uvicorn")
    with running(
        "--stream", camera.url, "--live", "127.0.0.1:0", "--golden", golden_folder, "--save", "none"
    ) as process:
        (line,) = eventually(lambda: [line for line in process.stdout if line.startswith("live page: ")])
        eventually(verdicts)
        with urllib.request.urlopen(line.removeprefix("live page: ").strip(), timeout=10) as answer:
            assert "<html" in answer.read().decode()
        assert process.end() == 0


def test_golden_samples_that_moved_are_said_and_strict_does_not_start() -> None:
    save(good(), "golden/good/1.png")
    save(bad(), "golden/bad/1.png")
    write_video(Path("a.avi"), [good()])
    assert run("--golden", "golden").exit_code == 0
    assert run("--golden", "golden", "--strict", "--video", "a.avi").exit_code == 0
    write_model(Path("other.onnx"), score_scale=0.2)
    assert run("--golden", "golden", "--model", "other.onnx").exit_code == 5
    assert "not judged as they were" in failed(
        5, "--golden", "golden", "--strict", "--video", "a.avi", "--model", "other.onnx"
    )
    assert run("--golden", "golden", "--video", "a.avi", "--model", "other.onnx").exit_code == 0


def test_golden_samples_are_checked_again_while_it_runs(camera: MjpegCamera) -> None:
    save(good(), "golden/good/1.png")
    save(bad(), "golden/bad/1.png")
    with running(
        "--stream", camera.url, "--golden", "golden", "--golden-every", "200ms", "--log-json", "--save", "none"
    ) as process:
        eventually(lambda: len(process.events("golden")) >= 3)
        save(good(), "golden/bad/1.png")
        eventually(lambda: not process.events("golden")[-1]["ok"])
        assert process.end() == 0


def test_golden_samples_alone_are_checked_again_until_a_signal(golden_folder: str) -> None:
    with running("--golden", golden_folder, "--every", "200ms", "--log-json") as process:
        eventually(lambda: len(process.events("golden")) >= 3)
        assert process.end() == 0
    with running("--golden", golden_folder, "--every", "200ms", "--log-json") as process:
        eventually(lambda: process.events("golden"))
        model = Path("runs/tiny/1/export/tiny.onnx")
        model.write_bytes(model.read_bytes()[:1000])  # a copy has begun
        eventually(lambda: not process.events("golden")[-1]["ok"])
        assert "golden samples: " in process.events("golden")[-1]["message"]
        write_model(model, score_scale=0.2)  # replaced while it runs
        eventually(lambda: process.events("golden")[-1].get("cause") == "model")
        assert process.end() == 5


def test_a_golden_part_before_the_camera_tells_a_changed_camera_by_numbers(
    camera: MjpegCamera, golden_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtad_runtime.line.golden_run.SETTLE_S", 0.1)
    monkeypatch.setattr("vtad_runtime.sources.mjpeg.READ_TIMEOUT_S", 1.0)
    textured = np.tile(
        np.array([[[90], [110]], [[110], [90]]], np.uint8).repeat(16, 0).repeat(16, 1), (2, 2, 3)
    )  # (64, 64, 3)
    save(textured, "golden/good/1.png")
    camera.picture = textured
    before = ("--stream", camera.url, "--golden", golden_folder, "--golden-frame", "--max-frames", "1")
    result = run(*before, "--strict")
    assert result.exit_code == 0, result.output
    assert "camera as recorded" in result.stderr
    camera.picture = textured + np.uint8(30)
    error = failed(5, *before, "--strict")
    assert "camera changed (frame against good/1.png): brightness" in error
    assert run(*before).exit_code in (0, 1)  # said, and judged all the same
    camera.mode = "stall"
    assert "--golden-frame: expected a frame" in failed(2, *before)


def test_the_first_verdict_comes_within_a_second_or_so() -> None:
    write_video(Path("a.avi"), [good()])
    before = os.times()
    subprocess.run([*COMMAND, "--video", "a.avi"], env=ENVIRONMENT, capture_output=True, check=True)
    after = os.times()
    took = after.children_user + after.children_system - before.children_user - before.children_system
    assert took < 2.0  # seconds of the processor, about 0.5, however busy the machine


def test_a_stream_says_its_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Refuses:
        def __init__(self, *arguments: Any) -> None:
            asked.extend(arguments)

        def isOpened(self) -> bool:
            return False

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Refuses)
    with pytest.raises(SourceError) as error:
        devices.Stream("rtsp://admin:secret@host/live")
    assert "secret" not in str(error.value)
    assert asked[2] == [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 3000]
