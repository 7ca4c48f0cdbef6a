"""The manners of the commands: what happens to an error that nobody foresaw, and to a reader that goes away."""

from __future__ import annotations

import subprocess
import sys
import warnings

import click
import pytest

from vtad_runtime.contract.command_line.command import no_traceback
from vtad_runtime.contract.errors import BROKEN_PIPE, INTERNAL, NOT_JUDGED, USAGE, VtadError


def test_an_unforeseen_error_is_one_line_that_asks_to_be_reported() -> None:
    with pytest.raises(click.ClickException) as caught, no_traceback():
        raise RuntimeError("first line\nsecond line")
    assert caught.value.exit_code == INTERNAL
    assert "\n" not in caught.value.message
    assert "please report" in caught.value.message


def test_what_a_user_can_cause_is_its_one_line_with_the_exit_code_of_its_kind_or_its_own() -> None:
    class Worn(VtadError):
        exit_code = NOT_JUDGED

    for error, code in ((Worn("expected\nmore"), NOT_JUDGED), (Worn("x", USAGE), USAGE), (VtadError("x"), USAGE)):
        with pytest.raises(click.ClickException) as caught, no_traceback():
            raise error
        assert caught.value.exit_code == code
        assert caught.value.message == str(error)
    assert str(Worn("expected\nmore")) == "expected more"


def test_a_file_that_may_not_be_looked_at_is_one_line_with_what_to_do() -> None:
    with pytest.raises(click.ClickException) as caught, no_traceback():
        raise PermissionError(13, "Permission denied", "private/1.png")  # as Path.is_file does in a folder that is shut
    assert caught.value.exit_code == USAGE
    assert caught.value.message == "private/1.png: expected to use it, got Permission denied; check its permissions"


def test_ctrl_c_before_a_run_listens_for_it_is_130_and_one_line() -> None:
    with pytest.raises(click.ClickException) as caught, no_traceback():
        raise KeyboardInterrupt
    assert (caught.value.exit_code, caught.value.message) == (130, "stopped by Ctrl-C")


def test_of_pillow_users_hear_what_is_wrong_with_a_picture_and_not_what_is_for_programmers(messages: list[str]) -> None:
    """A signal just as Pillow opens a file leaves it to Python, which would warn of an unclosed file in Pillow's name."""
    with no_traceback():
        for kind in (ResourceWarning, ImportWarning, UserWarning, RuntimeWarning):
            warnings.warn_explicit(f"of the kind {kind.__name__}", kind, "Image.py", 1, module="PIL.Image")
    assert [said.partition("kind ")[2].partition(";")[0] for said in messages] == ["UserWarning", "RuntimeWarning"]


def test_an_error_said_on_purpose_passes_as_it_is() -> None:
    with pytest.raises(click.UsageError, match="as it is"), no_traceback():
        raise click.UsageError("as it is")


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    code = (
        "from vtad_runtime.contract.command_line.command import no_traceback\n"
        "import click\n"
        "with no_traceback():\n"
        "    while True: click.echo('x' * 1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=30) == BROKEN_PIPE
        assert process.stderr.read() == b""
