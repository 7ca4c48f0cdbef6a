"""No address that is shown tells a user, a password or a token, whatever characters these hold."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_camera import mjpeg_camera, write_video
from tiny_model import good, write_model

from vtad_runtime.commands.run import run
from vtad_runtime.contract.credentials import login_hint, without_credentials
from vtad_runtime.receivers.message import OutputError
from vtad_runtime.receivers.mqtt import parse_url
from vtad_runtime.receivers.webhook import WebhookOutput
from vtad_runtime.sources.address import AddressError, parse
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.logins import Logins
from vtad_runtime.sources.mjpeg import Mjpeg


@contextmanager
def posts() -> Iterator[tuple[str, list[Message]]]:
    """A web server that takes every POST: its address, and the heads of the requests."""
    heads: list[Message] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heads.append(self.headers)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", heads
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://admin:secret@host:554/live", "rtsp://***@host:554/live"),
        ("rtsp://secret@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:se#cret@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:#secret@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:se/cret@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:se?cret@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:se@cret@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:se@c/r#e?t:x@host/live", "rtsp://***@host/live"),
        ("rtsp://admin:se cret@host/live", "rtsp://***@host/live"),
        ("rtsp:/admin:secret@host/live", "rtsp:/***@host/live"),
        ("http://host/?user=a&pwd=secret&x=1", "http://host/?user=a&pwd=***&x=1"),
        ("http://host/?PASSWORD=secret", "http://host/?PASSWORD=***"),
        ("http://host/a?pass=secret;y=2", "http://host/a?pass=***;y=2"),
        ("http://host/?access_token=secret&key=secret", "http://host/?access_token=***&key=***"),
        ("http://host/?client_secret=secret&auth=secret", "http://host/?client_secret=***&auth=***"),
        ("rtsp://host/user=a_password=secret_channel=1.sdp", "rtsp://host/user=a_password=***"),
        ("http://host/?loginuse=a&loginpas=secret&sig=secret", "http://host/?loginuse=a&loginpas=***&sig=***"),
        ("http://admin:secret@host/?token=secret", "http://***@host/?token=***"),
        ("http://host/?mail=a@b", "http://host/?mail=a@b"),
        ("http://host:8080/video", "http://host:8080/video"),
        ("parts/a@b.png", "parts/a@b.png"),
    ],
)
def test_what_is_shown_of_an_address(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


def test_the_hint_names_what_has_to_be_encoded() -> None:
    assert login_hint("rtsp://admin:secret@host/a#b") == ""
    assert login_hint("rtsp://admin:se#cr@et@host") == "; in user and password write # as %23, @ as %40"


@pytest.mark.parametrize("url", ["rtsp://admin:se#cret@host/live", "http://admin:#secret@host/live"])
def test_a_reserved_character_in_a_password_is_one_clear_error_that_says_how_to_write_it(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(AddressError, match=r"--stream: .*write # as %23") as source:
        parse(url)
    with pytest.raises(OutputError, match=r"--mqtt: .*write # as %23") as broker:
        parse_url(url.replace("rtsp:", "mqtt:").replace("http:", "mqtt:"))
    with pytest.raises(OutputError, match=r"--post: .*write # as %23") as web:
        WebhookOutput(url.replace("rtsp:", "http:"), tmp_path)
    assert not any("cret" in str(error.value) or "admin" in str(error.value) for error in (source, broker, web))


def test_an_address_that_does_not_open_tells_nothing() -> None:
    for url in ("http://admin:12/secret@127.0.0.1:9/", "http://127.0.0.1:9/a b?token=secret"):
        with pytest.raises(SourceError, match="expected a stream that opens") as error:
            Mjpeg(url)
        assert "secret" not in str(error.value)


def test_the_name_of_a_source_tells_nothing_and_its_key_stays_as_it_was() -> None:
    source = parse("rtsp://admin:secret@host:554/live?token=secret2")
    assert source.name == "rtsp://***@host:554/live?token=***"
    assert source.key == "rtsp://admin:***@host:554/live?token=secret2"
    with pytest.raises(AddressError) as error:
        parse("camera:rtsp://admin:secret@host")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("option", ["--folder", "--video", "--watch"])
def test_an_address_in_the_place_of_a_path_is_one_line_without_its_password(option: str) -> None:
    for typed in ([option, "rtsp://admin:secret@host/live"], ["rtsp://admin:secret@host/live"]):
        done = CliRunner().invoke(run, typed)
        assert (done.exit_code, "***@host" in done.output, "secret" in done.output) == (2, True, False)


def test_passwords_from_a_file_reach_camera_and_web_server_and_nothing_that_is_written(
    tmp_path: Path,
) -> None:
    file, model = tmp_path / "netrc", write_model(tmp_path / "m.onnx")
    file.write_text('machine 127.0.0.1 login admin password "se#c ret@1"\n')
    file.chmod(0o600)
    with mjpeg_camera(good(64, 64)) as camera, posts() as (web, heads):
        options = ["--stream", camera.url, "--post", web, "--credentials", str(file), "--max-frames", "2"]
        done = CliRunner().invoke(run, [*options, "--model", str(model), "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert "others can read" not in done.output
        login = base64.b64encode(b"admin:se#c ret@1").decode()
        assert {head.get("Authorization") for head in heads} == {f"Basic {login}"}
        file.chmod(0o644)
        done = CliRunner().invoke(run, [*options, "--model", str(model), "--out", str(tmp_path / "out")])
        assert "others can read the passwords in it (mode 644); chmod 600" in done.output
    assert "c ret" not in done.output
    for written in (tmp_path / "out").rglob("*"):
        assert written.is_dir() or not [w for w in (b"c ret", b"c%20ret") if w in written.read_bytes()], written


def test_logins_are_encoded_and_those_in_an_address_stay(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text('machine cam login a/b password "c:d@e"\nmachine other login x password y\n')
    logins = Logins(tmp_path / "netrc")
    assert logins.put_into("rtsp://cam:554/live?x=1") == "rtsp://a%2Fb:c%3Ad%40e@cam:554/live?x=1"
    assert logins.put_into("mqtt://CAM/topic") == "mqtt://a%2Fb:c%3Ad%40e@CAM/topic"
    for same in ("http://me:mine@cam/", "http://me@cam/", "http://third/"):
        assert logins.put_into(same) == same


def test_a_file_of_credentials_that_does_not_serve_is_one_line_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    asked = ["--stream", "http://cam/", "--credentials", str(file), "--out", str(tmp_path / "out")]
    for content, said in (
        (None, "expected a readable file, got .*: No such file"),
        (
            b"machine cam login me geheim\n",
            "expected lines such as machine HOST login .*, got another one near line \\d of",
        ),
        (b"geheim\n", "expected lines such as"),
        (b"machine cam login me password \xff\xfe\n", "--credentials: expected"),
        (b"machine kam login me password geheim\n", "expected an entry for a host of --stream, .* got kam"),
    ):
        if content is not None:
            file.write_bytes(content)
            file.chmod(0o600)
        done = CliRunner().invoke(run, asked)
        assert done.exit_code == 2
        assert re.search(said, done.output), done.output
        assert "geheim" not in done.output
        assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(run, ["--folder", ".", "--credentials", str(file)])
    assert (done.exit_code, "expected together with --stream, --mqtt or --post" in done.output) == (2, True)


def test_whole_addresses_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ["--model", str(write_model(tmp_path / "m.onnx")), "--out", str(tmp_path / "out")]
    write_video(tmp_path / "a.avi", [good(64, 64)])
    with mjpeg_camera(good(64, 64)) as camera, posts() as (web, heads):
        monkeypatch.setenv("VTAD_STREAM", f"{camera.url}?pwd=secret")
        monkeypatch.setenv("VTAD_POST", f"{web}secret")
        done = CliRunner().invoke(run, ["--max-frames", "1", *model])
        assert (done.exit_code, len(heads), "?pwd=***" in done.output) == (0, 1, True), done.output
        assert "secret" not in done.output
    done = CliRunner().invoke(run, ["--video", str(tmp_path / "a.avi"), *model])  # the command line counts
    assert (done.exit_code, "a.avi: judging" in done.output) == (0, True), done.output


def test_no_output_of_a_run_tells_the_password_of_its_stream_and_no_log_the_token_of_its_page(tmp_path: Path) -> None:
    with mjpeg_camera(good(64, 64)) as camera:
        url = camera.url.replace("http://", "http://admin:se%23cret@") + "?token=secret"
        model = write_model(tmp_path / "m.onnx")
        outputs = ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "out" / "rows.jsonl"), "--save", "all"]
        options = ["--model", str(model), "--post", "http://u:secret@127.0.0.1:9/secret", "--max-frames", "2"]
        links = []
        for form in ([], ["--log-json"]):
            done = CliRunner().invoke(run, ["--stream", url, "--live", "0.0.0.0:0", *options, *outputs, *form])
            assert done.exit_code == 0, done.output
            assert "***" in done.output
            assert "cret" not in done.output
            links += re.findall(r"\?token=([\w-]{43})", done.stdout)
            assert links[-1] not in done.stderr
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {"results.jsonl", "summary.json", "rows.jsonl", "messages.sqlite"} <= {file.name for file in written}
    assert len(links) == 2
    for file in written:
        assert not [word for word in ("cret", *links) if word.encode() in file.read_bytes()], file


def test_a_log_for_machines_alone_leaves_no_place_for_the_link_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "m.onnx")
    write_video(tmp_path / "a.avi", [good(64, 64)] * 2)
    options = ["--video", str(tmp_path / "a.avi"), "--model", str(model), "--out", str(tmp_path / "out")]
    machines = [*options, "--live", "0.0.0.0:0", "--log-json", "--json", "-"]
    done = CliRunner().invoke(run, machines)
    assert (done.exit_code, "--live: expected a token in VTAD_LIVE_TOKEN" in done.stderr) == (2, True)
    monkeypatch.setenv("VTAD_LIVE_TOKEN", "a-token-of-our-own")
    done = CliRunner().invoke(run, machines)
    assert done.exit_code == 0, done.output
    assert "with the token in VTAD_LIVE_TOKEN" in done.stderr
    assert "a-token" not in done.output
