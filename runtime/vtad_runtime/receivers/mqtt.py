"""Judgements to an MQTT broker (MQTT 3.1.1, quality of service 1), through a spool on disk.

Each judgement is one message on the topic, not retained. `<topic>/status` is retained: "online" while connected, "offline"
after a clean end, or sent by the broker itself (last will) when the connection breaks, so that silence is not taken for OK.
A message counts as delivered once the broker has confirmed it (PUBACK).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.credentials import login_hint, without_credentials
from vtad_runtime.contract.errors import one_line
from vtad_runtime.contract.host_name import is_host_name
from vtad_runtime.receivers.message import Messages, OutputError
from vtad_runtime.receivers.spool import SPOOL_BYTES, WAITS_S, NotDelivered, Spool
from vtad_runtime.verdict.judgement import Judgement

if TYPE_CHECKING:
    from paho.mqtt.client import Client

PORTS = {"mqtt": 1883, "mqtts": 8883}
BATCH = 20  # messages on their way at once
CONNECT_S = 5.0  # for the network, and again for the broker's answer
CONFIRM_S = 10.0  # for the broker to confirm a batch
KEEPALIVE_S = 15  # a broker that vanished is noticed after at most twice that
LOOK_S = 1.0  # how often the connection is looked after while nothing waits
CREDENTIALS = frozenset({"Bad user name or password", "Not authorized"})


@dataclass(frozen=True)
class Broker:
    """Where to publish."""

    shown: str  # the address without user and password
    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None
    topic: str


class MqttOutput:
    """Publishes one JSON object per judgement. Only its own thread waits for the broker."""

    def __init__(
        self, url: str, spool: Path, *, card: Card | None = None, waits_s: tuple[float, float] = WAITS_S
    ) -> None:
        """Publish to `url`, mqtt[s]://[user:password@]host[:port]/topic; percent-encoding is decoded.

        What waits is kept in the folder `spool`. `card` names the model in the messages; `waits_s` as of Spool. Raises
        OutputError: a wrong address, the extra `mqtt` is not installed, the spool is in use. A broker that cannot be
        reached is no error: messages wait.
        """
        self._broker = parse_url(url)
        _check_installed()
        self._messages = Messages(card)
        self._link: _Link | None = None
        self._folder = spool
        self._spool = Spool(spool, self._deliver, SPOOL_BYTES, "mqtt", BATCH, LOOK_S, waits_s)

    def write(self, judgement: Judgement) -> None:
        """Queue the judgement; never waits for the broker, never raises for it."""
        self._spool.put(self._messages.of(judgement))

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what waits within `timeout` seconds, say "offline", disconnect. The rest stays on disk."""
        self._spool.close(timeout)
        if self._spool.ended and self._link is not None:
            self._link.end("offline")
            self._link = None

    def state(self) -> dict[str, Any]:
        """name, address, waiting, delivered, dropped, rejected, connected, last_error."""
        return {"name": "mqtt", "address": self._broker.shown, **self._spool.state()}

    def _deliver(self, batch: Sequence[bytes]) -> None:
        """Connect if need be and publish; an empty batch only connects. Raises NotDelivered."""
        if self._link is not None and self._link.lost:
            reason = self._link.lost
            self._link.end()
            self._link = None
            raise NotDelivered(f"{self._broker.shown}: {reason}")
        if self._link is None:
            self._link = _Link(self._broker, _client_id(self._folder / "client-id"))
        try:
            self._link.publish(batch)
        except NotDelivered:
            self._link.end()  # a fresh connection, so that nothing of the old one is sent later, out of order
            self._link = None
            raise


