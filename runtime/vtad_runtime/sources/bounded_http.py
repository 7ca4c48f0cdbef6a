"""HTTP requests whose answer has to begin within a time, however it is dripped.

The time-out of a socket is one of each read: a server that sends a byte now and then, or "100 Continue" for ever, would hold
its caller as long as it likes. Here the connection is cut when the time is over. Redirects are answers like any other.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any, cast
from urllib.request import BaseHandler, HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from vtad_runtime.contract.errors import one_line


def open_bounded(request: Request | str, *handlers: BaseHandler, read_s: float, answer_s: float) -> HTTPResponse:
    """The answer, its head read. `read_s` bounds each read, also of the body later; `answer_s` all up to the end of the head.

    Raises TimeoutError, and what urllib raises: OSError (URLError, HTTPError), HTTPException, ValueError.
    """
    made: list[HTTPConnection] = []
    late = threading.Event()

    def cut() -> None:
        late.set()
        for connection in made:
            with suppress(OSError, AttributeError):  # closed already, or not open yet
                connection.sock.shutdown(socket.SHUT_RDWR)

    opener = build_opener(_Noting(made), _NoRedirect, *handlers)
    timer = threading.Timer(answer_s, cut)
    timer.daemon = True
    timer.start()
    over = TimeoutError(f"no whole answer within {answer_s:g} s")
    try:
        answer = cast(HTTPResponse, opener.open(request, timeout=read_s))
    except Exception as e:
        if late.is_set():
            raise over from e
        raise
    finally:
        timer.cancel()
    if late.is_set():  # what came of the head before the cut looked like a whole one
        answer.close()
        raise over
    return answer


def cause(error: Exception) -> str:
    """Why a request failed, in words."""
    reason = getattr(error, "reason", error)  # of a URLError: the error below it, or a text
    return one_line(reason) if isinstance(reason, Exception) else str(reason)


class _Noting(HTTPHandler, HTTPSHandler):
    """Opens connections and notes them."""

    def __init__(self, made: list[HTTPConnection]) -> None:
        super().__init__()
        self._made = made

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(self._noted, HTTPConnection), req)

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(self._noted, HTTPSConnection), req)

    def _noted(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        self._made.append(kind(host, **options))
        return self._made[-1]


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Follow none: nobody named that address."""
