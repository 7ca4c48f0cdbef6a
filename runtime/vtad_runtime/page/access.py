"""Who may look at the live page.

On loopback: anyone on this machine, but only under a name of this machine, so that a page from elsewhere cannot have its
own name point here and read along (DNS rebinding). On other addresses: who has the token, which is printed as a link or was
given; the browser keeps it as a cookie. The page is plain HTTP: whoever can listen on the network can see it and the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, field

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """The rule for one server."""

    token: str | None = None  # None: loopback, anyone on this machine
    cookie: str = "vtad"  # its name; browsers share cookies among the ports of a host
    names: frozenset[str] = field(default_factory=lambda: frozenset(LOOPBACK_NAMES))  # under which this machine answers

    def refusal(self, host: str, query_token: str | None, cookie_token: str | None) -> str | None:
        """Why a request is refused, in one line; None if it may pass. `host` is the request's Host header."""
        if not self._is_this_machine(host):
            return "refused: this page answers under its own address only; use the link that vtad-run printed"
        if self.token is None:
            return None
        given = query_token if query_token is not None else cookie_token
        if given is None or not hmac.compare_digest(given.encode(), self.token.encode()):
            return "refused: the token is missing or wrong; use the link that vtad-run printed"
        return None

    def _is_this_machine(self, host: str) -> bool:
        name = _host_name(host)
        return name in self.names or (self.token is not None and _is_ip(name))  # rebinding takes a name


def by_token(port: int, token: str | None = None) -> Access:
    """Who has the token; None: one of 256 bits, made now."""
    name = socket.gethostname().lower()
    names = {*LOOPBACK_NAMES, name, f"{name}.local", socket.getfqdn().lower()}
    return Access(token or secrets.token_urlsafe(32), f"vtad_{port}", frozenset(names))


def _host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets; empty where it is not written like one."""
    found = re.fullmatch(r"(?:\[([^\]/?#@]*)\]|([^:\[\]/?#@]*))(?::[0-9]*)?", host)
    return (found[1] or found[2] or "").lower() if found else ""


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
