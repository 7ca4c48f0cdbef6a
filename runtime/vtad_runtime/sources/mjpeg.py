"""MJPEG over HTTP (multipart/x-mixed-replace), as network cameras send it, read without OpenCV.

OpenCV's FFmpeg would scale a picture whose size changed to the size of the first one without a word, and paper over damaged
JPEG data. Here each picture keeps its size, and a damaged one is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import IO, cast
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPBasicAuthHandler, HTTPDigestAuthHandler, HTTPPasswordMgrWithDefaultRealm, build_opener

from vtad_runtime.contract.credentials import login_hint, without_credentials
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.image import ImageError, decode_rgb
from vtad_runtime.sources.capture import Shot, SourceLost
from vtad_runtime.sources.folder import SourceError

READ_TIMEOUT_S = 3.0  # also of connecting
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
        self._boundary = b"--" + boundary.removeprefix("--").encode("latin-1", "replace")
        self._at_part = False  # whether the boundary before the next part was read already

    def read(self, stop: Callable[[], bool]) -> Shot | None:
        """The next picture; one with an error when it is damaged. Raises SourceLost: none for three seconds, or hung up."""
        try:
            data = self._part(cast(IO[bytes], self._answer))
        except TimeoutError as e:
            raise SourceLost(f"no frame for {READ_TIMEOUT_S:.0f} s") from e
        except (OSError, ValueError, HTTPException) as e:
            raise SourceLost(f"the stream broke off ({' '.join(str(e).split()) or type(e).__name__})") from e
        captured = time.monotonic()
        try:
            return Shot(decode_rgb(data, "frame", ("JPEG",)), captured=captured)
        except ImageError as e:
            return Shot(None, captured=captured, error=str(e))

    def close(self) -> None:
        """Hang up."""
        self._answer.close()

    def _part(self, stream: IO[bytes]) -> bytes:
        """The bytes of the next part. Raises OSError, ValueError."""
        if not self._at_part:
            self._up_to_boundary(stream)
        self._at_part = False
        length = None
        for _ in range(MAX_HEADERS):
            name, _, value = _line(stream).strip().partition(b":")
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
        data = stream.read(length)
        if len(data) < length:
            raise ValueError("it ended within a picture")
        return data

    def _up_to_boundary(self, stream: IO[bytes]) -> bytes:
        """All bytes before the next boundary."""
        data = bytearray()
        while not (line := _line(stream)).startswith(self._boundary):
            data += line
            if len(data) > MAX_BYTES:
                raise ValueError(f"a picture of more than {MAX_BYTES} bytes")
        self._at_part = True
        return bytes(data)


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline(MAX_LINE)
    if not line:
        raise ValueError("the other side hung up")
    return line


def _connected(url: str) -> HTTPResponse:
    """The answer to a GET, its reads bounded in time. Raises SourceError."""
    parts = urlsplit(url)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    passwords = HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
    opener = build_opener(HTTPBasicAuthHandler(passwords), HTTPDigestAuthHandler(passwords))
    try:
        answer = opener.open(plain, timeout=READ_TIMEOUT_S)
    except (OSError, HTTPException, ValueError) as e:
        raise SourceError(
            f"{without_credentials(url)}: expected a stream that opens, got {_got(e)}; "
            f"check the address, the password and the network{login_hint(url)}"
        ) from e
    return cast(HTTPResponse, answer)


def _got(error: Exception) -> str:
    """What came instead of a stream, in words; nothing of the address."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, InvalidURL | ValueError):  # their texts quote the address
        return "an address that is none"
    reason = getattr(error, "reason", error)
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason) or type(reason).__name__
