"""The camera: the newest frame counts, a late verdict is STALE, a camera that fails is one clear line."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_model import bad, good, write_model

from vtad_runtime import Detector, Verdict, live
from vtad_runtime.cli import run
from vtad_runtime.live import Camera, CameraError, judge_camera


class FakeCapture:
    """A camera whose frames come every `interval` seconds; BGR as OpenCV gives them; ends after the last one."""

    def __init__(self, frames: list[np.ndarray[Any, Any]], interval: float = 0.0, opened: bool = True) -> None:
        self.frames, self.interval, self.opened, self.released = list(frames), interval, opened, False
        self.drained = threading.Event()

    def isOpened(self) -> bool:
        return self.opened

    def read(self) -> tuple[bool, np.ndarray[Any, Any] | None]:
        time.sleep(self.interval)
        if not self.frames:
            self.drained.set()
            return False, None
        return True, self.frames.pop(0)[:, :, ::-1]

    def release(self) -> None:
        self.released = True


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return Detector(write_model(tmp_path / "m.onnx"), threads=1)


def never() -> bool:
    return False


def test_frames_are_judged_until_the_camera_ends(detector: Detector) -> None:
    capture = FakeCapture([good(), bad(), good()], interval=0.1)
    frames: list[live.Frame] = []
    with Camera(0, lambda _: capture) as camera:
        judged = judge_camera(camera, detector, never)
        with pytest.raises(CameraError, match="camera 0: expected frames, got no further"):
            frames.extend(judged)
    assert [(f.number, f.verdict) for f in frames] == [(1, Verdict.OK), (2, Verdict.NG), (3, Verdict.OK)]
    assert capture.released


def test_only_the_newest_frame_is_judged(detector: Detector) -> None:
    capture = FakeCapture([good()] * 9 + [bad()])
    with Camera(0, lambda _: capture) as camera:
        assert capture.drained.wait(5)
        first = next(judge_camera(camera, detector, never))
    assert (first.number, first.verdict) == (10, Verdict.NG)


def test_colours_reach_the_model_as_rgb(detector: Detector) -> None:
    red = good()
    red[16:32, 16:32] = (255, 100, 100)
    with Camera(0, lambda _: FakeCapture([red])) as camera:
        frame = next(judge_camera(camera, detector, never))
    assert frame.result.regions[0].seen_by == "both"  # the tiny model's density map sees red only


def test_a_verdict_that_comes_too_late_is_stale(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_AGE_S", 0.0)
    with Camera(0, lambda _: FakeCapture([good()])) as camera:
        assert next(judge_camera(camera, detector, never)).verdict is Verdict.STALE


def test_a_silent_camera_is_an_error_and_stop_is_answered(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    with Camera(0, lambda _: FakeCapture([good()], interval=1.0)) as camera:
        assert list(judge_camera(camera, detector, lambda: True)) == []
        monkeypatch.setattr(live, "FIRST_FRAME_S", 0.1)
        with pytest.raises(CameraError, match="expected frames, got none for"):
            next(judge_camera(camera, detector, never))


def test_a_camera_that_does_not_open_is_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: FakeCapture([], opened=False))
    result = CliRunner().invoke(run, ["--camera", "3", "--model", str(write_model(tmp_path / "m.onnx"))])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Error: camera 3: expected a camera that opens, got none; check its number and permissions"
    ]


def test_the_command_prints_one_line_per_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: FakeCapture([good(), bad()], interval=0.1))
    result = CliRunner().invoke(run, ["--camera", "0", "--model", str(write_model(tmp_path / "m.onnx"))])
    lines = [line for line in result.stdout.splitlines() if line.startswith("frame")]
    assert [line.split()[1:3] for line in lines] == [["1", "OK"], ["2", "NG"]]
    assert result.exit_code == 3  # the camera ended by itself
    assert "Error: camera 0: expected frames" in result.stderr
