"""The manners of every vtad command: an error is one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from vtad_runtime.contract.command_line.program import InterruptsRaise, give_up_stdout
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.errors import (
    BROKEN_PIPE,
    INTERNAL,
    NOT_WRITTEN,
    STOPPED,
    USAGE,
    VtadError,
    disk_full,
    one_line,
)
from vtad_runtime.contract.libraries import heard
from vtad_runtime.contract.log import logging_to, warning
from vtad_runtime.contract.progress import aside, bars


class _OneLine(click.ClickException):
    """What click prints as "Error: ..." before it exits with the code."""

    def __init__(self, message: object, exit_code: int) -> None:
        super().__init__(printable(" ".join(str(message).split())))
        self.code = exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click looks it up on the instance
        """The exit code."""
        return self.code


@contextmanager
def no_traceback(*, json_lines: bool = False) -> Iterator[None]:
    """Turn a VtadError into its line and exit code, and whatever else into a line that asks to be reported, exit code 70.

    With `json_lines` the line is an event of the log, "failed", and no bar is drawn. What libraries say by themselves becomes
    warnings.
    """
    try:
        with _one_line(), heard(), bars(not json_lines):
            yield
    except _OneLine as e:
        if not json_lines:
            raise
        with logging_to(json_lines=True):
            warning("failed", e.message, exit_code=e.exit_code)
        sys.exit(e.exit_code)


@contextmanager
def _one_line() -> Iterator[None]:
    interrupts = InterruptsRaise()
    try:
        with interrupts:
            yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt as e:  # click would say "Aborted!" and exit with 1, which means NG
        raise _OneLine("stopped by Ctrl-C", STOPPED) from e
    except VtadError as e:
        if interrupts.came and e.exit_code < STOPPED:  # it was made of a KeyboardInterrupt
            raise _OneLine("stopped by Ctrl-C", STOPPED) from e
        raise _OneLine(e, e.exit_code) from e
    except BrokenPipeError:  # the reader of the output went away: `vtad-run ... | head`
        give_up_stdout()
        sys.exit(BROKEN_PIPE)
    except Exception as e:
        if interrupts.came:
            raise _OneLine("stopped by Ctrl-C", STOPPED) from e
        if disk_full(e):
            raise _OneLine(f"a file cannot be written: {one_line(e)}", NOT_WRITTEN) from e
        if isinstance(e, PermissionError) and e.filename:  # in a folder that this user may not enter even a look fails
            raise _OneLine(f"{e.filename}: expected to use it, got {one_line(e)}; check its permissions", USAGE) from e
        said = without_credentials(f"{type(e).__name__}: {e}")
        raise _OneLine(f"internal error: {said}; please report it", INTERNAL) from e


def say(text: object, *, err: bool = False) -> None:
    """Print a line to stdout or stderr, whatever names it holds. Raises VtadError when stdout takes no more; BrokenPipeError."""
    try:
        with aside():
            click.echo(printable(str(text)), err=err)
    except BrokenPipeError:
        raise
    except OSError as e:
        if not err:
            raise VtadError(f"stdout: cannot write: {one_line(e)}", NOT_WRITTEN) from e


def printable(text: str) -> str:
    """Text that any terminal takes: file names may hold bytes that are no valid text."""
    return text.encode("utf-8", "replace").decode("utf-8")
