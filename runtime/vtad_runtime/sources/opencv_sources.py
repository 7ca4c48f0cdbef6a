"""What frames come from through OpenCV: a camera, a video file, a network stream."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vtad_runtime.contract.credentials import login_hint, without_credentials
from vtad_runtime.sources.capture import FrameSource, Shot, SourceLost
from vtad_runtime.sources.folder import SourceError

OPEN_TIMEOUT_MS, READ_TIMEOUT_MS = 5000, 3000  # of a stream; FFmpeg's own is 30 s, for which nothing could be stopped
CAMERAS = 10  # numbers that are tried
WHOLE = 0.9  # share of the frames a video's header promises; the promise is an estimate in some containers


class _Live:
    """What is grabbed as it comes. Its subclasses open it."""

    _capture: Any
    _over: str  # what is said when no further frame comes

    def read(self, stop: Callable[[], bool]) -> Shot | None:
        """The next frame with the moment it was there. Raises SourceLost when there is none."""
        if not self._capture.grab():
            raise SourceLost(self._over)
        captured = time.monotonic()  # before decoding
        ok, bgr = self._capture.retrieve()
        if not ok or bgr is None:
            return Shot(None, captured=captured, error="expected a frame, got one that cannot be decoded")
        return Shot(_rgb(bgr), captured=captured)

    def close(self) -> None:
        """Let go of it."""
        self._capture.release()


class Camera(_Live):
    """A camera of this machine."""

    _over = "no further frame"

    def __init__(self, index: int, size: tuple[int, int] | None = None, fps: float | None = None) -> None:
        """Open camera `index` and ask for `size` (width, height in pixels) and `fps`; it may give others. Raises SourceError."""
        none = f"camera {index}: expected a camera that opens, got none; check its number and permissions"
        self._capture = _opened(index, otherwise=f"{none}; --list-cameras says which open")
        if size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps is not None:
            self._capture.set(cv2.CAP_PROP_FPS, fps)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # frames that wait in the driver only grow old


def open_stream(url: str) -> FrameSource:
    """A network stream: MJPEG over HTTP by our own reader, RTSP and whatever else by OpenCV. Raises SourceError."""
    if not url.lower().startswith("http"):
        return Stream(url)
    from vtad_runtime.sources.mjpeg import Mjpeg, NotMjpegError  # its network libraries take 50 ms, for nobody else

    try:
        return Mjpeg(url)
    except NotMjpegError:
        return Stream(url)


class Stream(_Live):
    """A network stream through OpenCV. A picture whose size changes is scaled by it to the size of the first one."""

    _over = "the stream broke off"  # or nothing came for three seconds

    def __init__(self, url: str) -> None:
        """Connect. Raises SourceError when nothing answers within five seconds."""
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
        none = (
            f"{without_credentials(url)}: expected a stream that opens, got none within {OPEN_TIMEOUT_MS / 1000:.0f} s"
        )
        otherwise = f"{none}; check the address, the password and the network{login_hint(url)}"
        self._capture = _opened(url, cv2.CAP_FFMPEG, timeouts, otherwise=otherwise)


class Video:
    """A video file, each frame once, as fast as they are taken."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises SourceError: absent, or no video."""
        if not path.is_file():
            got = "a folder" if path.is_dir() else "no plain file" if path.exists() else "nothing there"
            raise SourceError(f"{path}: expected a video file, got {got}; check the path")
        other = f"{path}: expected a video that OpenCV reads (MP4, AVI, MKV, ...), got another file"
        self._capture = _opened(str(path), cv2.CAP_FFMPEG, otherwise=other)
        self._path = path
        self._frames = 0
        self._promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._ended = False

    @property
    def fps(self) -> float:
        """Frames per second of the recording; 0 when it does not say."""
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        return fps if 0 < fps < 1000 else 0.0

    def read(self, stop: Callable[[], bool]) -> Shot | None:
        """The next frame; one with an error where the file breaks off before its end; None after the last."""
        if self._ended:
            return None
        media_s = self._frames / self.fps if self.fps else None
        start = time.monotonic()
        ok, bgr = self._capture.read()
        if ok:
            self._frames += 1
            return Shot(_rgb(bgr), captured=start, media_s=media_s)
        self._ended = True
        if self._frames < WHOLE * self._promised:
            got = f"expected {self._promised} frames, the video ends after {self._frames}; it is damaged or cut off"
            return Shot(None, captured=start, error=f"{self._path}: {got}")
        return None

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def list_cameras() -> list[str]:
    """A line for each camera that opens, with the size it gives and, on Linux, its name."""
    _be_quiet()
    found = []
    for index in range(CAMERAS):
        capture = cv2.VideoCapture(index)
        if capture.isOpened():
            width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            found.append(f"camera {index}: {width}x{height}{_device_name(index)}")
        capture.release()
    return found


def _device_name(index: int) -> str:
    """What Linux calls the device, as ", name"; nothing elsewhere."""
    try:
        return f", {Path(f'/sys/class/video4linux/video{index}/name').read_text(encoding='utf-8').strip()}"
    except OSError:
        return ""


def _opened(*where: Any, otherwise: str) -> Any:
    """What OpenCV opens. Raises SourceError with the text `otherwise`."""
    _be_quiet()
    capture = cv2.VideoCapture(*where)
    if not capture.isOpened():
        capture.release()
        raise SourceError(otherwise)
    return capture


def _rgb(bgr: Any) -> Any:
    """OpenCV's order of colours to RGB; what is no colour picture is passed on to be refused or widened."""
    colour = isinstance(bgr, np.ndarray) and bgr.ndim == 3 and bgr.shape[2] == 3
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) if colour else bgr


def _be_quiet() -> None:
    """A device that does not open is reported once, by our own error."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
