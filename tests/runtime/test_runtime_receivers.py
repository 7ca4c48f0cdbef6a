"""MQTT against a real mosquitto and the webhook against a real HTTP server, both on loopback."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_card

from vtad_runtime.contract.log import logging_to
from vtad_runtime.receivers.message import OutputError
from vtad_runtime.receivers.mqtt import MqttOutput, parse_url
from vtad_runtime.receivers.webhook import WebhookOutput
from vtad_runtime.verdict.judgement import Judgement
from vtad_runtime.verdict.verdict import Verdict

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
PASSWORDS = shutil.which("mosquitto_passwd")
QUICK = (0.05, 0.2)

needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def source_gone(number: int, source: str = "camera 0") -> Judgement:
    return Judgement(source, number, 1.7e9 + number, Verdict.ERROR, "camera lost", None, 2.0, None, None)


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def events(said: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in said.getvalue().splitlines()]


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with logging_to(json_lines=True, stream=stream):
        yield stream


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Broker:
    """A mosquitto of this test."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        self.config.write_text("\n".join([f"listener {self.port} 127.0.0.1", *lines, ""]))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self.answers)

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class Listener:
    """Subscribes to everything and keeps what comes: (topic, payload, retained)."""

    def __init__(self, broker: Broker, **login: str) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.got: list[tuple[str, str, bool]] = []
        subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        if login:
            self.client.username_pw_set(login["user"], login["password"])
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda _c, _d, m: self.got.append((m.topic, m.payload.decode(), m.retain))
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert subscribed.wait(20)

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload, _ in self.got if topic == "line 1/verdict"]

    def frames(self) -> list[int]:
        return [m["frame"] for m in self.messages()]

    def status(self) -> list[str]:
        return [payload for topic, payload, _ in self.got if topic == "line 1/verdict/status"]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path, "allow_anonymous true")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    listener = Listener(broker)
    yield listener
    listener.close()


Mqtt = Callable[..., MqttOutput]


@pytest.fixture
def mqtt(tmp_path: Path, said: io.StringIO) -> Iterator[Mqtt]:
    outputs: list[MqttOutput] = []

    def make(port: int, login: str = "", scheme: str = "mqtt", **options: Any) -> MqttOutput:
        url = f"{scheme}://{login}127.0.0.1:{port}/line%201/verdict"
        outputs.append(MqttOutput(url, tmp_path / "spool", waits_s=QUICK, **options))
        return outputs[-1]

    yield make
    for output in outputs:
        output.close(1)


@needs_broker
@pytest.mark.slow
def test_judgements_reach_the_broker_in_order_and_name_who_says_them(
    broker: Broker, listener: Listener, mqtt: Mqtt
) -> None:
    output = mqtt(broker.port, card=make_card())
    for n in range(1, 201):
        output.write(source_gone(n))
    eventually(lambda: len(listener.frames()) >= 200)
    assert listener.frames() == list(range(1, 201))
    first, second = listener.messages()[:2]
    assert (first["verdict"], first["reason"], first["source"]) == ("ERROR", "camera lost", "camera 0")
    assert (first["host"], first["category"], first["weights"]) == (socket.gethostname(), "tiny", "cd" * 6)
    assert (first["sequence"], second["sequence"]) == (1, 2)
    assert first["id"] == f"{first['run']}-1" != second["id"]
    output.close()
    assert output.state()["delivered"] == 200
    assert output.state()["waiting"] == 0


@needs_broker
@pytest.mark.slow
def test_the_status_topic_says_online_and_offline(broker: Broker, listener: Listener, mqtt: Mqtt) -> None:
    output = mqtt(broker.port)
    eventually(lambda: listener.status() == ["online"])  # before anything was judged
    late = Listener(broker)
    eventually(lambda: ("line 1/verdict/status", "online", True) in late.got)
    late.close()
    output.close()
    eventually(lambda: listener.status() == ["online", "offline"])


@needs_broker
@pytest.mark.slow
def test_a_killed_program_is_offline_by_its_last_will(broker: Broker, listener: Listener, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from vtad_runtime.receivers.mqtt import MqttOutput\n"
        "MqttOutput(sys.argv[1], Path(sys.argv[2]))\n"
        "time.sleep(60)\n"
    )
    url = f"mqtt://127.0.0.1:{broker.port}/line%201/verdict"
    process = subprocess.Popen([sys.executable, "-c", program, url, str(tmp_path / "spool")])
    eventually(lambda: listener.status() == ["online"])
    process.kill()
    process.wait(10)
    eventually(lambda: listener.status() == ["online", "offline"])


