"""Judgements to a web server: one POST of one JSON object each, through a spool on disk.

2xx is a confirmation. 4xx other than 408 and 429 is a refusal for good: the message is dropped and counted. Everything else
(no connection, time-out, 5xx, a redirect) is tried again, in order. Redirects are never followed: to follow a POST would mean
to send judgements to an address that nobody named.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.credentials import login_hint, reserved_in_login
from vtad_runtime.contract.host_name import is_host_name
from vtad_runtime.receivers.message import Messages, OutputError
from vtad_runtime.receivers.spool import SPOOL_BYTES, WAITS_S, NotDelivered, Rejected, Spool
from vtad_runtime.sources.bounded_http import cause, open_bounded
from vtad_runtime.verdict.judgement import Judgement

RETRIED = frozenset({408, 429})  # of the 4xx: too slow, too many


class WebhookOutput:
    """Posts one JSON object per judgement. Only its own thread waits for the server."""

    def __init__(
        self,
        url: str,
        spool: Path,
        *,
        card: Card | None = None,
        timeout_s: float = 10.0,
        waits_s: tuple[float, float] = WAITS_S,
    ) -> None:
        """Post to `url`, http[s]://[user:password@]host[:port]/path; proxies as the environment says (HTTPS_PROXY, ...).

        What waits is kept in the folder `spool`. `card` names the model in the messages; `timeout_s` bounds a request;
        `waits_s` as of Spool. Raises OutputError: a wrong address, the spool is in use.
        """
        self._url, self._shown, self._headers = _parse_url(url)
        self._timeout_s = timeout_s
        self._messages = Messages(card)
        self._spool = Spool(spool, self._deliver, SPOOL_BYTES, "webhook", waits_s=waits_s)

    def write(self, judgement: Judgement) -> None:
        """Queue the judgement; never waits for the server, never raises for it."""
        self._spool.put(self._messages.of(judgement))

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what waits within `timeout` seconds. The rest stays on disk."""
        self._spool.close(timeout)

    def state(self) -> dict[str, Any]:
        """name, address, waiting, delivered, dropped, rejected, connected, last_error."""
        return {"name": "webhook", "address": self._shown, **self._spool.state()}

    def _deliver(self, batch: Sequence[bytes]) -> None:
        """Post each message. Raises NotDelivered, Rejected."""
        for done, message in enumerate(batch):
            self._post(message, done)

    def _post(self, message: bytes, done: int) -> None:
        headers = {**self._headers, "Idempotency-Key": str(json.loads(message)["id"])}
        request = Request(self._url, data=message, headers=headers, method="POST")
        try:
            with open_bounded(request, read_s=self._timeout_s, answer_s=self._timeout_s):
                return
        except HTTPError as e:
            e.close()
            reason = f"{self._shown}: HTTP {e.code}"
            if 300 <= e.code < 400:
                raise NotDelivered(f"{reason}, a redirect, which is not followed; name the final address", done) from e
            if 400 <= e.code < 500 and e.code not in RETRIED:
                raise Rejected(f"{reason}, refused for good", done) from e
            raise NotDelivered(reason, done) from e
        except (OSError, HTTPException) as e:
            raise NotDelivered(f"{self._shown}: {cause(e)}", done) from e


def _parse_url(url: str) -> tuple[str, str, dict[str, str]]:
    """The address to call, the address to show, and the headers. Raises OutputError.

    Only scheme, host and port are shown: many services keep their secret in the path or the query.
    """
    wrong = "--post: expected http://[USER:PASSWORD@]HOST[:PORT]/PATH or https://..."
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as e:
        raise OutputError(f"{wrong}, got an address that does not parse{login_hint(url)}") from e
    if "#" in reserved_in_login(url):
        raise OutputError(f"{wrong}, got a # in user or password{login_hint(url)}")
    if parts.scheme not in ("http", "https") or not host:
        raise OutputError(f"{wrong}, got {'scheme ' + parts.scheme if parts.scheme else 'no scheme'}")
    if not is_host_name(host):
        raise OutputError(f"{wrong}, got a host with a part that is empty or above 63 characters: {host[:80]!r}")
    if not url.isascii() or any(c.isspace() or not c.isprintable() for c in url):
        raise OutputError(f"{wrong} in ASCII without spaces; percent-encode the rest")
    server = f"[{host}]" if ":" in host else host
    server += f":{port}" if port else ""
    hidden = "/..." if parts.path.strip("/") or parts.query else ""
    try:
        agent = f"vtad/{version('vtad')}"
    except PackageNotFoundError:  # run from the sources
        agent = "vtad"
    headers = {"Content-Type": "application/json", "User-Agent": agent}
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
    address = urlunsplit((parts.scheme, server, parts.path or "/", parts.query, ""))
    return address, f"{parts.scheme}://{server}{hidden}", headers
