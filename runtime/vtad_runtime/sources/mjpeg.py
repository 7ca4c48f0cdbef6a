"""MJPEG over HTTP (multipart/x-mixed-replace), as network cameras send it, read without OpenCV.

OpenCV's FFmpeg would scale a picture whose size changed to the size of the first one without a word, and paper over damaged
JPEG data. Here each picture keeps its size, and a damaged one is an error.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, InvalidURL
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPPasswordMgrWithDefaultRealm

from vtad_runtime.contract.credentials import login_hint, without_credentials
from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.contract.image import ImageError, decode_rgb
from vtad_runtime.sources.bounded_http import cause, open_bounded
from vtad_runtime.sources.capture import Shot, SourceLost
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.http_login import login_handlers

READ_TIMEOUT_S = 3.0  # also of connecting
ANSWER_S = 8.0  # from the request to the end of the answer's head
PICTURE_S = 20.0  # of one picture, however it is dripped
MAX_BYTES = 64 * 2**20  # of one picture
MAX_LINE, MAX_HEADERS = 2**16, 50


class NotMjpegError(VtadError):
    """The address answers with something else."""


class Mjpeg:
    """One connection to a camera."""

    def __init__(self, url: str) -> None:
        """Connect; user and password of the URL answer Basic and Digest. Raises SourceError, NotMjpegError."""
        self._answer = _connected(url)
        kind = self._answer.headers.get_content_type()
        boundary = self._answer.headers.get_param("boundary")
        if kind != "multipart/x-mixed-replace" or not isinstance(boundary, str):
            self._answer.close()
            raise NotMjpegError(kind)
        self._announced = boundary.encode("latin-1", "replace").lstrip(b"-")
        self._boundary = b""  # as the camera sends it, which its first one shows
        self._at_part = False  # whether the boundary before the next part was read already
        self._rest = bytearray()  # received, not read yet

    def read(self, stop: Callable[[], bool]) -> Shot | None:
        """The next picture, one with an error when it is damaged; None on `stop`. Raises SourceLost: none comes, or hung up."""
        try:
            data = self._part(_Reader(self._answer, self._rest, stop))
        except _Stopped:
            return None
        except TimeoutError as e:
            raise SourceLost(f"no frame for {READ_TIMEOUT_S:.0f} s" if str(e) == "timed out" else str(e)) from e
        except (OSError, ValueError, HTTPException) as e:
            raise SourceLost(f"the stream broke off ({one_line(e)})") from e
        captured = time.monotonic()
        try:
            return Shot(decode_rgb(data, "frame", ("JPEG",)), captured=captured)
        except ImageError as e:
            return Shot(None, captured=captured, error=str(e))

    def close(self) -> None:
        """Hang up."""
        self._answer.close()

    def _part(self, stream: _Reader) -> bytes:
        """The bytes of the next part. Raises OSError, ValueError."""
        if not self._boundary:
            self._find_boundary(stream)
        elif not self._at_part:
            self._up_to_boundary(stream)
        self._at_part = False
        length = None
        for _ in range(MAX_HEADERS):
            name, _, value = stream.line().strip().partition(b":")
            if not name:
                break
            if name.strip().lower() == b"content-length":
                length = int(value)
        else:
            raise ValueError("a part without an end of its head")
        if length is None:
            return self._up_to_boundary(stream)
        if not 0 <= length <= MAX_BYTES:
            raise ValueError(f"a picture of {length} bytes")
        return stream.exactly(length)

    def _find_boundary(self, stream: _Reader) -> None:
        """Up to the first boundary: the announced one, dashes or none before it, or a line with a dash before a part's head."""
        before, seen = b"", 0
        while seen <= MAX_BYTES:
            line = stream.line()
            name = line.lstrip(b"-")
            if self._announced and name.startswith(self._announced):
                self._boundary = line[: len(line) - len(name) + len(self._announced)]
                return
            if before.startswith(b"-") and re.match(rb"[\w-]+:", line):
                self._boundary = before.strip()
                stream.give_back(line)
                return
            before, seen = line, seen + len(line)
        raise ValueError(f"no boundary within {MAX_BYTES} bytes")

    def _up_to_boundary(self, stream: _Reader) -> bytes:
        """All bytes before the next boundary."""
        data = bytearray()
        while not (line := stream.line()).startswith(self._boundary):
            data += line
            if len(data) > MAX_BYTES:
                raise ValueError(f"a picture of more than {MAX_BYTES} bytes")
        self._at_part = True
        return bytes(data)


class _Stopped(Exception):
    """The run ends."""


class _Reader:
    """Lines and bytes of an answer, for one picture: until it is asked to stop, or PICTURE_S after its first byte."""

    def __init__(self, answer: HTTPResponse, rest: bytearray, stop: Callable[[], bool]) -> None:
        """`rest` holds what was received and not read yet; it is kept from picture to picture."""
        self._answer, self._rest, self._stop = answer, rest, stop
        self._until: float | None = None

    def line(self) -> bytes:
        """Up to the next line break, or MAX_LINE bytes."""
        seen = 0
        while (end := self._rest.find(b"\n", seen, MAX_LINE)) < 0 and len(self._rest) < MAX_LINE:
            seen = len(self._rest)
            self._receive()
        return self._taken(end + 1 if end >= 0 else MAX_LINE)

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._rest) < count:
            self._receive()
        return self._taken(count)

    def give_back(self, line: bytes) -> None:
        """Have it read again."""
        self._rest[:0] = line

    def _taken(self, count: int) -> bytes:
        taken = bytes(self._rest[:count])
        del self._rest[:count]
        return taken

    def _receive(self) -> None:
        if self._stop():
            raise _Stopped
        data = self._answer.read1(2**16)
        if not data:
            raise ValueError("the other side hung up" if not self._rest else "it ended within a picture")
        self._rest += data
        now = time.monotonic()
        self._until = self._until or now + PICTURE_S
        if now > self._until:
            raise TimeoutError(f"no whole picture within {PICTURE_S:.0f} s")


def _connected(url: str) -> HTTPResponse:
    """The answer to a GET, its reads bounded in time. Raises SourceError."""
    parts = urlsplit(url)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    passwords = HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
    try:
        return open_bounded(plain, *login_handlers(passwords), read_s=READ_TIMEOUT_S, answer_s=ANSWER_S)
    except (OSError, HTTPException, ValueError) as e:
        raise SourceError(
            f"{without_credentials(url)}: expected a stream that opens, got {_got(e)}; "
            f"check the address, the password and the network{login_hint(url)}"
        ) from e


def _got(error: Exception) -> str:
    """What came instead of a stream, in words; nothing of the address."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}" + (", a redirect; name the final address" if 300 <= error.code < 400 else "")
    if isinstance(error, InvalidURL | ValueError):  # their texts quote the address
        return "an address that is none"
    return cause(error)
