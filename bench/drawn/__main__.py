"""`python -m bench.drawn --out DIR`: writes the drawn sets, each as a category in the MVTec AD layout."""

from __future__ import annotations

from pathlib import Path

import click

from bench.drawn.sets import SETS, write_set
from vtad_runtime.contract.command_line.command import no_traceback


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Gets the folders."
)
@click.option(
    "--only", multiple=True, type=click.Choice(list(SETS)), help="One of the sets; may be repeated.  [default: all]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the pictures.")
def main(out: Path, only: tuple[str, ...], seed: int) -> None:
    """Draw the sets on which choices are made. A folder that is there stays as it is."""
    with no_traceback():
        for name in only or SETS:
            click.echo(write_set(out / f"drawn-{name}", SETS[name], seed))


if __name__ == "__main__":
    main()
