"""The command vtad-sweep: a search for better options of a training."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtad.commands.library_errors import library_errors_as_lines
from vtad.commands.options import CONTEXT, DATA_FOLDER, DEVICES, NAMES_HELP, require_category
from vtad.commands.tracking_options import store_named, tracking_options
from vtad.commands.train_options import DATA, OFTEN, option, preset_option
from vtad.preset_file import preset_of
from vtad_runtime.contract.command_line.command import no_traceback, say
from vtad_runtime.contract.command_line.sections import SectionCommand
from vtad_runtime.contract.command_line.stopping import stoppable
from vtad_runtime.contract.errors import FAILED, VtadError

if TYPE_CHECKING:
    from vtad.search.study import Found

SEARCH = "The search"

_NOTE = """\b
What is compared: the mean of image AUROC and AUPRO on good pictures that no
trial has seen, and on synthetic defects in them. Test pictures are not read.
"""

_CODES = """\b
Exit codes:
  0    so many trials have ended as were wanted
  1    they have ended, and none of them is complete
  2    usage: bad arguments, missing or unreadable images, a space or preset
       file that is wrong, a storage that cannot be reached, a study of
       another space or of other images
  4    a file could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; the same command goes on
"""

_EXAMPLES = """\b
Examples:
  vtad-sweep --category pill                          50 trials, about 4 hours
  vtad-sweep --category pill --trials 80              30 more
  vtad-sweep --category pill --space mine.toml --study depth
  vtad-sweep --category pill --storage postgresql://user:password@host/sweeps
                                                      on each machine that helps
  vtad-train --category pill --preset sweeps/pill/best.toml
"""
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=SectionCommand, context_settings=CONTEXT, epilog="\n\n".join((_NOTE, _EXAMPLES, _CODES)))
@option(DATA, "--category", help=f"Folder of images below --data. {NAMES_HELP}")
@option(DATA, "--data", "data_dir", **DATA_FOLDER)
@option(DATA, "--out", default="sweeps", show_default=True, help="Folder that gets <study>/<trial>.")
@option(SEARCH, "--trials", type=click.IntRange(1), default=50, show_default=True, help="Of all workers together.")
@option(
    SEARCH,
    "--minutes-per-trial",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    help="Of training; calibrating and judging come on top.",
)
@option(SEARCH, "--space", type=FILE, help="TOML file of options and their ranges.  [default: that of docs/guide.md]")
@option(SEARCH, "--study", help="Its name in the storage, and its folder's below --out.  [default: the category]")
@option(
    SEARCH,
    "--storage",
    metavar="URL",
    envvar="VTAD_STORAGE",
    help="Database that the workers share, sqlite:///FILE.db or postgresql://...  [default: $VTAD_STORAGE, or sweep.db in the "
    "study's folder]",
)
@preset_option
@option(
    OFTEN,
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="auto: cuda, else mps, else cpu.",
)
@tracking_options
@click.version_option(package_name="vtad", prog_name="vtad-sweep")
def sweep(
    category: str | None,
    data_dir: Path,
    out: str,
    trials: int,
    minutes_per_trial: float,
    space: Path | None,
    study: str | None,
    storage: str | None,
    preset_name: str,
    device: str,
    track: str | None,
    experiment: str | None,
) -> None:
    """Search better options for a training: short trainings with options from a space, of which the best become a preset."""
    with no_traceback(), library_errors_as_lines():
        chosen = preset_of(
            preset_name,
            require_category(category, data_dir),
            data=str(data_dir),
            out=out,
            device=device,
            minutes=minutes_per_trial,
        )
        store = store_named(track, experiment)
        from vtad.fitting.device import keep_memory
        from vtad.fitting.loop import Interrupted
        from vtad.search.space import DEFAULT
        from vtad.search.sweep import sweep as search

        keep_memory()
        with stoppable() as stop:
            try:
                found = search(
                    chosen,
                    space=space or DEFAULT,
                    trials=trials,
                    study=study,
                    storage=storage,
                    track=(store.address, store.experiment) if store else None,
                    say=say,
                    stop=stop,
                )
            except Interrupted as e:
                raise VtadError("stopped; the same command goes on", 128 + (stop.signal or 0)) from e
        _say_found(found, Path(out) / (study or chosen.category), chosen.category)
        if stop.signal is not None and not found.standing.done:
            raise VtadError("stopped; the same command goes on", 128 + stop.signal)
        if found.best is None:
            raise VtadError(
                "no trial is complete: see what was said of them; try smaller ranges, or more minutes", FAILED
            )


def _say_found(found: Found, folder: Path, category: str) -> None:
    now, best = found.standing, found.best
    given_up = f", {len(now.given_up)} given up" if now.given_up else ""
    early = f", {now.early} of them early" if now.early else ""
    say(f"{len(now.ended)} of {now.wanted} trials have ended{early}{given_up}")
    if best is None:
        return
    beside = f"; the values that the search starts from: {found.start.value:.4f}" if found.start else ""
    say(f"best: trial {best.number}, quality {best.value:.4f}{beside}")
    say(f"{folder / 'sweep.html'}: what was tried, and how it went")
    best_file = folder / "best.toml"
    say(f"{best_file}: vtad-train --category {shlex.quote(category)} --preset {shlex.quote(str(best_file))}")
