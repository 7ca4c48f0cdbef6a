"""MJPEG cameras: every picture in its own size, damaged ones said, passwords answered and never shown."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import numpy as np
import pytest
from PIL import Image
from tiny_model import bad, good

from vtad_runtime.contract.image import decode_rgb
from vtad_runtime.sources import mjpeg
from vtad_runtime.sources.capture import SourceLost
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.mjpeg import Mjpeg, NotMjpegError
from vtad_runtime.sources.opencv_sources import open_stream

MULTIPART = "multipart/x-mixed-replace; boundary=frame"


def jpeg(rgb: np.ndarray[Any, Any]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "JPEG", quality=95)
    return data.getvalue()


def parts(*pictures: bytes, lengths: bool = True, boundary: str = "--frame") -> bytes:
    body = b""
    for data in pictures:
        length = f"Content-Length: {len(data)}\r\n" if lengths else ""
        body += f"{boundary}\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + data + b"\r\n"
    return body


@contextmanager
def answering(
    body: bytes,
    kind: str = MULTIPART,
    user: str = "",
    hold: bool = False,
    offers: tuple[str, ...] = ('Basic realm="camera"',),
    admits: Callable[[str], bool] | None = None,
) -> Iterator[str]:
    """A server that sends this and hangs up, or holds the line; its URL.

    `user` is the Authorization it wants, or `admits` says whether one will do; `offers` are the logins it asks for.
    """
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            if (user and given != user) or (admits and not admits(given)):
                self.send_response(401)
                for offer in offers:
                    self.send_header("WWW-Authenticate", offer)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)
                self.wfile.flush()
            if hold:
                release.wait(20)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}/video"
    finally:
        release.set()
        server.shutdown()
        server.server_close()


def never() -> bool:
    return False


def read(camera: Mjpeg) -> Any:
    shot = camera.read(never)
    assert shot is not None
    return shot


@pytest.mark.parametrize("lengths", [True, False])
def test_each_picture_keeps_its_size_whether_or_not_its_length_is_said(lengths: bool) -> None:
    pictures = [good(64, 64), bad(160, 96), good(32, 48)]
    end = b"" if lengths else b"--frame\r\n"
    with answering(parts(*map(jpeg, pictures), lengths=lengths) + end) as host:
        camera = Mjpeg(f"http://{host}")
        for picture in pictures:
            rgb = read(camera).rgb
            assert rgb.shape == picture.shape
            assert abs(rgb.astype(int) - picture).mean() < 2
        with pytest.raises(SourceLost, match="broke off"):
            camera.read(never)
        camera.close()


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize(
    ("announced", "sent"),
    [
        ("frame", "--frame"),
        ("--cam", "----cam"),  # as RFC 2046 has it
        ("--cam", "--cam"),
        ("frame", "frame"),
        ("frame", "--other"),
        ("--", "--cam"),
    ],
)
def test_a_boundary_is_found_however_the_camera_writes_it(announced: str, sent: str, lengths: bool) -> None:
    pictures = [good(64, 64), bad(160, 96), good(32, 48)]
    body = b"\r\n" + parts(*map(jpeg, pictures), lengths=lengths, boundary=sent) + f"{sent}--\r\n".encode()
    with answering(body, f"multipart/x-mixed-replace; boundary={announced}") as host:
        camera = Mjpeg(f"http://{host}")
        assert [read(camera).rgb.shape for _ in pictures] == [picture.shape for picture in pictures]
        with pytest.raises(SourceLost, match="broke off"):
            camera.read(never)
        camera.close()


def test_a_damaged_picture_is_an_error_and_the_next_is_read() -> None:
    whole = jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    with answering(parts(whole[: len(whole) // 2], b"no picture", whole)) as host:
        camera = Mjpeg(f"http://{host}")
        for _ in range(2):
            shot = read(camera)
            assert shot.rgb is None
            assert shot.error.startswith("frame: expected")
        assert read(camera).rgb.shape == (64, 64, 3)
        camera.close()


@pytest.mark.parametrize(
    "body",
    [
        parts(jpeg(good()))[:-200],
        b"--frame\r\nContent-Length: 99999999999\r\n\r\n",
        b"x" * 200_000,
        b"--frame\r\n" + b"a: b\r\n" * 60,
        b"",
    ],
)
def test_a_stream_that_is_cut_or_nonsense_is_lost(body: bytes) -> None:
    with answering(body) as host:
        camera = Mjpeg(f"http://{host}")
        with pytest.raises(SourceLost, match="broke off"):
            camera.read(never)
        camera.close()


def test_an_endless_stream_without_a_picture_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "MAX_BYTES", 100_000)
    with answering(b"x" * 200_000, hold=True) as host:
        camera = Mjpeg(f"http://{host}")
        with pytest.raises(SourceLost, match="broke off"):
            camera.read(never)
        camera.close()


def test_a_camera_that_stalls_is_lost_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "READ_TIMEOUT_S", 0.2)
    with answering(parts(jpeg(good())), hold=True) as host:
        camera = Mjpeg(f"http://{host}")
        read(camera)
        with pytest.raises(SourceLost, match="no frame for"):
            camera.read(never)
        camera.close()


def test_a_password_is_answered_and_never_told() -> None:
    with answering(parts(jpeg(good())), user="Basic YWRtaW46cEBzcw==") as host:  # admin:p@ss
        camera = Mjpeg(f"http://admin:p%40ss@{host}")
        assert read(camera).rgb.shape == (64, 64, 3)
        camera.close()
        with pytest.raises(SourceError) as error:
            Mjpeg(f"http://admin:wrong@{host}")
    assert "HTTP 401" in str(error.value)
    assert "wrong" not in str(error.value)


def offer(algorithm: str, qop: str = "auth") -> str:
    return f'Digest realm="Hall 2, line 1", nonce="n", algorithm={algorithm}, qop="{qop}", opaque="o"'


def digest(given: str) -> bool:
    """Whether an Authorization is Digest (RFC 7616) of admin and päss."""
    if not given.startswith("Digest "):
        return False
    said = parse_keqv_list(parse_http_list(given.removeprefix("Digest ")))
    hashed = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}[said["algorithm"]]
    one, two = (hashed(text.encode()).hexdigest() for text in ("admin:Hall 2, line 1:päss", f"GET:{said['uri']}"))
    whole = f"{one}:n:{said['nc']}:{said['cnonce']}:auth:{two}"
    return said["response"] == hashed(whole.encode()).hexdigest()


@pytest.mark.parametrize(
    "offers",
    [
        (offer("MD5"),),
        (offer("SHA-256"), offer("MD5")),
        (offer("SHA-512-256"), offer("MD5")),
        ("NTLM", "Negotiate YII=", offer("SHA-256")),
        (f'Basic realm="Hall 2, line 1", {offer("MD5-sess")}, Bearer, {offer("MD5")}',),
    ],
)
def test_of_several_logins_digest_is_taken_where_it_is_one_of_ours(offers: tuple[str, ...]) -> None:
    with answering(parts(jpeg(good())), offers=offers, admits=digest) as host:
        camera = Mjpeg(f"http://admin:p%C3%A4ss@{host}")
        assert read(camera).rgb.shape == (64, 64, 3)
        camera.close()


def test_basic_is_taken_where_digest_is_none_of_ours() -> None:
    offers = (offer("SHA-512-256"), "Digest nonce=", 'Basic realm="camera"')
    with answering(parts(jpeg(good())), user="Basic YWRtaW46cA==", offers=offers) as host:
        camera = Mjpeg(f"http://admin:p@{host}")
        assert read(camera).rgb.shape == (64, 64, 3)
        camera.close()


def test_a_login_that_is_not_supported_is_named() -> None:
    offers = ("NTLM", 'Bearer realm="camera"', offer("MD5", "auth-int"))
    with (
        answering(b"", user="none", offers=offers) as host,
        pytest.raises(SourceError, match="got a login method that is not supported: NTLM, Bearer, Digest MD5 auth-int"),
    ):
        Mjpeg(f"http://admin:p@{host}")


def test_what_is_no_mjpeg_goes_to_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("vtad_runtime.sources.opencv_sources.Stream", opened.append)
    with answering(b"", kind="video/mp4") as host:
        with pytest.raises(NotMjpegError):
            Mjpeg(f"http://{host}")
        open_stream(f"http://{host}")
    open_stream("rtsp://host/live")
    assert opened == [f"http://{host}", "rtsp://host/live"]


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(SourceError, match=r"http://127.0.0.1:1/x: expected a stream that opens, got"):
        open_stream("http://127.0.0.1:1/x")


def test_a_frame_that_lies_on_its_side_is_turned_as_a_file_is() -> None:
    wide = np.broadcast_to(np.linspace(0, 250, 80).astype(np.uint8)[None, :, None], (40, 80, 3)).copy()
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # turn clockwise to view
    Image.fromarray(wide).save(data, "JPEG", quality=95, exif=exif)
    with answering(parts(data.getvalue())) as host:
        shot = read(Mjpeg(f"http://{host}"))
    assert shot.rgb.shape == (80, 40, 3)
    np.testing.assert_array_equal(shot.rgb, decode_rgb(data.getvalue()))


def test_a_frame_that_was_cut_off_and_closed_is_an_error() -> None:
    whole = jpeg(good())
    with answering(parts(whole[: int(0.7 * len(whole))] + b"\xff\xd9")) as host:
        shot = read(Mjpeg(f"http://{host}"))
    assert shot.rgb is None
    assert "expected a whole picture" in shot.error


@contextmanager
def dripping(first: bytes, again: bytes, every_s: float = 0.05) -> Iterator[str]:
    """A server that answers with `first` and then `again` for ever, a little at a time; its address."""
    listener, ends = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(first)
            while not ends.wait(every_s):
                connection.sendall(again)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ends.set()
        listener.close()
        thread.join(5)


@pytest.mark.parametrize("again", [b"X-More: 1\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_answer_that_never_begins_is_refused_after_its_time(again: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "ANSWER_S", 0.5)
    first = b"HTTP/1.1 200 OK\r\n" if again.startswith(b"X") else b""
    start = time.monotonic()
    with dripping(first, again) as host, pytest.raises(SourceError, match="no whole answer within"):
        Mjpeg(f"http://{host}/")
    assert time.monotonic() - start < 5


def test_a_picture_that_is_dripped_is_given_up_or_left_when_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "PICTURE_S", 0.5)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {MULTIPART}\r\n\r\n--frame\r\nContent-Length: 100000\r\n\r\n".encode()
    with dripping(head, b"x") as host, pytest.raises(SourceLost, match="no whole picture within"):
        Mjpeg(f"http://{host}/").read(never)
    with dripping(head, b"x") as host:
        assert Mjpeg(f"http://{host}/").read(lambda: True) is None


def test_a_redirect_is_not_followed() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: ftp://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    with (
        dripping(answer, b"") as host,
        pytest.raises(SourceError, match="HTTP 302, a redirect; name the final address"),
    ):
        Mjpeg(f"http://{host}/")
