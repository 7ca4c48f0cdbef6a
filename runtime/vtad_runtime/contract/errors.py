"""What a user can cause: one kind of error, one line, one exit code. Every command's exit codes are these."""

from __future__ import annotations

import errno

FAILED, USAGE, NOT_JUDGED, NOT_WRITTEN, INTERNAL, STOPPED, BROKEN_PIPE = 1, 2, 3, 4, 70, 130, 141
LONGEST = 300  # characters of a library's message
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DATABASE_FULL = (13, 10)  # sqlite3.SQLITE_FULL; SQLITE_IOERR, which it says of other refusals of the disk


class VtadError(Exception):
    """An error that a user can cause or mend. Its text is one line: expected, got, where, what to do.

    `exit_code` is what a command ends with; a class names the usual one, a `raise` may name another.
    """

    exit_code = USAGE

    def __init__(self, message: object, exit_code: int | None = None) -> None:
        super().__init__(" ".join(str(message).split()))
        if exit_code is not None:
            self.exit_code = exit_code


def one_line(error: BaseException) -> str:
    """The message of a library's error as one short line; the name of its kind where it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:LONGEST] or type(error).__name__


def why(error: BaseException) -> str:
    """Why something failed, in one line: the text of an error of ours, else the kind and the text of a foreign one."""
    if isinstance(error, VtadError):
        return str(error)
    kind, text = type(error), one_line(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return name if text == kind.__name__ else f"{name}: {text}"


def disk_full(error: BaseException) -> bool:
    """Whether an error comes from a disk that is full or fails: not the user's choice of a folder, only its state."""
    causes = error, error.__cause__
    numbers = [cause.errno for cause in causes if isinstance(cause, OSError)]
    return any(number in FULL for number in numbers) or any(
        getattr(cause, "sqlite_errorcode", 0) & 0xFF in DATABASE_FULL for cause in causes
    )
