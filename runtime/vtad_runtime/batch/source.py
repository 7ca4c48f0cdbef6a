"""Where the pictures lie: a local folder, or object storage by an address such as s3://bucket/prefix.

The same files are chosen as by `vtad-run --folder`, in the same order, and decoded by the same code.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pyarrow import fs

from vtad_runtime.contract.credentials import LOGIN, without_credentials
from vtad_runtime.contract.errors import NOT_JUDGED, VtadError, one_line, why
from vtad_runtime.contract.image import decode_picture, is_image
from vtad_runtime.contract.log import note
from vtad_runtime.sources.capture import Shot
from vtad_runtime.sources.files import read_shot
from vtad_runtime.sources.folder import RESULTS_FILE, below, natural, say_unread

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
REFUSED = "access to this object is denied"  # ends the reason of a row
DENIED = ("ACCESS_DENIED", "HTTP response code: 403")  # in pyarrow's words; of one object
REFUSALS = (
    *DENIED,
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "ExpiredToken",
    "InvalidToken",
)
OF_ONE_FILE = (  # what a disk says of a file, and will say again; EINVAL: of an offset that stands in a damaged one
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EINVAL),
)
DECODERS = 2  # of the readers at once: a large picture takes eight bytes a pixel while it is decoded
LONGEST = 160  # characters of a library's words


class StorageError(VtadError):
    """Storage that cannot be reached or read. One line."""


class PictureSource(Protocol):
    """Where pictures lie. Used by several threads."""

    name: str  # an absolute path, or an address without user and password
    address: str  # by which any process opens it, on this machine or another, credentials and all
    readers: int  # threads that read ahead of the model

    def listed(self) -> list[str]:
        """The names of all pictures, below `name`, in natural order. Raises VtadError."""
        ...

    def file(self, name: str) -> str:
        """A picture as rows call it."""
        ...

    def shot(self, name: str, full_scale: int) -> Shot:
        """One picture, `full_scale` being white in 16 bits; an unreadable one has an error. Raises StorageError."""
        ...

    def check(self) -> None:
        """Raise StorageError where it is gone as a whole, so that this is not said of its pictures one by one."""
        ...


def open_source(given: str) -> PictureSource:
    """A local folder, or an address that pyarrow knows: file, s3, gs, abfs, hdfs. Raises VtadError."""
    if not ADDRESS.match(given):
        return LocalFolder(Path(given))
    try:
        system, path = fs.FileSystem.from_uri(given)
    except Exception as e:  # pyarrow's errors share no base class
        raise StorageError(
            f"{without_credentials(given)}: expected an address such as s3://bucket/prefix, got {_short(e)}"
        ) from e
    if isinstance(system, fs.LocalFileSystem):
        return LocalFolder(Path(path))
    return ObjectStore(system, path.strip("/"), given)


class LocalFolder:
    """A folder of this machine, or one that all machines have under the same path."""

    readers = 1  # a second one gains nothing where every core has a worker

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.abspath(folder))  # links are kept as they are named
        self.name = self.address = self._folder.as_posix()

    def listed(self) -> list[str]:
        """The names. Raises SourceError, StorageError."""
        self.check()
        start, skipped, unread = len(self.name.rstrip("/")) + 1, list[Path](), list[Path]()
        names = sorted((path.as_posix()[start:] for path in below(self._folder, skipped, unread)), key=natural)
        _say_left_out(map(str, skipped))
        say_unread(unread)
        return names

    def file(self, name: str) -> str:
        """Its path."""
        return (self._folder / name).as_posix()

    def shot(self, name: str, full_scale: int) -> Shot:
        """One file. Raises StorageError where its disk or share fails, not the file."""
        return read_shot(self._folder / name, full_scale, _refuse_of_disk)

    def check(self) -> None:
        """Raise StorageError where the folder is gone or empty, as a share is that is no longer mounted."""
        try:
            with os.scandir(self._folder) as entries:
                if next(entries, None) is not None:
                    return
            got = "an empty one"
        except OSError as e:
            got = one_line(e)
        raise StorageError(
            f"{self.name}: expected a folder of pictures, got {got}; check the path, and on a cluster each machine"
        )


class ObjectStore:
    """A bucket, or what begins with a prefix in it."""

    readers = 8  # an answer takes tens of milliseconds

    def __init__(self, system: Any, path: str, given: str) -> None:
        """`path` is bucket/prefix in pyarrow's file system `system`, opened by the address `given`."""
        self._system, self._path, self.address = system, path, given
        self._scheme, self._decoding = given.partition(":")[0], threading.Semaphore(DECODERS)
        query = given.partition("?")[2]
        plain = f"{self._scheme}://{path}{f'?{query}' if query else ''}"
        self.name = without_credentials(LOGIN.sub(r"\1", plain))
        if not path:
            raise StorageError(f"{self.name}: expected a bucket, such as s3://bucket/prefix, got none")

    def listed(self) -> list[str]:
        """The names. Raises StorageError."""
        try:
            found = self._system.get_file_info(fs.FileSelector(self._path, recursive=True))
        except Exception as e:
            raise StorageError(self._said(e)) from e
        start = len(self._path) + 1
        names, left_out = _chosen([info.path[start:] for info in found if info.type == fs.FileType.File])
        _say_left_out(map(self.file, left_out))
        return sorted(names, key=natural)

    def file(self, name: str) -> str:
        """Its address, without options."""
        return f"{self._scheme}://{self._path}/{name}"

    def shot(self, name: str, full_scale: int) -> Shot:
        """One object. Raises StorageError where the storage fails, not the object."""
        start, file = time.monotonic(), self.file(name)
        try:
            with self._system.open_input_stream(f"{self._path}/{name}") as stream:
                data = stream.read()
        except FileNotFoundError:
            return Shot(None, file, start, error=f"{file}: expected a picture file, got nothing there")
        except Exception as e:
            if not any(word in str(e) for word in DENIED):
                raise StorageError(self._said(e), NOT_JUDGED) from e
            return Shot(None, file, start, error=f"{file}: expected a readable file, got that {REFUSED}")
        try:
            with self._decoding:
                picture = decode_picture(data, full_scale, file)
        except Exception as e:  # ImageError as a rule
            return Shot(None, file, start, error=why(e))
        return Shot(picture.rgb, file, start, doubt=picture.doubt)

    def check(self) -> None:
        """Nothing: what fails as a whole is said when an object is read."""

    def _said(self, error: Exception) -> str:
        text = str(error)
        if any(word in text for word in REFUSALS):
            got = "a refusal; check the credentials (AWS_ACCESS_KEY_ID, a profile, a role) and what they may list and read"
        elif isinstance(error, FileNotFoundError) or "NO_SUCH_BUCKET" in text:
            got = "nothing there; check bucket and prefix"
        elif any(word in text for word in ("NETWORK_CONNECTION", "curlCode", "timed out")):
            got = f"no connection ({_short(error)}); check the address and the network"
        else:
            got = _short(error)
        return f"{self.name}: expected storage that can be read, got {got}"


