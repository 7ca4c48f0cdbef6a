"""Who may look at the live page.

On loopback: anyone on this machine, but only under a name of this machine, so that a page from elsewhere cannot have its
own name point here and read along (DNS rebinding). On other addresses: who has the token, which is printed as a link or was
given, under any name, as a proxy may pass one on; the browser keeps it as a cookie of the one host that it opened the link
at, and sends it to no other name. The page is plain HTTP: whoever can listen on the network can see it and the token.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """The rule for one server."""

    token: str | None = None  # None: loopback, anyone on this machine
    cookie: str = "vtad"  # its name; browsers share cookies among the ports of a host

    def refusal(self, host: str, query_token: str | None, cookie_token: str | None) -> str | None:
        """Why a request is refused, in one line; None if it may pass. `host` is the request's Host header."""
        if self.token is None:
            if _host_name(host) in LOOPBACK_NAMES:
                return None
            return "refused: this page answers under its own address only; use the link that vtad-run printed"
        given = query_token if query_token is not None else cookie_token
        if given is None or not hmac.compare_digest(given.encode(), self.token.encode()):
            return "refused: the token is missing or wrong; use the link that vtad-run printed"
        return None


def by_token(port: int, token: str | None = None) -> Access:
    """Who has the token; None: one of 256 bits, made now."""
    return Access(token or secrets.token_urlsafe(32), f"vtad_{port}")


def _host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets; empty where it is not written like one."""
    found = re.fullmatch(r"(?:\[([^\]/?#@]*)\]|([^:\[\]/?#@]*))(?::[0-9]*)?", host)
    return (found[1] or found[2] or "").lower() if found else ""
