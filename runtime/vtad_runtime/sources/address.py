"""The source grammar: which camera, video, stream, folder or hot folder is judged. Text in, an Address out.

`--source X` takes any of them: a bare number or `camera:0`; `rtsp://...`, `http://...` or `stream:URL`; a file that ends
like a video, or `video:FILE`; `watch:DIR`; anything else, or `folder:X`, is a folder, a glob or a picture file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal
from urllib.parse import urlsplit

from vtad_runtime.contract.credentials import login_hint, reserved_in_login, without_credentials
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.host_name import is_host_name

Kind = Literal["camera", "video", "stream", "folder", "watch"]

KINDS: tuple[Kind, ...] = ("camera", "video", "stream", "folder", "watch")
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
SCHEMES = ("rtsp", "rtsps", "http", "https")
URL = re.compile("(rtmp|rtsp|http|mqtt|udp|tcp|ftp)s?:/", re.IGNORECASE)
LAST_CAMERA = 2**31 - 1  # OpenCV's integers
OPTIONS = "--camera N, --video FILE, --stream URL, --folder DIR|GLOB|FILE, --watch DIR or --source X"


class AddressError(VtadError):
    """A source that is not well said. One line."""


@dataclass(frozen=True)
class Address:
    """Where pictures come from. Nothing of it is opened yet."""

    kind: Kind
    where: str  # the camera's number, a path, a glob or a URL

    @property
    def name(self) -> str:
        """As rows and messages call it: "camera 0", a path, a URL without user and password."""
        if self.kind == "camera":
            return f"camera {self.where}"
        return without_credentials(self.where) if self.kind == "stream" else self.where

    @property
    def key(self) -> str:
        """What the names of folders are hashed from, the same in every version: a URL with its user, without its password."""
        if self.kind != "stream":
            return self.name
        return re.sub(r"(://[^:@/?#]*):[^@/?#]*@", r"\1:***@", self.where, count=1)

    @property
    def live(self) -> bool:
        """Whether it shows what is in front of it now and has no end: a camera or a stream."""
        return self.kind in ("camera", "stream")

    @property
    def endless(self) -> bool:
        """Whether only a signal or --max-frames ends it."""
        return self.live or self.kind == "watch"


def address(source: str | None = None, **options: str | int | None) -> Address:
    """The one source that was given. `options` are named by their kind: camera=0, folder="in". Raises AddressError."""
    given = [(kind, value) for kind, value in options.items() if value is not None]
    names = [f"--{kind}" for kind, _ in given] + ([] if source is None else ["--source"])
    if len(names) != 1:
        raise AddressError(f"expected one of {OPTIONS}, got {' and '.join(names) or 'none'}")
    if source is not None:
        return parse(source)
    ((name, value),) = given
    return _checked(next(kind for kind in KINDS if kind == name), str(value))


def parse(text: str) -> Address:
    """What `--source` takes. Raises AddressError."""
    for kind in KINDS:
        if text.startswith(f"{kind}:"):
            return _checked(kind, text.removeprefix(f"{kind}:"))
    if text.isascii() and text.isdecimal():
        return _checked("camera", text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return _checked("stream", text)
    if PurePath(text).suffix.lower() in VIDEO_SUFFIXES:
        return _checked("video", text)
    return _checked("folder", text)


def _checked(kind: Kind, where: str) -> Address:
    if not where:
        raise AddressError(f"--{kind}: expected where it is, got an empty text")
    if kind == "camera" and not (where.isascii() and where.isdecimal() and int(where[:11]) <= LAST_CAMERA):
        got = repr(without_credentials(where))
        raise AddressError(f"--camera: expected its number such as 0, got {got}; --list-cameras finds them")
    if kind == "stream":
        _check_url(where)
    elif URL.match(where):  # named in messages and rows as a path is, password and all
        raise AddressError(f"--{kind}: expected no URL, got {without_credentials(where)!r}; name it by --stream")
    return Address(kind, where)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        whole = parts.scheme.lower() in SCHEMES and is_host_name(parts.hostname) and "#" not in reserved_in_login(url)
        _ = parts.port
    except ValueError:
        whole = False
    if not whole:
        got = f"{without_credentials(url)!r}{login_hint(url)}"
        raise AddressError(f"--stream: expected rtsp://HOST/... or http://HOST/... (also rtsps, https), got {got}")
