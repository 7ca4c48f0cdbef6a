"""Options that several commands share: which pictures, and which run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vtad.data.layout import MVTEC_CATEGORIES, DataError, default_data_dir, find_categories
from vtad.run_folder import Run, newest_run, open_run
from vtad_runtime.contract.command_line.command import say

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
ALL = "all"
NAMES_HELP = f"The fifteen of MVTec AD are {', '.join(MVTEC_CATEGORIES)}; any other folder name works too."
DEVICES = ("auto", "cpu", "cuda", "mps")

F = TypeVar("F", bound=Callable[..., Any])

DATA_FOLDER: dict[str, Any] = {  # what --data is
    "type": click.Path(path_type=Path),
    "default": default_data_dir,
    "show_default": "$VTAD_DATA, or ./data",
    "help": "Folder that holds one folder per category.",
}
data_option = click.option("--data", "data_dir", **DATA_FOLDER)


def require_category(category: str | None, data_dir: Path) -> str:
    """The category that was named. Raises DataError, which lists those found, where none was."""
    if category is not None:
        return category
    found = ", ".join(find_categories(data_dir)) or "no categories"
    raise DataError(
        f"expected --category NAME, got none; {data_dir} holds {found}; demo images: vtad-data demo --category pill"
    )


def run_options(command: F) -> F:
    """The options that `choose_run` takes."""
    folder = click.Path(path_type=Path)
    for option in (
        click.option("--category", help="Take the newest run of this category."),
        click.option("--runs", type=folder, default=Path("runs"), show_default=True, help="Where runs are."),
        click.option("--run", "run_path", type=folder, help="Run folder.  [default: the newest]"),
    ):
        command = option(command)
    return command


def choose_run(path: Path | None, runs: Path, category: str | None) -> Run:
    """The run that was named, or the newest complete one, which is then printed. Raises RunError."""
    if path is not None:
        return open_run(path)
    run = newest_run(runs, category)
    say(f"run: {run.path}, the newest")
    return run
