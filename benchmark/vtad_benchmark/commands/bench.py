"""The command vtad-bench: presets and baselines on whole folders of categories, and everything that came of it in tables."""

from __future__ import annotations

import sys
import time
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import click

from vtad.commands.library_errors import library_errors_as_lines
from vtad.commands.options import ALL, CONTEXT, DATA_FOLDER
from vtad.config import PRESETS, Config, ConfigError
from vtad.data.layout import DataError, find_categories
from vtad.preset_file import SUFFIX, named_preset
from vtad_benchmark.methods.options import MINUTES, PATCHES, Options
from vtad_benchmark.results.row import BASELINES
from vtad_runtime.contract.command_line.command import no_traceback, say
from vtad_runtime.contract.errors import FAILED
from vtad_runtime.contract.typed_json import WrongJson, typed

ELSEWHERE = 3

_EXAMPLES = """\b
Examples:
  vtad-bench                                     the preset default on every category below ./data
  vtad-bench --preset default --preset scratch --method padim --method patchcore --seeds 3
  vtad-bench --category pill --epochs 20 --change registers=0
  vtad-bench --jobs 4                            four processes; the same command elsewhere joins in
"""

_CODES = """\b
Exit codes:
  0    every row is there
  1    a job failed; the same command tries it again
  2    usage: bad arguments, no categories, no test images
  3    some jobs are still done by other processes; the tables hold the others
  4    a file could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; the same command continues
"""


@click.command(context_settings=CONTEXT, epilog="\n\n".join((_EXAMPLES, _CODES)))
@click.option("--data", "data_dir", **DATA_FOLDER)
@click.option(
    "--category", "categories", multiple=True, default=(ALL,), show_default=True, help="One of them; may be repeated."
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar=f"[{'|'.join(PRESETS)}|FILE{SUFFIX}]",
    help="To train; may be repeated.  [default: default, unless there is a --method]",
)
@click.option(
    "--method", "baselines", multiple=True, type=click.Choice(BASELINES), help="To compare with; may be repeated."
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="0, 1, ... of split and training.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes on this machine.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/benchmark"),
    show_default=True,
    help="Folder that gets runs, rows and tables; several machines may share one.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help=f"Of each training.  [default: the preset's; {', '.join(f'{k} {v:g}' for k, v in MINUTES.items())}]",
)
@click.option("--epochs", type=click.IntRange(1), help="Of each preset's training, in place of minutes.")
@click.option("--change", "changed", multiple=True, help="FIELD=VALUE of the presets' configurations; may be repeated.")
@click.option("--size", help="HEIGHTxWIDTH that all but paper see, pixels.  [default: as the preset chooses]")
@click.option("--patches", type=click.IntRange(1), help=f"That PatchCore stores.  [default: {PATCHES}]")
@click.version_option(package_name="vtad", prog_name="vtad-bench")
def bench(
    data_dir: Path,
    categories: tuple[str, ...],
    presets: tuple[str, ...],
    baselines: tuple[str, ...],
    seeds: int,
    jobs: int,
    out: Path,
    minutes: float | None,
    epochs: int | None,
    changed: tuple[str, ...],
    size: str | None,
    patches: int | None,
) -> None:
    """Train, calibrate, evaluate, export and time every combination of category, method and seed, and write tables.

    What is done is not done again; a stopped or killed run goes on where it was.
    """
    with no_traceback(), library_errors_as_lines():
        if minutes is not None and epochs is not None:
            raise ConfigError("expected either --minutes or --epochs, got both")
        from vtad_benchmark.jobs.plan import Plan
        from vtad_benchmark.jobs.processes import work_here
        from vtad_benchmark.jobs.working import failed, held_elsewhere
        from vtad_benchmark.results.rows import read_rows
        from vtad_benchmark.results.writing import require_packages, write_results

        require_packages()
        options = Options(minutes, epochs, _size(size), patches, _changes(changed))
        for name in presets:
            named_preset(name)
        methods = tuple(dict.fromkeys((*(presets or (() if baselines else ("default",))), *baselines)))
        plan = Plan(data_dir, out, _categories(categories, data_dir), seeds, methods, options)
        began = time.time()
        work_here(plan, began, min(jobs, len(plan.jobs())))
        left = [job for job in plan.jobs() if not plan.row(job).is_file()]
        reasons = {job: failed(plan, job, began) for job in left}
        elsewhere = [job for job in left if reasons[job] is None and held_elsewhere(plan, job)]
        open_jobs = [
            f"{job}: {reasons[job] or ('another process does it' if job in elsewhere else 'not done')}" for job in left
        ]
        say(write_results(out, read_rows(out), open_jobs))
        say(out / "index.html")
        for line in open_jobs:
            say(line, err=True)
        if left:
            sys.exit(ELSEWHERE if len(elsewhere) == len(left) else FAILED)


def _categories(names: tuple[str, ...], data: Path) -> tuple[str, ...]:
    there = find_categories(data)
    if not there:
        raise DataError(f"{data}: expected a folder of categories (NAME/train/good), got none: name it by --data")
    if ALL in names:
        return there
    if unknown := [name for name in names if name not in there]:
        raise ConfigError(f"--category: expected some of {', '.join(there)}, got {', '.join(unknown)}")
    return tuple(dict.fromkeys(names))


def _changes(texts: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """(("registers", 0),) of ("registers=0",)."""
    kinds = get_type_hints(Config)
    found = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found.append((name, typed(kinds[name], _toml_or_text(kinds[name], value), name)))
        except (KeyError, WrongJson) as e:
            why = f" ({e})" if name in kinds else ""
            raise ConfigError(
                f"--change: expected a field of the configuration and its value, such as registers=0 or "
                f"synthetic_defects=false, got {text!r}{why}"
            ) from e
    return tuple(found)


def _toml_or_text(kind: Any, text: str) -> Any:
    """A value as TOML reads it; a word without quotes as it stands."""
    if kind is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "256x256"."""
    if text is None:
        return None
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        raise ConfigError(f"--size: expected HEIGHTxWIDTH such as 256x256, got {text!r}") from None
    return height, width
