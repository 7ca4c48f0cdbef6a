"""Damaged bytes from the network: of a camera's MJPEG stream, and of what a browser may ask the live page."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from page_line import Line, serving
from PIL import Image
from tiny_model import bad

from fuzz.damage import ROUNDS, SEED, damaged
from vtad_runtime.page import connections
from vtad_runtime.sources.capture import SourceLost
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.mjpeg import Mjpeg, NotMjpegError

WAIT_S = 30.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
ASKED = [
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\nCookie: vtad=abc; other=1\r\nConnection: keep-alive\r\n\r\n",
    b"GET /events HTTP/1.1\r\nHost: localhost:8000\r\nAccept: text/event-stream\r\n\r\n",
    b"GET /ng/1-small.jpg?token=abc HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET /ng/" + b"9" * 5000 + b"-large.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /picture.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/octet-stream\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
]


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.fromarray(bad()).save(data, "JPEG", quality=90)
    return data.getvalue()


def part(data: bytes, length: bool) -> bytes:
    size = f"Content-Length: {len(data)}\r\n".encode() if length else b""
    return b"--frame\r\nContent-Type: image/jpeg\r\n" + size + b"\r\n" + data + b"\r\n"


@contextmanager
def camera() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with the first of `answers`, and hangs up."""
    answers: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # the listening socket is closed at the end
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    connection.recv(2**16)
                    connection.sendall(answers[0])

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/", answers
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def shots(url: str) -> list[bool]:
    """Of each picture that comes, whether it was whole, until the stream breaks off."""
    seen: list[bool] = []
    try:
        stream = Mjpeg(url)
    except (SourceError, NotMjpegError):
        return seen
    with suppress(SourceLost):
        while (shot := stream.read(lambda: False)) is not None:
            assert (shot.rgb is None) != (shot.error is None)
            seen.append(shot.error is None)
    stream.close()
    return seen


@pytest.mark.parametrize("length", [True, False])
def test_a_damaged_stream_gives_pictures_or_errors_and_breaks_off(length: bool) -> None:
    whole = HEAD + part(jpeg(), length) * 4 + b"--frame\r\n"
    with camera() as (url, answers):
        answers[:] = [whole]
        assert shots(url) == [True] * 4
        for data in damaged(whole, kind=300 + length):
            answers[:] = [data]
            start = time.monotonic()
            assert len(shots(url)) <= 9  # each damage doubles a piece at most
            assert time.monotonic() - start < WAIT_S


@pytest.mark.parametrize("length", [True, False])
def test_a_picture_that_is_cut_off_in_a_stream_is_never_taken_for_whole(length: bool) -> None:
    whole = jpeg()
    rng = np.random.default_rng((SEED, 302, length))
    cuts = [whole[: int(rng.integers(2, len(whole) - 2))] for _ in range(ROUNDS)]
    # In the head of the scan, which an end marker then completes.
    cuts.append(whole[: whole.index(b"\xff\xda") + 10])
    with camera() as (url, answers):
        for end in (b"", b"\xff\xd9"):
            answers[:] = [HEAD + b"".join(part(cut + end, length) for cut in cuts) + b"--frame\r\n"]
            assert shots(url) == [False] * len(cuts)


@pytest.mark.parametrize("asked", range(len(ASKED)))
def test_a_damaged_request_is_answered_or_cut_and_the_page_goes_on(
    asked: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.2)
    line = Line(tmp_path)
    line.show(bad())
    with serving(line) as server:
        port = urlsplit(server.url).port or 0
        for requests in batches(damaged(ASKED[asked], kind=310 + asked, rounds=max(20, ROUNDS // 4)), 20):
            viewers = [socket.create_connection(("127.0.0.1", port), WAIT_S) for _ in requests]
            for viewer, request in zip(viewers, requests, strict=True):
                with suppress(ConnectionError):
                    viewer.sendall(request)
            for viewer in viewers:
                with viewer, suppress(ConnectionError):
                    answer = viewer.recv(4096)
                    assert answer == b"" or answer[:12] in [
                        b"HTTP/1.1 %d" % n for n in (100, 200, 400, 403, 404, 405, 503)
                    ]
        connection = HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
    assert [record.getMessage() for record in caplog.records if record.name == "vtad"] == []
    assert capfd.readouterr().err == ""


def batches(data: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for one in data:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
