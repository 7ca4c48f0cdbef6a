"""Fake devices: a source driven by the test, and an HTTP server that sends MJPEG as network cameras do."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vtad_runtime.sources.capture import Shot, SourceLost

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class FakeSource:
    """Gives what the test puts: pictures, Shots, exceptions; None ends it. Waits for more, like a camera."""

    def __init__(self, *given: Any) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self.closed = threading.Event()
        self.reads = 0
        self.put(*given)

    def put(self, *given: Any) -> None:
        for item in given:
            self._queue.put(item)

    def read(self, stop: Callable[[], bool]) -> Shot | None:
        self.reads += 1
        while not stop():
            try:
                item = self._queue.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            return Shot(item) if isinstance(item, np.ndarray) else item
        return None

    def close(self) -> None:
        self.closed.set()


class MjpegCamera:
    """What the server sends; the test sets `picture` and `mode` at any time."""

    def __init__(self, picture: Pixels) -> None:
        self.picture = picture
        self.mode = "on"  # on, stall (sends nothing), off (refuses), garbage (damaged JPEG)
        self.noise = True  # as a sensor has: without it the picture counts as frozen
        self.sent = 0
        self.url = ""
        self._hang_up = 0
        self._rng = np.random.default_rng(0)

    def hang_up(self) -> None:
        """End every connection that is open now."""
        self._hang_up += 1

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        if self.mode == "off":
            request.send_error(503)
            return
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        until = self._hang_up
        while self._hang_up == until and self.mode != "off":
            if self.mode != "stall":
                data = self._jpeg()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                request.wfile.write(head.encode() + data + b"\r\n")
                self.sent += 1
            time.sleep(0.03)

    def _jpeg(self) -> bytes:
        rgb = self.picture.astype(np.int16)
        if self.noise:
            rgb = rgb + self._rng.integers(-1, 2, rgb.shape)
        data: bytes = cv2.imencode(".jpg", np.clip(rgb, 0, 255).astype(np.uint8)[:, :, ::-1])[1].tobytes()
        return data if self.mode != "garbage" else data[: len(data) // 3]


@contextmanager
def mjpeg_camera(picture: Pixels) -> Iterator[MjpegCamera]:
    """A camera on loopback, at `camera.url`."""
    camera = MjpegCamera(picture)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                camera.serve(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    camera.url = f"http://127.0.0.1:{server.server_address[1]}/video"
    try:
        yield camera
    finally:
        camera.mode = "off"
        server.shutdown()
        server.server_close()


def write_video(path: Path, pictures: list[Pixels], codec: str = "MJPG", fps: float = 25.0) -> Path:
    """A video file of these pictures."""
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for rgb in pictures:
        writer.write(np.ascontiguousarray(rgb[:, :, ::-1]))
    writer.release()
    return path


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until it holds; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


LOST = SourceLost("no further frame")
