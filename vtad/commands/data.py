"""The command vtad-data: make demo images, and check pictures before training."""

from __future__ import annotations

from pathlib import Path

import click

from vtad.commands.library_errors import library_errors_as_lines
from vtad.commands.options import ALL, NAMES_HELP, data_option
from vtad.data.images import FEWEST
from vtad.data.layout import DataError, find_categories, find_category, require_folder_name
from vtad_runtime.contract.command_line.command import no_traceback, say

SHEET_HELP = "Draw what was found odd, with names and reasons: a PNG or JPEG."

_CODES = """\b
Exit codes:
  0    written, or checked and nothing found
  1    the check found something to put right
  2    usage: no such category, a folder in use, a folder that cannot be read or made
  4    a picture or the contact sheet could not be written, e.g. the disk is full
  70   internal error
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_CODES)
def data() -> None:
    """Demo images, and a check of pictures before training. Nothing here uses the network."""


@data.command(context_settings={"show_default": True})
@click.option("--category", required=True, help=f"Name of the new folder, which must be absent or empty. {NAMES_HELP}")
@data_option
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed gives the same pictures.")
@click.option("--size", type=click.IntRange(64, 2048), default=512, help="Width and height of each picture, pixels.")
@click.option("--train", type=click.IntRange(FEWEST), default=220, help="Good pictures to train from.")
@click.option("--good", type=click.IntRange(0), default=40, help="Good pictures to test with.")
@click.option("--defects", type=click.IntRange(0), default=20, help="Pictures of each of the five defect types.")
def demo(*, category: str, data_dir: Path, seed: int, size: int, train: int, good: int, defects: int) -> None:
    """Draw tablets, good and defective, with exact masks, in the layout of MVTec AD."""
    from vtad.data.demo import write_demo

    with no_traceback():
        require_folder_name(category)
        counts = write_demo(data_dir / category, seed, size=size, train=train, good=good, per_defect=defects)
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.defects.items())
    say(f"{data_dir / category}: {counts.train_good} good to train, {counts.test_good} good to test, {kinds}")


@data.command()
@click.option("--category", required=True, help=f"Folder to check, or `{ALL}` for each one found. {NAMES_HELP}")
@data_option
@click.option("--contact-sheet", "sheet", type=click.Path(path_type=Path), metavar="FILE", help=SHEET_HELP)
@click.pass_context
def check(ctx: click.Context, category: str, data_dir: Path, sheet: Path | None) -> None:
    """Decode every picture and mask and report what is wrong. Exit code 1 when something is, else 0."""
    from vtad.data.check import check_category
    from vtad.data.contact_sheet import require_format, write_contact_sheet

    good, checked = True, []
    with no_traceback(), library_errors_as_lines():
        names = find_categories(data_dir) if category == ALL else (category,)
        if not names:
            raise DataError(
                f"{data_dir}: expected folders in the MVTec AD layout, got none; "
                "point --data at them, or make demo images: vtad-data demo --category pill"
            )
        if sheet is not None:
            require_format(sheet)
        for name in names:
            files = find_category(data_dir, name)
            report = check_category(files)
            say(report.to_text())
            checked.append((files, report))
            good = good and report.ok
        if sheet is not None:
            shown = write_contact_sheet(sheet, checked)
            say(f"{sheet}: {shown} findings to look at" if shown else f"nothing odd to show: {sheet} is not written")
    ctx.exit(0 if good else 1)
