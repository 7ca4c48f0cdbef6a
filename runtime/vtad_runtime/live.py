"""Judges a camera: always the newest frame, frames that came meanwhile are dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.detector import Detector, Result
from vtad_runtime.image import from_bgr
from vtad_runtime.verdict import Verdict

MAX_AGE_S = (
    2.0  # a verdict that comes later than this after its frame says nothing about the part in front of the camera
)
FIRST_FRAME_S = 10.0  # how long a camera may take to give its first frame, or the next one


class CameraError(RuntimeError):
    """A camera that does not open, or that stops giving frames. One line."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One judged frame. `verdict` is STALE when the result came too late, whatever the result says."""

    number: int  # counts all frames of the camera, the dropped ones too
    age_s: float  # from the frame's arrival to the result
    verdict: Verdict
    result: Result


class Camera:
    """Reads frames in a thread and keeps the newest. Use as a context manager."""

    def __init__(self, index: int, open_capture: Callable[[int], Any] | None = None) -> None:
        """Open camera `index` of this machine. Raises CameraError when it does not open."""
        cv2.utils.logging.setLogLevel(
            cv2.utils.logging.LOG_LEVEL_SILENT
        )  # a missing camera is reported once, by the error below
        self._index = index
        self._capture = (open_capture or cv2.VideoCapture)(index)
        if not self._capture.isOpened():
            self._capture.release()
            raise CameraError(
                f"camera {index}: expected a camera that opens, got none; check its number and permissions"
            )
        self._new = threading.Condition()
        self._frame: tuple[int, float, NDArray[np.uint8]] | None = None  # number, arrival, RGB
        self._failure: str | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._read, name="vtad-camera", daemon=True)

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        self._thread.join(timeout=2)
        if not self._thread.is_alive():  # releasing a capture that another thread reads can crash the process
            self._capture.release()

    def newest(self, stop: Callable[[], bool]) -> tuple[int, float, NDArray[np.uint8]] | None:
        """Wait for a frame not seen before: its number, arrival (time.monotonic) and RGB. None when `stop()`.

        Raises CameraError when the camera fails or stays silent for ten seconds.
        """
        deadline = time.monotonic() + FIRST_FRAME_S
        with self._new:
            while self._frame is None:
                if stop():
                    return None
                if self._failure is not None or time.monotonic() > deadline:
                    reason = self._failure or f"none for {FIRST_FRAME_S:.0f} s"
                    raise CameraError(f"camera {self._index}: expected frames, got {reason}; check the cable")
                self._new.wait(0.1)  # short, so that Ctrl-C is answered
            frame, self._frame = self._frame, None
        return frame

    def _read(self) -> None:
        number = 0
        failure = "no further frame"
        try:
            while not self._stop:
                ok, bgr = self._capture.read()
                if not ok:
                    break
                number += 1
                with self._new:
                    self._frame = (number, time.monotonic(), from_bgr(np.asarray(bgr, np.uint8)))
                    self._new.notify()
        except Exception as e:  # a driver may raise anything; the waiting thread must hear of it
            failure = " ".join(str(e).split()) or type(e).__name__
        with self._new:
            self._failure = failure
            self._new.notify()


def judge_camera(camera: Camera, detector: Detector, stop: Callable[[], bool]) -> Iterator[Frame]:
    """Judge the newest frame again and again until `stop()`. Raises CameraError, ModelError, ImageError."""
    while (frame := camera.newest(stop)) is not None:
        number, arrival, rgb = frame
        result = detector(rgb)
        age_s = time.monotonic() - arrival
        yield Frame(number, age_s, Verdict.STALE if age_s > MAX_AGE_S else result.verdict, result)
