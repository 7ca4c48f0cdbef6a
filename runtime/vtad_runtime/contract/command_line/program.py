"""How every command begins and ends, before and after anything heavy is there: Ctrl-C is one line and 130, never a traceback.

Standard library only: the sooner it is imported, the sooner Ctrl-C is heeded.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vtad_runtime.contract.errors import NOT_WRITTEN, STOPPED, one_line

TYPE_CHECKING = False  # for type checkers it is true
if TYPE_CHECKING:
    from types import FrameType

    import click


class Program:
    """What pyproject.toml names: a command that is imported when it is called."""

    def __init__(self, where: str) -> None:
        """`where` is "module:name" of the click command."""
        self._where = where

    def command(self) -> click.Command:
        """Import it."""
        from importlib import import_module

        module, _, name = self._where.partition(":")
        with importing():
            found: click.Command = getattr(import_module(module), name)
        return found

    def __call__(self) -> None:
        """Run it, and exit with its code."""
        signal.signal(signal.SIGINT, _leave)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by whoever started us: what is said goes nowhere
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        try:
            command = self.command()
            from vtad_runtime.contract.command_line.usage import run  # click comes with the command

            sys.exit(run(command))
        except OSError as e:  # of --help: everything else is handled inside
            with suppress(OSError):  # stderr may be as full
                os.write(2, f"Error: stdout: cannot write: {one_line(e)}\n".encode())
            os._exit(NOT_WRITTEN)
        finally:
            give_up_stdout()


@contextmanager
def importing() -> Iterator[None]:
    """Imports make no garbage, and looking for it takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class InterruptsRaise:
    """Ctrl-C raises KeyboardInterrupt inside the block, so that what was begun is cleaned up.

    `came` says that it did: a library that is just being imported makes an error of its own of it.
    """

    def __enter__(self) -> InterruptsRaise:
        self.came = False
        self._ours = signal.getsignal(signal.SIGINT) is _leave
        if self._ours:
            signal.signal(signal.SIGINT, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, _leave)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)


def stdout_is_open() -> bool:
    """Whether what is written to stdout can reach anybody: it was not closed before we began."""
    return sys.stdout is not None and getattr(sys.stdout, "name", None) != os.devnull


def give_up_stdout() -> None:
    """Where stdout takes no more, let what still waits for it go nowhere: Python would fail on it at the very end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Nothing was begun yet, or all is done."""
    os.write(2, b"Error: stopped by Ctrl-C\n")
    os._exit(STOPPED)
