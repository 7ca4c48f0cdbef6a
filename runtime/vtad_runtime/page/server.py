"""The live page's server: one thread beside the run. Needs the extra `live`, imported when it starts."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import sys
import threading
import time

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.host_name import is_host_name
from vtad_runtime.page.access import Access, by_token
from vtad_runtime.page.state import PageState

SEND_BUFFER = 256 * 1024  # bytes: what a slow viewer lags behind is what is already sent
START_S, STOP_S = 5.0, 2.0
TOKEN = "VTAD_LIVE_TOKEN"  # environment variable: the token, for those who must not read it in a log


class PageError(VtadError):
    """A page that cannot be served. One line."""


class PageServer:
    """Serves the page until `close()`."""

    def __init__(self, state: PageState, address: str, token: str | None = None) -> None:
        """Listen, and answer in a thread. `address` is "8000" (this machine only) or "HOST:PORT"; port 0 takes a free one.

        `token` is asked for beyond this machine; None: one made now. Raises PageError: a wrong address, one in use or not
        of this machine; a weak token; the extra is not installed.
        """
        host, port = parse_address(address)
        if token is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", token):
            raise PageError(f"{TOKEN}: expected 16 or more of A-Z a-z 0-9 _ -, got another text; see docs/guide.md")
        try:
            import uvicorn

            from vtad_runtime.page.app import Viewers, make_app
            from vtad_runtime.page.connections import Connections
        except ImportError as e:
            raise PageError(
                f"--live: expected starlette and uvicorn, got no {e.name}; pip install 'vtad[live]', or run without --live"
            ) from e
        listening = _listen(host, port)
        host, port = listening.getsockname()[:2]
        access = Access() if ipaddress.ip_address(host).is_loopback else by_token(port, token)
        self._viewers = Viewers()
        config = uvicorn.Config(
            make_app(state, access, self._viewers),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # of uvicorn's own log; what matters comes through ours
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

        async def serve() -> None:
            with listening:
                await Connections().serve(listening, config, self._server)

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="vtad-page", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise PageError(f"--live: expected a server on {host} port {port}, got none; please report it")
            time.sleep(0.005)
        self.address = _url(host, port)  # where to look
        self.token = access.token  # None: none is needed
        self.url = self.address + (f"?token={self.token}" if self.token else "")  # the link

    def close(self) -> None:
        """End every stream and the thread, within two seconds. May be called twice."""
        self._viewers.stop.set()
        self._server.should_exit = True
        self._thread.join(STOP_S)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "8000", "HOST:PORT" or "[IPV6]:PORT". Raises PageError."""
    found = re.fullmatch(r"(?:(?P<host>[^\s:\[\]/]+|\[[^\s\[\]/]+\]):)?(?P<port>[0-9]{1,5})", text.strip())
    if found is None or int(found["port"]) > 65535:
        raise PageError(
            f"--live: expected PORT or HOST:PORT, got {text!r}; e.g. 8000, or 0.0.0.0:8000 for all addresses"
        )
    host = (found["host"] or "127.0.0.1").strip("[]")
    if not is_host_name(host):
        raise PageError(f"--live: expected an address of this machine, got {host!r}")
    return ("127.0.0.1" if host.lower() == "localhost" else host), int(found["port"])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as e:
        raise PageError(f"--live: expected an address of this machine, got {host!r} ({e.strerror or e})") from e
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listening.setblocking(False)
        listening.bind(where)
        listening.listen(128)
    except OSError as e:
        listening.close()
        raise PageError(
            f"--live: cannot listen on {host} port {port}: {e.strerror or e}; "
            "end the program that uses it, or choose another port by --live PORT"
        ) from e
    return listening


def _url(host: str, port: int) -> str:
    if ipaddress.ip_address(host).is_unspecified:
        host = _own_address()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _own_address() -> str:
    """The address of this machine that others likely reach. Connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