class _Link:
    """One connection to the broker, never re-connected."""

    def __init__(self, broker: Broker, client_id: str) -> None:
        """Connect and say "online". Raises NotDelivered."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._broker, self._status = broker, f"{broker.topic}/status"
        self._changed = threading.Condition()  # guards what follows
        self._answer: str | None = None  # to the request to connect
        self._confirmed: set[int] = set()  # message ids
        self.lost = ""  # why the connection is gone

        client = Client(CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(BATCH + 1)  # a batch and the status
        client.will_set(self._status, "offline", qos=1, retain=True)
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            client.tls_set()  # the system's certificate authorities, or SSL_CERT_FILE; host name checked
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        self._client: Client = client
        try:
            client.connect(broker.host, broker.port, KEEPALIVE_S)
        except (OSError, ValueError) as e:  # ValueError: a host name that cannot be encoded
            raise NotDelivered(f"{broker.shown}: cannot connect: {one_line(e)}") from e
        client.loop_start()
        if not self._wait(lambda: self._answer is not None, CONNECT_S) or self._answer:
            reason = self._answer or self.lost or "no answer"
            self.end()
            hint = "; check user and password" if reason in CREDENTIALS else ""
            raise NotDelivered(f"{broker.shown}: the broker refused: {reason}{hint}")
        client.publish(self._status, "online", qos=1, retain=True)

    def publish(self, batch: Sequence[bytes]) -> None:
        """Publish in order and wait until all is confirmed. Raises NotDelivered, which says how many were."""
        with self._changed:
            self._confirmed.clear()  # of earlier batches, and of the status
        ids = [self._client.publish(self._broker.topic, message, qos=1).mid for message in batch]
        if self._wait(lambda: self._confirmed.issuperset(ids), CONFIRM_S):
            return
        confirmed = next((i for i, n in enumerate(ids) if n not in self._confirmed), len(ids))
        reason = self.lost or f"no confirmation within {CONFIRM_S:.0f} s"
        raise NotDelivered(f"{self._broker.shown}: {reason}", confirmed)

    def end(self, status: str | None = None) -> None:
        """Say the status and disconnect, within a few seconds."""
        if status is not None and not self.lost:
            sent = self._client.publish(self._status, status, qos=1, retain=True).mid
            self._wait(lambda: sent in self._confirmed, 1.0)
        self._client.disconnect()
        # paho's join has no bound, and its thread may be in the middle of a network call.
        joining = threading.Thread(target=self._client.loop_stop, name="vtad-mqtt-end", daemon=True)
        joining.start()
        joining.join(2.0)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came true before the connection was lost and the time was over."""
        with self._changed:
            self._changed.wait_for(lambda: condition() or self.lost, seconds)
            return bool(condition())

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._changed:
            self._answer = str(reason) if reason.is_failure else ""
            self._changed.notify_all()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._changed:
            self.lost = f"connection lost ({reason})"
            self._changed.notify_all()

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        with self._changed:
            self._confirmed.add(mid)
            self._changed.notify_all()


def parse_url(url: str) -> Broker:
    """The parts of mqtt[s]://[user:password@]host[:port]/topic. Raises OutputError."""
    shown = without_credentials(url)
    expected = "expected mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC or mqtts://..."
    wrong = OutputError(f"--mqtt: {expected}, got {shown!r}{login_hint(url)}")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as e:
        raise wrong from e
    topic = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in PORTS or not is_host_name(host) or not topic or parts.query or parts.fragment:
        raise wrong
    if set(topic) & set("+#\0") or len(topic.encode()) > 60_000:
        raise OutputError(f"--mqtt: expected a topic without + and #, got {topic[:80]!r}")
    return Broker(
        shown=shown,
        host=host,
        port=port or PORTS[parts.scheme],
        tls=parts.scheme == "mqtts",
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        topic=topic,
    )


def _check_installed() -> None:
    try:
        import_module("paho.mqtt.enums")  # since 2.0
    except ImportError as e:
        raise OutputError("--mqtt: expected paho-mqtt 2, which is not installed; pip install 'vtad[mqtt]'") from e


def _client_id(path: Path) -> str:
    """Read from the file, or made up and kept there.

    The same for every run with this spool, so that the broker ends a connection that is left over from the last one.
    """
    with suppress(OSError):
        kept = path.read_text(encoding="ascii", errors="replace").strip()
        if kept.startswith("vtad-") and kept.isprintable() and len(kept) < 24:
            return kept
    new = f"vtad-{uuid.uuid4().hex[:16]}"  # at most 23 characters: every broker takes that
    with suppress(OSError):  # then it is another one next time
        path.write_text(new, encoding="ascii")
    return new
