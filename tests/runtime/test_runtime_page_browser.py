"""The live page as a person sees it, in headless Chromium: the verdict, the chart, and what is no longer true."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from chromium import WAIT_MS, in_chromium
from fake_camera import mjpeg_camera
from page_line import Line, serving
from tiny_model import bad, good, make_card, write_model

from vtad_runtime import Verdict

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
pytestmark = [pytest.mark.service, in_chromium]

RIGHT_OF_TEXT = (
    "e => { const r = document.createRange(); r.selectNodeContents(e); return r.getBoundingClientRect().right }"
)
HARMLESS = ("Failed to load", "willReadFrequently")  # a server that is gone on purpose; this test reads pixels


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page without errors: whatever the console says of scripts or the security policy fails the test."""
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    tab.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    tab.on("pageerror", lambda e: complaints.append(str(e)))
    tab.on("console", lambda m: None if any(h in m.text for h in HARMLESS) else complaints.append(m.text))
    yield tab
    tab.close()
    assert complaints == []


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


@contextmanager
def running(line: Line, rgb: Any, **changes: Any) -> Iterator[None]:
    """The source shows this picture ten times a second."""
    stop = threading.Event()

    def show() -> None:
        while not stop.wait(0.1):
            line.show(rgb, **changes)

    line.show(rgb, **changes)
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def says(page: Any, word: str) -> None:
    """Wait until the page's large word is this one."""
    sync_api.expect(page.locator("#word")).to_have_text(word)


def pixel(page: Any, x: int, y: int) -> list[int]:
    """RGB of the picture on the page."""
    return list(
        page.evaluate(
            "([x, y]) => [...document.getElementById('canvas').getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)",
            [x, y],
        )
    )


def test_a_defect_turns_the_verdict_and_the_chart_moves(line: Line, page: Any) -> None:
    with serving(line) as server:
        with running(line, good()):
            page.goto(server.url)
            says(page, "OK")
            assert page.locator("#verdict use").get_attribute("href") == "#shape-OK"
            assert page.locator("#chart .m-NG").get_attribute("d") == ""
            assert page.locator("#boxes rect").count() == 0
            before = page.locator("#chart .trace").get_attribute("d")
            sync_api.expect(page.locator("#chart .trace")).not_to_have_attribute("d", before)
        with running(line, bad(), alarm=True):
            says(page, "NG")
            assert page.locator("#verdict use").get_attribute("href") == "#shape-NG"
            sync_api.expect(page.locator("#alarm")).to_have_text("ALARM ON")
            # The score of 6.2 is above three thresholds, where the chart ends.
            sync_api.expect(page.locator("#chart .m-clipped")).to_have_attribute("d", re.compile(r"^M\d"))
            sync_api.expect(page.locator("#boxes .box")).to_have_count(1)
            box = page.locator("#boxes .box")
            assert abs(float(box.get_attribute("x")) - 16) < 1.5
            assert page.title() == "NG · tiny"
        with running(line, good(), alarm=False):
            says(page, "OK")


def test_a_lost_source_is_an_error_and_a_silent_one_no_frame(line: Line, page: Any) -> None:
    with serving(line) as server:
        with running(line, good()):
            page.goto(server.url)
            says(page, "OK")
        says(page, "NO FRAME")
        sync_api.expect(page.locator("#why")).to_contain_text("Last: OK at")
        sync_api.expect(page.locator("#old")).to_contain_text("last picture: frame")
        line.lose_source("camera 0: no picture; opening it again")
        says(page, "ERROR")
        sync_api.expect(page.locator("#why")).to_contain_text("camera 0: no picture; opening it again; no frame for")
        with running(line, good()):
            says(page, "OK")
            sync_api.expect(page.locator("#old")).to_be_hidden()


def test_an_old_frame_is_not_shown_as_ok(line: Line, page: Any) -> None:
    with serving(line) as server:
        page.goto(server.url)
        says(page, "WAITING")
        judgement = line.judge(good())
        frame = judgement.frame
        assert frame is not None
        old = type(frame)(**{**frame.__dict__, "captured": frame.captured - 20})
        line.state.write(type(judgement)(**{**judgement.__dict__, "frame": old}))
        says(page, "NO FRAME")


def test_a_frame_of_a_video_is_current_however_long_it_waited(tmp_path: Path, page: Any) -> None:
    line = Line(tmp_path, oldest_s=None)
    frame = line.judge(good()).frame
    assert frame is not None
    with serving(line) as server, running(line, good(), frame=dataclasses.replace(frame, captured=frame.captured - 20)):
        page.goto(server.url)
        says(page, "OK")
        sync_api.expect(page.locator("#age")).to_have_text(re.compile("2[0-9]"))