@needs_broker
@pytest.mark.slow
def test_a_broker_that_is_away_for_a_while_is_said_and_gets_everything_when_it_is_back(
    broker: Broker, listener: Listener, mqtt: Mqtt, said: io.StringIO
) -> None:
    output = mqtt(broker.port)
    for n in range(1, 51):
        output.write(source_gone(n))
    eventually(lambda: len(listener.frames()) >= 50)
    eventually(lambda: output.state()["delivered"] == 50)
    broker.stop()
    for n in range(51, 151):
        output.write(source_gone(n))
    eventually(lambda: output.state()["connected"] is False)
    assert output.state()["waiting"] == 100
    listener.close()
    broker.start()
    eventually(lambda: output.state()["waiting"] == 0)
    assert output.state()["delivered"] == 150
    assert output.state()["dropped"] == 0
    assert events(said)[0] == "mqtt_lost"
    assert len(events(said)) <= 3  # each reason once: the connection broke, then nobody answered
    assert events(said)[-1] == "mqtt_back"


@needs_broker
@pytest.mark.slow
def test_nothing_is_lost_when_the_broker_is_killed_in_the_middle_again_and_again(tmp_path: Path, mqtt: Mqtt) -> None:
    # The listener's session and its queue live in the broker's database, so that only the output can lose something.
    broker = Broker(
        tmp_path,
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {tmp_path}/",
        "autosave_interval 1",
        "autosave_on_changes true",
        "max_queued_messages 100000",
        *(["user root"] if os.geteuid() == 0 else []),
    )
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    got: list[int] = []
    subscribed = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, "listener", clean_session=False)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda c, *_: c.subscribe("line 1/verdict", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _c, _d, m: got.append(json.loads(m.payload)["sequence"])
    broker.start()
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert subscribed.wait(20)
    output = mqtt(broker.port)
    try:
        for _ in range(2):
            for n in range(150):
                output.write(source_gone(n))
            assert broker.process is not None
            broker.process.terminate()  # saves its database, drops the connections in the middle of the stream
            for n in range(150):
                output.write(source_gone(n))
            broker.process.wait(10)
            assert output.state()["waiting"] > 0
            broker.start()
        eventually(lambda: output.state()["waiting"] == 0)
        eventually(lambda: set(got) == set(range(1, 601)))
    finally:
        client.disconnect()
        client.loop_stop()
        broker.stop()
    new = list(dict.fromkeys(got))  # a repeat is allowed, a message before an earlier one is not
    assert new == list(range(1, 601))


@needs_broker
@pytest.mark.slow
def test_judgements_of_a_run_without_a_broker_go_first_in_the_next_run(
    broker: Broker, listener: Listener, mqtt: Mqtt
) -> None:
    away = mqtt(free_port())
    for n in range(1, 21):
        away.write(source_gone(n))
    away.close()
    assert away.state()["waiting"] == 20
    output = mqtt(broker.port)
    output.write(source_gone(21))
    eventually(lambda: len(listener.frames()) >= 21)
    assert listener.frames() == list(range(1, 22))


@needs_broker
@pytest.mark.slow
@pytest.mark.skipif(PASSWORDS is None, reason="mosquitto_passwd is not installed")
def test_a_wrong_password_is_one_clear_state_and_holds_nothing_up(
    tmp_path: Path, mqtt: Mqtt, said: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run([str(PASSWORDS), "-c", "-b", str(passwords), "line", "right:@/#"], check=True, capture_output=True)
    passwords.chmod(0o644)
    user = ["user root"] if os.geteuid() == 0 else []
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}", *user)
    broker.start()
    try:
        output = mqtt(broker.port, login="line:secret-but-wrong@")
        start = time.monotonic()
        for n in range(1, 101):
            output.write(source_gone(n))
        assert time.monotonic() - start < 5
        eventually(lambda: output.state()["last_error"])
        state = output.state()
        assert state["last_error"] == (
            f"mqtt://***@127.0.0.1:{broker.port}/line%201/verdict: "
            "the broker refused: Not authorized; check user and password"
        )
        assert (state["connected"], state["waiting"]) == (False, 100)
        time.sleep(3 * QUICK[1])  # some more attempts
        output.close()
        assert events(said) == ["mqtt_lost", "mqtt_left"]

        right = mqtt(broker.port, login="line:right%3A%40%2F%23@")
        eventually(lambda: right.state()["delivered"] == 100)
        right.close()
        shown = said.getvalue() + str(right.state()) + str(state) + "".join(capsys.readouterr())
        assert "secret" not in shown
        assert "right" not in shown
    finally:
        broker.stop()


@needs_broker
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_mqtts_checks_the_certificate(tmp_path: Path, mqtt: Mqtt, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files],
        check=True,
        capture_output=True,
    )
    user = ["user root"] if os.geteuid() == 0 else []
    broker = Broker(tmp_path, f"certfile {certificate}", f"keyfile {key}", "allow_anonymous true", *user)
    broker.start()
    try:
        unknown = mqtt(broker.port, scheme="mqtts")
        unknown.write(source_gone(1))
        eventually(lambda: unknown.state()["last_error"])
        assert "certificate verify failed" in unknown.state()["last_error"]
        unknown.close()
        assert unknown.state()["delivered"] == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        known = mqtt(broker.port, scheme="mqtts")
        eventually(lambda: known.state()["delivered"] == 1)
        known.close()
    finally:
        broker.stop()


