"""The live page without a browser: who may look, what is sent, and that nobody who looks holds up the judging."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from fake_camera import mjpeg_camera, write_video
from page_line import Line, serving
from tiny_model import GREY, bad, good, write_model

from vtad_runtime import Detector, Verdict
from vtad_runtime.line.build import build
from vtad_runtime.line.options import RunOptions
from vtad_runtime.line.wiring import rules_of
from vtad_runtime.page import app, connections, picture
from vtad_runtime.page.server import PageError, PageServer, parse_address
from vtad_runtime.sources.address import Address

WAIT_S = 30.0


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; `Host` and `Cookie` may be given."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=WAIT_S)
    connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers)
    response = connection.getresponse()
    answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    connection.close()
    return answer


def events(url: str) -> Any:
    """The events of the stream, as they come."""
    with urllib.request.urlopen(url + "events", timeout=WAIT_S) as stream:
        for text in stream:
            if text.startswith(b"data: "):
                yield json.loads(text[6:])


def pictures(url: str) -> Any:
    """The pictures of the MJPEG stream, as they come: what their header says, and (H, W, 3) RGB."""
    with urllib.request.urlopen(url + "picture.mjpg", timeout=WAIT_S) as stream:
        assert stream.headers["content-type"] == "multipart/x-mixed-replace; boundary=vtad-frame"
        while True:
            head = dict(
                text.decode().strip().split(": ", 1) for text in iter(stream.readline, b"\r\n") if b": " in text
            )
            if not head:
                return
            bgr = cv2.imdecode(np.frombuffer(stream.read(int(head["Content-Length"])), np.uint8), cv2.IMREAD_COLOR)
            assert bgr is not None
            stream.readline()
            yield json.loads(head["X-Vtad-Picture"]), bgr[:, :, ::-1]


def page_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "vtad-page"]


def test_the_page_is_served_on_this_machine_alone_with_strict_headers(line: Line) -> None:
    with serving(line) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", server.url)  # no token
        for name in app.ASSETS:
            status, headers, body = get(server.url + name)
            assert status == 200
            assert body
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers
            assert "set-cookie" not in headers
        assert get(server.url + "nothing")[0] == 404
        assert get(server.url, "POST")[0] == 405


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for name, _ in app.ASSETS.values():
        text = (files("vtad_runtime.page") / name).read_text(encoding="utf-8")
        addresses = set(re.findall(r"(?:https?:)?//[a-z][\w./]+", text.replace("// ", "")))
        assert addresses <= {"http://www.w3.org/2000/svg"}
        assert "style=" not in text  # the policy forbids it
        assert "onclick=" not in text


def test_another_name_for_this_machine_is_refused(line: Line) -> None:
    with serving(line) as server:
        for host in ("evil.example", "evil.example:80", "localhost.evil.example", "192.0.2.7", ""):
            status, headers, body = get(server.url, Host=host)
            assert (status, body.count(b"\n")) == (403, 1), host
            assert "default-src 'none'" in headers["content-security-policy"]
        for host in ("localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:80"):
            assert get(server.url, Host=host)[0] == 200, host


def test_beyond_this_machine_a_token_is_needed(line: Line) -> None:
    with serving(line, "0.0.0.0:0") as server:
        found = re.fullmatch(r"http://([\d.]+):(\d+)/\?token=([\w-]{43})", server.url)
        assert found
        base, token = f"http://127.0.0.1:{found[2]}/", found[3]
        for path in ("", "page.js", "events", "picture.mjpg", "ng/1-small.jpg", "?token=", "?token=x", "?token=%C3%A9"):
            status, headers, body = get(base + path)
            assert (status, body) == (
                403,
                b"refused: the token is missing or wrong; use the link that vtad-run printed\n",
            )
            assert "set-cookie" not in headers
        status, headers, _ = get(f"{base}?token={token}")
        assert status == 200
        cookie = headers["set-cookie"]
        assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in cookie.split(";")}
        assert get(base + "page.js", Cookie=cookie.split(";")[0])[0] == 200
        assert get(base + "page.js", Cookie=cookie.split("=")[0] + "=wrong")[0] == 403
        assert "domain" not in cookie.lower()  # so no other name is sent it
        for host in (f"192.0.2.7:{found[2]}", "line1.factory.example"):  # that of a proxy, too
            assert get(base, Host=host, Cookie=cookie.split(";")[0])[0] == 200
            assert get(f"{base}?token={token}", Host=host)[0] == 200
            assert get(base, Host=host)[0] == 403


def test_each_run_has_a_token_of_its_own(line: Line) -> None:
    with serving(line, "0.0.0.0:0") as one, serving(line, "0.0.0.0:0") as other:
        assert one.url.split("token=")[1] != other.url.split("token=")[1]


def test_a_port_in_use_is_one_line(line: Line) -> None:
    with serving(line) as server:
        port = urlsplit(server.url).port
        with pytest.raises(PageError, match=f"--live: cannot listen on 127.0.0.1 port {port}: Address .*in use") as e:
            PageServer(line.state, str(port))
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["uvicorn", "starlette.applications"])
def test_without_the_extra_it_says_what_to_install(line: Line, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "vtad_runtime.page.app", raising=False)
    with pytest.raises(PageError, match=re.escape("pip install 'vtad[live]'")):
        PageServer(line.state, "0")
    assert page_threads() == []


def test_addresses() -> None:
    assert parse_address("8000") == ("127.0.0.1", 8000)
    assert parse_address("localhost:80") == ("127.0.0.1", 80)
    assert parse_address("0.0.0.0:8000") == ("0.0.0.0", 8000)
    assert parse_address("[::1]:0") == ("::1", 0)
    for wrong in ("", "eight", "host", "host:", ":80", "70000", "http://x:80", "1:2:3", "-1"):
        with pytest.raises(PageError, match="--live: expected PORT or HOST:PORT, got"):
            parse_address(wrong)
    for no_name in ("line..local:80", f"{'a' * 64}:80"):
        with pytest.raises(PageError, match="--live: expected an address of this machine, got"):
            parse_address(no_name)


def test_an_address_of_another_machine_is_one_line(line: Line) -> None:
    with pytest.raises(PageError, match=r"--live: cannot listen on 192\.0\.2\.1 port 0"):
        PageServer(line.state, "192.0.2.1:0")


def test_the_first_event_says_everything_and_later_ones_what_changed(line: Line) -> None:
    line.show(good())
    line.show(bad(), dropped=3, alarm=True)
    with serving(line) as server:
        stream = events(server.url)
        first = next(stream)
        assert (first["source"], first["category"], first["threshold"]) == ("camera 0", "tiny", 2.0)
        assert first["card"]["weights sha256"] == "cd" * 32
        assert [(p[0], p[3]) for p in first["points"]] == [(1, "OK"), (2, "NG")]
        assert (first["latest"]["verdict"], first["latest"]["alarm"], first["dropped"]) == ("NG", True, 3)
        assert 0 <= first["frame_age_s"] < WAIT_S
        assert [ng["seq"] for ng in first["ng"]] == [2]
        line.show(good())
        second = next(e for e in stream if e["points"])
        assert [(p[0], p[3]) for p in second["points"]] == [(3, "OK")]
        assert "card" not in second


@pytest.mark.slow
def test_events_come_while_nothing_is_judged(line: Line) -> None:
    with serving(line) as server:
        stream = events(server.url)
        assert next(stream)["latest"] is None
        start = time.monotonic()
        assert [next(stream)["points"] for _ in range(2)] == [[], []]
        assert time.monotonic() - start < 10  # about two seconds on an idle machine


def test_the_end_of_the_run_is_said(line: Line) -> None:
    line.show(good())
    with serving(line) as server:
        stream = events(server.url)
        assert next(stream)["closed"] is False
        line.state.close()
        assert next(e for e in stream if e["closed"])["latest"]["verdict"] == "OK"


def test_numbers_that_are_not_finite_are_null(line: Line) -> None:
    line.lose_source("camera 0: gone")
    with serving(line) as server:
        event = next(events(server.url))
    assert (event["points"][0][2:], event["latest"]["score"]) == ([None, "ERROR"], None)
    assert event["frame_age_s"] is None
    assert event["latest"]["reason"] == "camera 0: gone"


def test_picture_and_heatmap_of_a_frame_come_as_one(line: Line) -> None:
    line.show(good())
    with serving(line) as server:
        stream = pictures(server.url)
        about, plain = next(stream)
        assert (about["frame"], about["regions"]) == (1, [])
        assert plain.shape == (128, 64, 3)
        assert np.abs(plain.astype(int) - GREY).max() <= 3  # a good part stays as it is
        line.show(bad(x=16, y=24, size=8))
        about, both = next(stream)
        assert about["frame"] == 2
        assert about["regions"] == [[0.25, 0.375, 0.125, 0.125]]
        upper, lower = both[:64], both[about["tinted_top"] :][:64]
        assert np.ptp(upper[28, 20].astype(int)) < 10  # white
        assert np.ptp(lower[28, 20].astype(int)) > 60  # tinted
        assert np.abs(lower[50, 50].astype(int) - GREY).max() <= 3


def test_a_large_picture_is_sent_smaller_with_its_heatmap_in_place(line: Line) -> None:
    line.show(bad(width=2000, height=1500, x=1000, y=300, size=250))
    with serving(line) as server:
        about, both = next(pictures(server.url))
    assert (about["width"], about["height"]) == (800, 600)
    lower = both[about["tinted_top"] :].astype(int)
    tinted = np.argwhere(np.ptp(lower, axis=2) > 60)
    assert np.abs(tinted.min(axis=0) - (120, 400)).max() <= 12
    assert np.abs(tinted.max(axis=0) - (220, 500)).max() <= 12


def test_a_picture_that_was_not_judged_is_shown_as_it_is(line: Line) -> None:
    line.show(bad(), result=None, verdict=Verdict.UNSURE, reason="frozen picture")
    with serving(line) as server:
        about, both = next(pictures(server.url))
    assert about["regions"] == []
    assert np.array_equal(both[:64], both[64:])


def test_the_last_twelve_ng_pictures_are_kept(line: Line) -> None:
    for _ in range(15):
        line.show(bad())
    line.show(good())
    with serving(line) as server:
        kept = [ng["seq"] for ng in next(events(server.url))["ng"]]
        assert kept == list(range(15, 3, -1))  # newest first
        for size in ("small", "large"):
            status, headers, body = get(f"{server.url}ng/15-{size}.jpg")
            assert (status, headers["content-type"]) == (200, "image/jpeg")
            assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) is not None
        status, _, body = get(f"{server.url}ng/3-small.jpg")
        assert (status, body) == (404, b"gone: only the last NG pictures are kept\n")


def test_what_is_kept_is_bounded(line: Line) -> None:
    judgement = line.judge(bad())
    for hour in range(40):
        for _ in range(30):
            line.state.write(
                type(judgement)(**{**judgement.__dict__, "captured_at": judgement.captured_at + 3600 * hour})
            )
    snapshot = line.state.snapshot()
    assert (len(snapshot["points"]), len(snapshot["ng"]), len(snapshot["hours"])) == (600, 12, 24)
    assert snapshot["totals"]["NG"] == 1200
    assert snapshot["hours"][0]["NG"] == 30
    assert snapshot["hours"][0]["start"] - snapshot["hours"][-1]["start"] == 23 * 3600


def test_a_kept_picture_holds_neither_the_full_frame_nor_the_batch(line: Line) -> None:
    judgement = line.show(bad(width=2000, height=1500, size=250))
    kept = line.state.kept("1")
    assert kept is not None
    assert kept.rgb.shape == (600, 800, 3)
    assert kept.result.model_heatmap.base is None
    assert judgement.result is not None
    assert not np.shares_memory(kept.result.model_heatmap, judgement.result.model_heatmap)


def test_a_picture_that_cannot_be_drawn_takes_neither_the_page_nor_the_line_away(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodes = cv2.imencode
    broken = True

    def encode(*arguments: Any) -> Any:
        return (False, np.zeros(0, np.uint8)) if broken else encodes(*arguments)

    with serving(line) as server:
        monkeypatch.setattr(cv2, "imencode", encode)
        line.show(bad())
        status, _, body = get(f"{server.url}ng/1-small.jpg")
        assert (status, b"cannot be saved as .jpg" in body) == (500, True)
        with ThreadPoolExecutor(1) as viewer:
            first = viewer.submit(next, pictures(server.url))
            time.sleep(0.3)  # the picture that cannot be sent is passed over
            broken = False
            line.show(good(), number=7)
            assert first.result(WAIT_S)[0]["frame"] == 7


def test_nothing_is_encoded_while_nobody_looks_and_each_frame_once_for_all(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    layers = picture.layers

    def counting(judgement: Any) -> picture.Layers:
        encoded.append(judgement.number)
        return layers(judgement)

    monkeypatch.setattr(picture, "layers", counting)
    with serving(line) as server:
        next(events(server.url))
        for _ in range(20):
            line.show(bad())
        assert encoded == []
        viewers = [pictures(server.url) for _ in range(3)]
        assert [next(v)[0]["frame"] for v in viewers] == [20, 20, 20]
        assert encoded == [20]


@pytest.mark.slow
def test_a_viewer_that_never_reads_holds_up_neither_the_line_nor_the_others_nor_the_end(line: Line) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)  # about a megabyte as JPEG
    with serving(line) as server:
        port = urlsplit(server.url).port
        asleep = []
        for path in ("picture.mjpg", "events"):
            stalled = socket.create_connection(("127.0.0.1", port))
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            asleep.append(stalled)
        awake = pictures(server.url)
        judgement = line.judge(noise)
        waited = 0.0
        for number in range(1, 16):
            newest = type(judgement)(**{**judgement.__dict__, "number": number, "verdict": Verdict.OK})
            start = time.perf_counter()
            line.state.write(newest)
            waited += time.perf_counter() - start
            while next(awake)[0]["frame"] != number:  # the others see each frame that is shown to them
                pass
        assert waited < 5  # seconds, for fifteen frames; less than a millisecond on an idle machine
        start = time.monotonic()
        server.close()
        assert time.monotonic() - start < 30  # two seconds on an idle machine; a viewer that is waited for has no end
        assert page_threads() == []
        for stalled in asleep:
            stalled.close()


def test_closing_ends_the_streams_and_the_thread_and_frees_the_port(line: Line) -> None:
    with serving(line) as server:
        port = urlsplit(server.url).port
        stream = events(server.url)
        next(stream)
        server.close()
        assert list(stream) == []
        assert page_threads() == []
        server.close()  # once more does no harm
        with serving(line, str(port)) as again:
            assert get(again.url)[0] == 200


def test_streams_are_limited_and_those_of_gone_viewers_do_not_count(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_STREAMS", 2)
    with serving(line) as server:
        one, two = events(server.url), events(server.url)
        next(one), next(two)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            next(events(server.url))
        one.close()
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                assert next(events(server.url))["source"] == "camera 0"
                return
            except urllib.error.HTTPError:
                time.sleep(0.05)
        pytest.fail("the stream of a gone viewer still counts")


def test_an_output_that_cannot_say_its_state_is_shown_as_such(line: Line) -> None:
    def broken() -> list[dict[str, Any]]:
        raise RuntimeError("spool is gone")

    line.state.outputs = lambda: [{"name": "mqtt", "waiting": 2, "at": Path("x"), "dropped": float("nan")}]
    assert line.state.snapshot()["outputs"] == [{"name": "mqtt", "waiting": 2, "at": "x", "dropped": None}]
    other = Line(line.detector.path.parent)
    other.state.outputs = broken
    (said,) = other.state.snapshot()["outputs"]
    assert "spool is gone" in said["last_error"]


def test_drift_and_golden_samples_are_said(line: Line) -> None:
    line.state.set_drift("scores have moved")
    line.state.set_golden("focus: 0.4 of what it was", ok=False)
    snapshot = line.state.snapshot()
    assert snapshot["drift"] == "scores have moved"
    assert snapshot["golden"] == {"text": "focus: 0.4 of what it was", "ok": False}
    line.state.set_drift(None)
    assert line.state.snapshot()["drift"] is None


def test_the_age_is_that_of_the_newest_frame_not_of_the_news(line: Line) -> None:
    judgement = line.judge(good())
    assert judgement.frame is not None
    old = type(judgement.frame)(**{**judgement.frame.__dict__, "captured": time.monotonic() - 100})
    line.state.write(type(judgement)(**{**judgement.__dict__, "frame": old}))
    line.lose_source("gone")
    snapshot = line.state.snapshot()
    assert 100 <= snapshot["frame_age_s"] < 100 + WAIT_S
    assert snapshot["since_frame_s"] < WAIT_S


def test_frames_of_a_live_source_alone_grow_too_old_to_be_shown_as_current(tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "tiny.onnx"), threads=1)

    def oldest(where: Address, **options: Any) -> Any:
        asked = RunOptions(where, live="0", **options)
        with ExitStack() as stack:
            page = build(asked, detector, rules_of(asked, detector.card), stack)[1].page
            assert page is not None
            return page.snapshot()["oldest_s"]

    video = Address("video", str(write_video(tmp_path / "a.avi", [good()])))
    assert oldest(video) is oldest(video, max_age=10.0) is None
    with mjpeg_camera(good()) as camera:
        stream = Address("stream", camera.url)
        assert [oldest(stream), oldest(stream, max_age=0.5), oldest(stream, max_age=10.0)] == [3, 3, 10]
        assert oldest(stream, every=30.0) == 60


def half_open(port: int, data: bytes = b"", count: int = 1) -> list[socket.socket]:
    """Connections that have sent `data` and no more."""
    made = []
    for _ in range(count):
        made.append(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S))
        made[-1].sendall(data)
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_hundreds_of_idle_and_half_sent_connections_take_few_descriptors_and_lock_nobody_out(line: Line) -> None:
    with serving(line) as server:
        before, port = descriptors(), urlsplit(server.url).port or 0
        held = half_open(port, count=150) + half_open(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", 150)
        try:
            assert next(events(server.url))["source"] == "camera 0"
            assert get(server.url)[0] == 200
            assert descriptors() - before - len(held) <= connections.MAX_CONNECTIONS + 20
        finally:
            for connection in held:
                connection.close()


def test_who_sends_no_whole_request_is_cut(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.2)
    with serving(line) as server:
        for data in (b"", b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
            (held,) = half_open(urlsplit(server.url).port or 0, data)
            with suppress(ConnectionResetError):
                assert held.recv(1) == b""


@pytest.mark.slow
def test_a_stream_whose_viewer_takes_nothing_is_cut_and_one_that_rests_is_not(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TAKING_S", 0.3)
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)  # about a megabyte as JPEG
    with serving(line) as server:
        resting = pictures(server.url)
        line.show(good())
        next(resting)
        time.sleep(0.7)  # no picture comes for longer than a viewer may take
        judgement = line.judge(noise)
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", urlsplit(server.url).port))
        stalled.sendall(b"GET /picture.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        deadline, cut = time.monotonic() + WAIT_S, False
        while not cut and time.monotonic() < deadline:
            line.state.write(dataclasses.replace(judgement, number=judgement.number + 1))
            assert next(resting)[0]["frame"] > 0
            try:
                stalled.sendall(b"x")
            except OSError:
                cut = True
        assert cut
        stalled.close()


def test_a_burst_does_not_pass_the_limit_of_streams(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_STREAMS", 3)
    with serving(line) as server:
        request = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        held = half_open(urlsplit(server.url).port or 0, request, 20)
        answers = sorted(connection.recv(12) for connection in held)
        assert answers == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 17
        for connection in held:
            connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="limits descriptors")
def test_without_descriptors_it_waits_and_says_so_once(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    import resource

    monkeypatch.setattr(connections, "RETRY_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(line) as server, ExitStack() as stack:
        viewers = [stack.enter_context(socket.socket()) for _ in range(5)]
        taken = [stack.enter_context(open(os.devnull, "rb"))]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0].fileno() + 50, hard))
            with suppress(OSError):
                while True:
                    taken.append(stack.enter_context(open(os.devnull, "rb")))
            for viewer in viewers:
                viewer.settimeout(WAIT_S)
                viewer.connect(("127.0.0.1", urlsplit(server.url).port))
                viewer.sendall(b"GET /icon.svg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            time.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [viewer.recv(12) for viewer in viewers] == [b"HTTP/1.1 200"] * 5
    assert [r.getMessage() for r in caplog.records if r.name == "vtad"] == [
        "live page: no viewer can connect: Too many open files"
    ]
    assert capfd.readouterr().err == ""


def test_a_given_token_is_asked_for_and_a_weak_one_is_refused(line: Line) -> None:
    server = PageServer(line.state, "0.0.0.0:0", "a-token-of-our-own")
    try:
        local = f"http://127.0.0.1:{urlsplit(server.url).port}/"
        assert get(f"{local}?token=a-token-of-our-own")[0] == 200
        assert get(local)[0] == 403
    finally:
        server.close()
    for weak in ("", "short", "sixteen or more; x"):
        with pytest.raises(PageError, match="VTAD_LIVE_TOKEN: expected 16 or more"):
            PageServer(line.state, "0.0.0.0:0", weak)