def test_a_dead_server_is_seen_and_a_new_one_found(line: Line, page: Any, tmp_path: Path) -> None:
    with serving(line) as server:
        port = str(urlsplit(server.url).port)
        with running(line, good()):
            page.goto(server.url)
            says(page, "OK")
            server.close()
            says(page, "NO CONNECTION")
    sync_api.expect(page.locator("#why")).to_contain_text("Last: OK at")
    again = Line(tmp_path)
    with serving(again, port), running(again, bad()):
        says(page, "NG")
        sync_api.expect(page.locator("#n-judged")).not_to_have_text("0")


def test_the_end_of_the_run_is_said(line: Line, page: Any) -> None:
    with serving(line) as server, running(line, good()):
        page.goto(server.url)
        says(page, "OK")
        line.state.close()
        says(page, "STOPPED")


def test_the_end_stays_said_when_the_server_ends_with_the_run(line: Line, page: Any) -> None:
    with serving(line) as server, running(line, good()):
        page.goto(server.url)
        says(page, "OK")
        line.state.close()
        server.close()
        says(page, "STOPPED")
        page.wait_for_timeout(4000)  # longer than the silence after which a connection counts as lost
        says(page, "STOPPED")


def test_a_camera_from_frame_to_page(tmp_path: Path, page: Any) -> None:
    """The whole way: a camera on loopback, vtad-run in a process of its own, the page in the browser."""
    model = write_model(tmp_path / "tiny.onnx", make_card(64, 64))
    code = "from vtad_runtime.commands.run import run; run()"
    with mjpeg_camera(good(128, 128)) as camera:
        command = [sys.executable, "-c", code, "--stream", camera.url, "--model", str(model), "--live", "127.0.0.1:0"]
        process = subprocess.Popen([*command, "--save", "none"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = next(line for line in process.stdout if line.startswith("live page: ")).split()[-1]
            threading.Thread(target=process.stdout.read, daemon=True).start()  # its lines must not fill the pipe
            page.goto(url)
            says(page, "OK")
            before = page.locator("#chart .trace").get_attribute("d")
            camera.picture = bad(128, 128, 32, 48, 16)
            says(page, "NG")
            sync_api.expect(page.locator("#chart .trace")).not_to_have_attribute("d", before)
            sync_api.expect(page.locator("#boxes .box")).to_have_count(1)
            sync_api.expect(page.locator("#ng li").first).to_be_visible()
            camera.mode = "off"
            says(page, "ERROR")
            sync_api.expect(page.locator("#old")).to_contain_text("last picture")
            camera.picture, camera.mode = good(128, 128), "on"
            says(page, "OK")
            process.send_signal(signal.SIGTERM)
            says(page, "STOPPED")
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def test_reasons_are_told(line: Line, page: Any) -> None:
    with serving(line) as server:
        with running(line, good(), verdict=Verdict.UNSURE, reason="the picture is black", result=None):
            page.goto(server.url)
            says(page, "UNSURE")
            sync_api.expect(page.locator("#why")).to_have_text("the picture is black")
        with running(line, good(), verdict=Verdict.STALE, reason="720 ms old, allowed 500 ms"):
            says(page, "STALE")


def test_the_slider_blends_the_heatmap_by_keyboard(line: Line, page: Any) -> None:
    with serving(line) as server, running(line, bad(x=16, y=24, size=8)):
        page.goto(server.url)
        says(page, "NG")
        sync_api.expect(page.locator("#boxes .box")).to_have_count(1)
        slider = page.get_by_role("slider", name="Heatmap")
        tinted = pixel(page, 20, 28)
        assert max(tinted) - min(tinted) > 60
        slider.focus()
        page.keyboard.press("ArrowLeft")
        sync_api.expect(page.locator("#blend-value")).to_have_text("95 %")
        page.keyboard.press("Home")
        sync_api.expect(page.locator("#blend-value")).to_have_text("0 %")
        plain = pixel(page, 20, 28)
        assert min(plain) > 240  # the white square
        page.keyboard.press("End")
        assert max(pixel(page, 20, 28)) - min(pixel(page, 20, 28)) > 60


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_is_wider_than_the_screen(line: Line, page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    line.state.set_drift("scores have moved up against the calibration: KS 0.31 (p 0.002), PSI 0.28 over 200 frames")
    line.state.set_golden("good/" + "a_long_name_without_any_space" * 3, ok=False)
    line.state.outputs = lambda: [{"name": "mqtt://" + "broker" * 12, "connected": False, "waiting": 123456789}]
    with serving(line) as server:
        with running(line, bad(), alarm=True):
            page.goto(server.url)
            says(page, "NG")
            page.locator("summary").click()
            sync_api.expect(page.locator("#outputs")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        with running(line, good(), verdict=Verdict.UNSURE, reason="x" * 90):
            says(page, "UNSURE")
            assert page.locator("#word").evaluate(RIGHT_OF_TEXT) <= width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        says(page, "NO FRAME")
        assert page.locator("#word").evaluate(RIGHT_OF_TEXT) <= width
        server.close()
        says(page, "NO CONNECTION")
        assert page.locator("#word").evaluate(RIGHT_OF_TEXT) <= width


def test_a_screen_reader_hears_changes_of_the_verdict_only(line: Line, page: Any) -> None:
    with serving(line) as server:
        with running(line, good()):
            page.goto(server.url)
            sync_api.expect(page.get_by_role("status").first).to_have_text("OK")
            page.evaluate(
                "() => { window.spoken = []; const e = document.getElementById('announce');"
                " new MutationObserver(() => window.spoken.push(e.textContent)).observe(e, {childList: true, subtree: true}) }"
            )
            seen = line.state.seq
            while line.state.seq < seen + 20:
                page.wait_for_timeout(50)
            assert page.evaluate("window.spoken") == []
        with running(line, bad()):
            says(page, "NG")
            sync_api.expect(page.locator("#announce")).to_have_text("NG")
            assert page.evaluate("window.spoken") == ["NG"]


def test_what_is_drawn_is_also_in_words(line: Line, page: Any) -> None:
    with serving(line) as server, running(line, bad()):
        page.goto(server.url)
        says(page, "NG")
        chart = page.get_by_role("img", name="Score over time")
        sync_api.expect(chart).to_be_visible()
        sync_api.expect(page.locator("#chart-summary")).to_contain_text("above the threshold")
        sync_api.expect(page.get_by_role("img", name="1 region boxed")).to_be_visible()
        for landmark in ("banner", "main"):
            assert page.get_by_role(landmark).count() == 1


def test_an_ng_picture_is_enlarged_and_closed_by_keyboard(line: Line, page: Any) -> None:
    line.show(bad())
    with serving(line) as server, running(line, good()):
        page.goto(server.url)
        button = page.get_by_role("button", name="NG, frame 1,")
        button.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        sync_api.expect(dialog).to_be_visible()
        sync_api.expect(page.locator("#large-title")).to_contain_text("NG, frame 1")
        page.locator("#large-picture").evaluate("image => image.decode()")
        page.keyboard.press("Escape")
        sync_api.expect(dialog).to_be_hidden()
        sync_api.expect(button).to_be_focused()


def test_drift_golden_samples_and_outputs_are_told(line: Line, page: Any) -> None:
    line.state.set_drift("scores have moved up")
    line.state.set_golden("4 parts judged as recorded")
    gone = {"connected": False, "waiting": 214, "last_error": "refused"}
    line.state.outputs = lambda: [
        {"name": "mqtt", "address": "mqtt://broker/line", **gone},
        {"name": "webhook", "connected": None, "dropped": 0},
    ]
    with serving(line) as server:
        page.goto(server.url)
        sync_api.expect(page.locator("#drift")).to_have_text("⚠ Driftscores have moved up")
        sync_api.expect(page.locator("#golden")).to_have_text("✓ Golden samples4 parts judged as recorded")
        broker, hook = page.locator("#outputs-list li").all()
        sync_api.expect(broker).to_have_text("mqtt NOT CONNECTED 214 waitingmqtt://broker/linelast error: refused")
        sync_api.expect(hook).to_have_text("webhook 0 dropped")


def test_a_file_is_named_below_its_picture(line: Line, page: Any) -> None:
    judgement = line.judge(good())
    frame = judgement.frame
    assert frame is not None
    named = type(frame)(**{**frame.__dict__, "path": "in/<b>part 7.png"})
    line.state.write(type(judgement)(**{**judgement.__dict__, "frame": named}))
    with serving(line) as server:
        page.goto(server.url)
        sync_api.expect(page.locator("#caption")).to_contain_text("<b>part 7.png, frame 1")  # text, never markup


def test_counts_and_numbers_are_shown(line: Line, page: Any) -> None:
    for _ in range(3):
        line.show(good())
    line.show(bad(), dropped=7, infer_ms=31.4)
    with serving(line) as server:
        page.goto(server.url)
        row = page.locator("#hours tr").first.locator("td")
        sync_api.expect(row).to_have_text(["3", "1", "0", "0", "0"])
        sync_api.expect(page.locator("#n-dropped")).to_have_text("7")
        sync_api.expect(page.locator("#n-infer")).to_have_text("31 ms")
        page.locator("summary").click()
        sync_api.expect(page.locator("#card")).to_contain_text("cd" * 32)


def test_the_printed_link_opens_the_page_and_the_token_leaves_the_address(line: Line, page: Any) -> None:
    with serving(line, "0.0.0.0:0") as server, running(line, good()):
        parts = urlsplit(server.url)
        page.goto(f"http://127.0.0.1:{parts.port}/?{parts.query}")
        says(page, "OK")
        sync_api.expect(page.locator("#canvas[data-frame]")).to_be_visible()
        assert page.url == f"http://127.0.0.1:{parts.port}/"
        page.reload()
        says(page, "OK")
        assert "token" not in page.evaluate("document.cookie")  # HttpOnly