def test_a_broker_that_accepts_and_never_answers_does_not_hold_up_the_judging(mqtt: Mqtt) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        output = mqtt(silent.getsockname()[1])
        start = time.monotonic()
        for n in range(100):
            output.write(source_gone(n))
        output.close(0.2)
        assert time.monotonic() - start < 5
        assert output.state()["waiting"] == 100
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "vtad-mqtt"])


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://host",
        "mqtt://host/",
        "http://host/topic",
        "host/topic",
        "mqtt:///topic",
        "mqtt://u:p@host:x/t",
        "mqtt://host/a/+/b",
        "mqtt://host/%23",
        "mqtt://u:p@host/topic?retain=1",
        "mqtt://u:p@line..local/topic",
        f"mqtt://{'a' * 64}.local/topic",
    ],
)
def test_a_wrong_broker_address_is_one_clear_error_without_the_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(OutputError, match=r"^--mqtt: expected .* got ") as caught:
        MqttOutput(url, tmp_path)
    assert "u:p" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_parts_of_a_broker_address() -> None:
    broker = parse_url("mqtts://a%40b:c%2Fd@host/x/y%20z")
    assert (broker.host, broker.port, broker.tls, broker.user, broker.password, broker.topic) == (
        "host",
        8883,
        True,
        "a@b",
        "c/d",
        "x/y z",
    )
    assert broker.shown == "mqtts://***@host/x/y%20z"
    assert parse_url("mqtt://host:99/t").port == 99


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.enums", None)
    with pytest.raises(OutputError, match=r"pip install 'vtad\[mqtt\]'") as caught:
        MqttOutput("mqtt://host/topic", tmp_path / "spool")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "spool").exists()


