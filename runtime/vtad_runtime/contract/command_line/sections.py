"""A click command whose help lists its options in sections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vtad_runtime.contract.credentials import without_credentials

F = TypeVar("F", bound=Callable[..., Any])


class SectionOption(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def section_option(section: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` with its section."""
    return click.option(*names, cls=SectionOption, section=section, **settings)


class SectionCommand(click.Command):
    """Lists options by section, in the order in which sections first appear. Its errors tell no password of an address."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as e:
            raise click.UsageError(without_credentials(e.format_message()), e.ctx) from e

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of options for each section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):  # arguments stand in the text
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
