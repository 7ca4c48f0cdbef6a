"""The answers to a browser: the page, a stream of events, a stream of pictures, the last NG pictures. Read only.

Events are server-sent, one JSON object each: the first says everything, later ones what changed, one a second at least,
so that silence means a dead server. Pictures are MJPEG (multipart/x-mixed-replace), one part a frame; the page reads the
parts itself, because it needs the part's X-Vtad-Picture header. It asks for application/octet-stream, under which
WebKit leaves the stream alone; the bytes are the same. A client is sent the newest there is whenever it has taken
the last: a slow one sees fewer, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vtad_runtime.contract.errors import one_line
from vtad_runtime.contract.log import warning
from vtad_runtime.drawing.encoding import PictureError
from vtad_runtime.page import picture
from vtad_runtime.page.access import Access
from vtad_runtime.page.connections import Connection
from vtad_runtime.page.state import PageState

ASSETS = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    "picture.js": ("picture.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "connection": "close",  # one request a connection: none waits for another
}
POLL_S = 0.04  # how often a stream looks for something new
EVENT_S, PICTURE_S = 0.1, 0.1  # the least time between two events, two pictures
BEAT_S = 1.0  # the most time between two events
MAX_STREAMS = 32  # open at once; a page has two
BOUNDARY = "vtad-frame"


class Viewers:
    """How many streams are open, and the word to end them."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.streams = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a stream while it is open. All of them run in one event loop."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


class Newest:
    """The newest frame as JPEG, encoded once however many look, and not at all when nobody does."""

    def __init__(self, state: PageState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._made: tuple[int, picture.Layers | None] = 0, None

    def __call__(self) -> tuple[int, picture.Layers | None]:
        """The number in the sequence and the picture; None before the first frame, and where it cannot be drawn."""
        with self._lock:
            newest = self._state.newest
            if newest is not None and self._made[0] != newest[0]:
                self._made = newest[0], None
                with suppress(PictureError):
                    self._made = newest[0], picture.layers(newest[1])
            return self._made


def make_app(state: PageState, access: Access, viewers: Viewers) -> ASGIApp:
    """The application for uvicorn."""
    newest = Newest(state)
    scale = picture.scale_bar()

    assets = {
        path: ((files("vtad_runtime.page") / name).read_bytes(), {"content-type": kind})
        for path, (name, kind) in ASSETS.items()
    }

    async def asset(request: Request) -> Response:
        content, headers = assets[request.scope["path"].lstrip("/")]
        response = Response(content, headers=headers)
        if access.token is not None and "token" in request.query_params:
            # No redirect that drops the token from the address: after a link from elsewhere a browser would follow it
            # without the Strict cookie. The page's script cleans the address instead.
            response.set_cookie(access.cookie, access.token, httponly=True, samesite="strict")
        return response

    async def scale_bar(request: Request) -> Response:
        return Response(scale, media_type="image/png")

    async def events(request: Request) -> Response:
        return _Stream(viewers, _events(state, viewers), "text/event-stream")

    async def pictures(request: Request) -> Response:
        raw = "application/octet-stream" in request.headers.get("accept", "")
        kind = "application/octet-stream" if raw else f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        return _Stream(viewers, _pictures(newest, state, viewers), kind)

    async def ng(request: Request) -> Response:
        kept = state.kept(request.path_params["seq"])
        if kept is None:
            return PlainTextResponse("gone: only the last NG pictures are kept\n", 404)
        draw: Callable[..., bytes] = picture.thumbnail if request.path_params["size"] == "small" else picture.still
        try:
            jpeg = await asyncio.to_thread(draw, kept.rgb, kept.result)
        except PictureError as e:
            return PlainTextResponse(f"{e}\n", 500)
        return Response(jpeg, media_type="image/jpeg")

    routes = [
        *(Route(f"/{name}", asset) for name in ASSETS),
        Route("/scale.png", scale_bar),
        Route("/events", events),
        Route("/picture.mjpg", pictures),
        Route("/ng/{seq}-{size}.jpg", ng),
    ]
    return _guarded(Starlette(routes=routes), access)


def _guarded(app: ASGIApp, access: Access) -> ASGIApp:
    """Refuse who may not look; put the security headers on every answer; an error is one line, here and in the log."""
    said: set[str] = set()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        connection: Connection = scope["state"]["connection"]
        connection.give_time()
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *ours]
            await send(message)  # waits until the viewer has taken what went before
            connection.give_time()

        request = Request(scope)
        refusal = access.refusal(
            request.headers.get("host", ""), request.query_params.get("token"), request.cookies.get(access.cookie)
        )
        if refusal is not None:
            await PlainTextResponse(refusal + "\n", 403)(scope, receive, with_headers)
            return
        try:
            await app(scope, receive, with_headers)
        except Exception as e:
            if connection.transport.is_closing():  # the other side has gone, or its request broke off in the middle
                return
            line = f"internal error: {type(e).__name__}: {one_line(e)}; please report it"
            if type(e).__name__ not in said:
                said.add(type(e).__name__)
                warning("live_page", f"live page: {line}")
            if not started:  # else the browser sees a broken answer and asks again
                await PlainTextResponse(f"{line}\n", 500)(scope, receive, with_headers)

    return guard


class _Stream(StreamingResponse):
    """A stream, counted from its request to its end; one line when too many are open."""

    def __init__(self, viewers: Viewers, parts: AsyncIterator[bytes], kind: str) -> None:
        super().__init__(parts, headers={"content-type": kind})
        self._viewers = viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._viewers.streams >= MAX_STREAMS:
            busy = PlainTextResponse(f"busy: {MAX_STREAMS} streams are open; close a page elsewhere\n", 503)
            await busy(scope, receive, send)
            return
        with self._viewers.one():
            await super().__call__(scope, receive, send)


async def _events(state: PageState, viewers: Viewers) -> AsyncIterator[bytes]:
    """The first event with everything, then one a change, ten a second at most, one a second at least."""
    snapshot = await asyncio.to_thread(state.snapshot)
    yield _event({**state.facts(), **snapshot})
    seen, closed, sent_at = snapshot["seq"], snapshot["closed"], time.monotonic()
    while not viewers.stop.is_set():
        await asyncio.sleep(POLL_S)
        waited = time.monotonic() - sent_at
        changed = state.seq != seen or state.closed != closed
        if waited < EVENT_S or not (changed or waited >= BEAT_S):
            continue
        snapshot = await asyncio.to_thread(state.snapshot, seen)
        yield _event(snapshot)
        seen, closed, sent_at = snapshot["seq"], snapshot["closed"], time.monotonic()
    if state.closed and not closed:  # the run ends and the server with it: the page must not guess
        yield _event(await asyncio.to_thread(state.snapshot, seen))


async def _pictures(newest: Newest, state: PageState, viewers: Viewers) -> AsyncIterator[bytes]:
    """The newest frame whenever there is a new one, ten a second at most."""
    seen, sent_at = 0, 0.0
    while not viewers.stop.is_set():
        framed = state.newest
        if framed is None or framed[0] == seen or time.monotonic() - sent_at < PICTURE_S:
            await asyncio.sleep(POLL_S)
            continue
        sent_at = time.monotonic()
        seen, made = await asyncio.to_thread(newest)
        if made is not None:
            yield _part(made)


def _event(content: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"


def _part(layers: picture.Layers) -> bytes:
    head = (
        f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(layers.jpeg)}\r\n"
        f"X-Vtad-Picture: {layers.about}\r\n\r\n"
    )
    return head.encode() + layers.jpeg + b"\r\n"