def _chosen(names: list[str]) -> tuple[list[str], list[str]]:
    """The pictures among objects, as `below` chooses among files, and the folders left out: masks, earlier results."""
    folders = {parent for name in names for parent in PurePosixPath(name).parents}
    out = {path.parent for path in map(PurePosixPath, names) if path.name == RESULTS_FILE}
    out |= {folder for folder in folders if folder.name == "ground_truth" and folder.with_name("test") in folders}
    never = out | {folder for folder in folders if folder.name.startswith(".")}
    chosen = [name for name in names if is_image(Path(name)) and never.isdisjoint(PurePosixPath(name).parents)]
    return chosen, sorted(map(str, out))


def _refuse_of_disk(error: Exception) -> None:
    """Raise StorageError where it is the disk or the share that fails, not the file."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno not in OF_ONE_FILE:
        raise StorageError(f"{why(error)}, then run the same command again to continue", NOT_JUDGED) from error


def _say_left_out(folders: Iterable[str]) -> None:
    names = list(folders)
    if names:
        note(f"left out, being masks or earlier results: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")


def _short(error: Exception) -> str:
    """The end of pyarrow's message, where the cause stands, without what this machine's libraries add."""
    text = without_credentials(re.sub(r"\s*\(Request ID: [^)]*\)", "", one_line(error)).partition("; Details:")[0])
    return text if len(text) <= LONGEST else f"...{text[-LONGEST:]}"