class Server:
    """A web server that answers with the next of `answers`, then 200; keeps what was posted."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.refused = 0
        self.location = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = outer.answers.pop(0) if outer.answers else 200
                if code == 200:
                    outer.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                else:
                    outer.refused += 1
                if code == 0:  # hangs up
                    return
                self.send_response(code)
                if 300 <= code < 400:
                    self.send_header("Location", outer.location)
                self.end_headers()

            def do_GET(self) -> None:
                outer.got.append((self.path, {}, {"frame": "a redirect was followed"}))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def frames(self) -> list[int]:
        return [body["frame"] for _, _, body in self.got]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


Webhook = Callable[..., WebhookOutput]


@pytest.fixture
def webhook(tmp_path: Path, said: io.StringIO) -> Iterator[Webhook]:
    outputs: list[WebhookOutput] = []

    def make(url: str, **options: Any) -> WebhookOutput:
        outputs.append(WebhookOutput(url, tmp_path / "spool", waits_s=QUICK, **options))
        return outputs[-1]

    yield make
    for output in outputs:
        output.close(1)


def test_each_judgement_is_one_post_in_order(server: Server, webhook: Webhook) -> None:
    output = webhook(f"http://127.0.0.1:{server.port}/hook?key=1", card=make_card())
    for n in range(1, 51):
        output.write(source_gone(n))
    eventually(lambda: len(server.got) == 50)
    assert server.frames() == list(range(1, 51))
    path, headers, body = server.got[0]
    assert path == "/hook?key=1"
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == body["id"] == f"{body['run']}-1"
    assert (body["verdict"], body["category"], body["captured_at"]) == ("ERROR", "tiny", "2023-11-14T22:13:21.000Z")
    eventually(lambda: output.state()["delivered"] == 50)
    assert output.state()["connected"] is True


@pytest.mark.parametrize("code", [500, 503, 408, 429, 302, 307, 0])
def test_what_may_pass_is_tried_again_in_order(server: Server, webhook: Webhook, code: int, said: io.StringIO) -> None:
    server.location = f"http://127.0.0.1:{server.port}/elsewhere"
    server.answers = [200, code, code]
    output = webhook(f"http://127.0.0.1:{server.port}/hook")
    for n in range(1, 6):
        output.write(source_gone(n))
    eventually(lambda: len(server.got) >= 5)
    assert server.frames() == [1, 2, 3, 4, 5]
    assert {path for path, _, _ in server.got} == {"/hook"}
    assert server.refused == 2
    eventually(lambda: output.state()["delivered"] == 5)
    assert output.state()["rejected"] == 0
    assert events(said) == ["webhook_lost", "webhook_back"]


@pytest.mark.parametrize("code", [400, 401, 404, 410, 422])
def test_what_is_refused_for_good_is_dropped_counted_and_said_once(
    server: Server, webhook: Webhook, code: int, said: io.StringIO
) -> None:
    server.answers = [200, code, code]
    output = webhook(f"http://127.0.0.1:{server.port}/hook")
    for n in range(1, 6):
        output.write(source_gone(n))
    eventually(lambda: len(server.got) >= 3)
    assert server.frames() == [1, 4, 5]
    eventually(lambda: output.state()["delivered"] == 3)
    assert output.state()["rejected"] == 2
    assert events(said) == ["webhook_rejected"]
    assert f"HTTP {code}" in output.state()["last_error"]


def test_a_server_that_is_not_there_yet_gets_everything_later(
    server: Server, webhook: Webhook, said: io.StringIO
) -> None:
    away = webhook(f"http://127.0.0.1:{free_port()}/hook")
    for n in range(1, 11):
        away.write(source_gone(n))
    eventually(lambda: away.state()["connected"] is False)
    assert "refused" in away.state()["last_error"].lower()
    away.close()
    webhook(f"http://127.0.0.1:{server.port}/hook").write(source_gone(11))
    eventually(lambda: len(server.got) == 11)
    assert server.frames() == list(range(1, 12))
    keys = [headers["idempotency-key"] for _, headers, _ in server.got]
    assert len(set(keys)) == 11


def test_a_server_that_never_answers_times_out_and_holds_nothing_up(webhook: Webhook) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        output = webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.2)
        start = time.monotonic()
        for n in range(100):
            output.write(source_gone(n))
        assert time.monotonic() - start < 5
        eventually(lambda: output.state()["connected"] is False)
        assert re.search("timed out|no whole answer within 0.2 s", output.state()["last_error"])
        assert output.state()["waiting"] == 100


def test_a_login_goes_into_the_header_and_secrets_are_never_shown(
    server: Server, webhook: Webhook, said: io.StringIO
) -> None:
    server.answers = [500, 404]
    output = webhook(f"http://line:pass%2Fword@127.0.0.1:{server.port}/secret-path?token=secret-query")
    output.write(source_gone(1, source="rtsp://viewer:secret-camera@10.0.0.9/live"))
    output.write(source_gone(2))
    output.write(source_gone(3))
    eventually(lambda: output.state()["delivered"] == 2)
    headers = server.got[0][1]
    assert headers["authorization"] == "Basic " + base64.b64encode(b"line:pass/word").decode()
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert output.state()["address"] == f"http://127.0.0.1:{server.port}/..."
    assert not any(word in said.getvalue() + str(output.state()) for word in ("secret", "pass", "line:"))
    assert all("secret" not in json.dumps(body) for _, _, body in server.got)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "host/x",
        "file:///etc/passwd",
        "http:///x",
        "http://u:p@host:x/",
        "http://host/a b",
        "http://u:p@line..local/x",
        f"https://{'a' * 64}.local/x",
    ],
)
def test_a_wrong_web_address_is_one_clear_error_without_the_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(OutputError, match=r"^--post: expected http") as caught:
        WebhookOutput(url, tmp_path / "spool")
    assert "u:p" not in str(caught.value)
    assert not (tmp_path / "spool").exists()
