"""User and password of addresses from a file, so that no process list shows them.

The file is netrc, an entry a line: `machine HOST login USER password PASSWORD`; quotes around what holds spaces or #.
"""

from __future__ import annotations

import netrc
import os
import stat
from pathlib import Path
from urllib.parse import quote, urlsplit

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.log import warning

LINE = "machine HOST login USER password PASSWORD"


class LoginError(VtadError):
    """A file of credentials that cannot be used. One line, nothing of its content."""


class Logins:
    """The entries of one file."""

    def __init__(self, file: Path) -> None:
        """Read it; a warning where others can read it too. Raises LoginError."""
        self._file = file
        try:
            self._netrc = netrc.netrc(str(file))
            mode = stat.S_IMODE(file.stat().st_mode)
        except OSError as e:
            raise LoginError(f"--credentials: expected a readable file, got {file}: {e.strerror}") from e
        except (netrc.NetrcParseError, UnicodeDecodeError) as e:
            line = getattr(e, "lineno", 1)  # the parser's own text quotes the file
            raise LoginError(
                f"--credentials: expected lines such as {LINE}, got another one near line {line} of {file}"
            ) from e
        if os.name == "posix" and mode & 0o077:
            warning("credentials", f"{file}: others can read the passwords in it (mode {mode:o}); chmod 600 {file}")

    def put_into(self, address: str) -> str:
        """The address with user and password of its host; as it is where it names a user, or where the file has no such host.

        The address must be one that parses.
        """
        parts = urlsplit(address)
        found = self._netrc.authenticators(parts.hostname or "")
        if found is None or "@" in parts.netloc:
            return address
        login = ":".join(quote(word, safe="") for word in (found[0], found[2] or ""))
        return parts._replace(netloc=f"{login}@{parts.netloc}").geturl()

    @property
    def hosts(self) -> list[str]:
        """Whom the file names."""
        return sorted(self._netrc.hosts)
