"""A command is run; wrong options are one line on stderr, as every other error is, or an event of the log with --log-json."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.log import logging_to, warning


def run(command: click.Command) -> Any:
    """What the command returns, or its exit code: for `sys.exit`."""
    try:
        return command.main(standalone_mode=False)
    except click.UsageError as e:
        if isinstance(e, NoArgsIsHelpError):
            e.show()
            return e.exit_code
        where = e.ctx.command_path if e.ctx else command.name
        said = f"{without_credentials(' '.join(e.format_message().split())).rstrip('.')}; see {where} --help"
        if "--log-json" in sys.argv:
            with logging_to(json_lines=True):
                warning("failed", said, exit_code=e.exit_code)
        else:
            click.echo(f"Error: {said}", err=True)
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return e.exit_code
