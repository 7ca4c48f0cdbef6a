"""The login that a web server asks for: of all methods that it offers the best one that we have. urllib looks at the first alone.

Methods and their texts: RFC 7617 (Basic), RFC 7616 (Digest).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import md5, sha256
from http.client import HTTPMessage
from typing import IO
from urllib.error import URLError
from urllib.request import (
    BaseHandler,
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPPasswordMgr,
    Request,
    parse_http_list,
    parse_keqv_list,
)

HASHES = {"MD5": md5, "SHA-256": sha256}  # of Digest
OURS = f"Basic, and Digest with {' or '.join(HASHES)}"


def login_handlers(passwords: HTTPPasswordMgr) -> tuple[BaseHandler, ...]:
    """What answers Basic and Digest by these passwords. Where nothing else is offered, opening raises URLError and says so."""
    return _Choice(), _Digest(passwords), HTTPBasicAuthHandler(passwords)


class _Choice(BaseHandler):
    """Leaves of the methods offered the one to answer, for the handlers behind it."""

    handler_order = HTTPDigestAuthHandler.handler_order - 1

    def http_error_401(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> None:
        """Raises URLError: we have none of them."""
        offered = _challenges(headers.get_all("WWW-Authenticate", []))
        ours = [one for one in offered if _is_digest(one)] or [one for one in offered if _method(one) == "basic"]
        if offered and not ours:
            fp.close()
            names = ", ".join(map(_name, offered))
            raise URLError(f"a login method that is not supported: {names} (expected {OURS})")
        del headers["WWW-Authenticate"]
        for one in ours[:1]:
            headers["WWW-Authenticate"] = one


class _Digest(HTTPDigestAuthHandler):
    """That of urllib, which has MD5 alone and no password beyond ASCII."""

    def get_algorithm_impls(self, algorithm: str) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        hashed = HASHES[algorithm.upper()]

        def of(text: str) -> str:
            return hashed(text.encode()).hexdigest()

        return of, lambda secret, data: of(f"{secret}:{data}")


def _challenges(headers: list[str]) -> list[str]:
    """The methods, each with its parameters; a header may hold several."""
    found: list[str] = []
    for header in headers:
        for number, item in enumerate(parse_http_list(header)):
            if number == 0 or re.match(r"[\w-]+(\s+[^\s=]|$)", item):  # a name that is not one of a parameter
                found.append(item)
            else:
                found[-1] += f", {item}"
    return found


def _method(challenge: str) -> str:
    return challenge.partition(" ")[0].lower()


def _parameters(challenge: str) -> dict[str, str]:
    """Of Digest; none where they are not written as they should be."""
    try:
        return parse_keqv_list(parse_http_list(challenge.partition(" ")[2]))
    except (ValueError, IndexError):
        return {}


def _is_digest(challenge: str) -> bool:
    """Whether it is Digest as we have it."""
    given = _parameters(challenge)
    known = given.get("algorithm", "MD5").upper() in HASHES and "auth" in given.get("qop", "auth").split(",")
    return _method(challenge) == "digest" and {"realm", "nonce"} <= given.keys() and known


def _name(challenge: str) -> str:
    """To show: the method, of Digest with what makes it another one than ours."""
    given = _parameters(challenge) if _method(challenge) == "digest" else {}
    words = challenge.partition(" ")[0], given.get("algorithm", ""), given.get("qop", "")
    return " ".join(re.sub(r"[^\w,-]", "", word)[:20] for word in words if word)
