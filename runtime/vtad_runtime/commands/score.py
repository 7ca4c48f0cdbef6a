"""`vtad-score`: judges millions of pictures on all cores, many machines or a Ray cluster; rows as Parquet files."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import click

from vtad_runtime.contract.command_line.command import no_traceback
from vtad_runtime.contract.command_line.sections import SectionCommand
from vtad_runtime.contract.command_line.sections import section_option as _option
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.engine.engines import ENGINES

EXIT_CODES = """\b
Examples:
  vtad-score s3://bucket/pills --out results
  vtad-score pictures --out results --shard $SLURM_ARRAY_TASK_ID/64
  RAY_ADDRESS=10.0.0.1:6379 vtad-score s3://bucket/pills --out results --on ray

\b
Exit codes, over all partitions of the shard, those of earlier runs included:
  0    everything was judged OK
  1    something is not OK (NG or UNSURE)
  2    usage: bad arguments, no model or a wrong one, no picture, storage that
       cannot be listed, a folder of another run, a cluster that does not answer
  3    something could not be judged (wins over 1); or the model, the storage, a
       worker or the cluster failed
  4    rows could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; the same command goes on
"""
FILE = click.Path(path_type=Path)
RESULTS, VERDICT, WORK = "Results", "Verdict", "Who does the work"


def shard(text: str) -> tuple[int, int]:
    """(i, N) of "i/N": the i-th of N, from 1. Raises BadParameter."""
    match = re.fullmatch(r"([1-9]\d{0,6})/([1-9]\d{0,6})", text, re.ASCII)
    if match is None or int(match[1]) > int(match[2]):
        raise click.BadParameter(f"expected I/N such as 3/64, the third of 64, got {text!r}")
    return int(match[1]), int(match[2])


@click.command(
    cls=SectionCommand,  # its errors tell no password of an address
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.argument("source")
@_option(RESULTS, "--out", type=FILE, required=True, help="Folder of the results; a later run goes on in it.")
@_option(RESULTS, "--thumbnails", is_flag=True, help="A small heatmap of each NG and UNSURE picture, in the rows.")
@_option(
    RESULTS, "--partition", type=click.IntRange(1, 100_000), help="Pictures in one file of rows.  [default: 50 to 1000]"
)
@_option(
    VERDICT, "--model", type=FILE, help="Exported .onnx.  [default: that of the folder, else the newest below ./runs]"
)
@_option(
    VERDICT, "--allow-changed", is_flag=True, help="Run a model that was changed since its export; every row says so."
)
@_option(
    VERDICT,
    "--engine",
    type=click.Choice(list(ENGINES)),
    help="What runs the model.  [default: that of the folder, else cpu]",
)
@_option(
    VERDICT,
    "--review",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="At most this share of good parts is UNSURE or NG; 0: no score is UNSURE.  [default: 0.05]",
)
@_option(
    WORK, "--shard", type=shard, default="1/1", metavar="I/N", help="Only the I-th of N shares of the work, from 1."
)
@_option(WORK, "--workers", type=click.IntRange(1, 1024), help="Processes on this machine.  [default: one a core]")
@_option(
    WORK,
    "--on",
    type=click.Choice(["here", "ray"]),
    default="here",
    show_default=True,
    help="here: this machine. ray: the cluster of RAY_ADDRESS, or the one of this machine (extra ray).",
)
@click.option("--log-json", is_flag=True, help="Events on stderr as JSON Lines.")
@click.version_option(package_name="vtad", prog_name="vtad-score")
def score(
    source: str,
    out: Path,
    model: Path | None,
    allow_changed: bool,
    engine: str | None,
    review: float | None,
    thumbnails: bool,
    partition: int | None,
    shard: tuple[int, int],
    workers: int | None,
    on: Literal["here", "ray"],
    log_json: bool,
) -> None:
    """Judge all pictures of SOURCE, as many as there are, and write a row for each.

    SOURCE is a folder, or an address of object storage such as s3://bucket/prefix. Its pictures are listed once, into
    partitions. Each partition becomes one Parquet file, written whole: a run that was stopped goes on where it was, and
    each picture has exactly one row. Rows are those of vtad-run.
    """
    with no_traceback(json_lines=log_json):
        if workers is not None and on == "ray":
            raise VtadError("--workers: expected with --on here, got it with --on ray, which has one a processor")
        _require("pyarrow", "score")
        if on == "ray":
            _require("ray", "ray")
            from vtad_runtime.batch.cluster import check_address

            check_address()
        from vtad_runtime.batch.run import ScoreOptions, command

        code = command(
            ScoreOptions(
                source, out, model, allow_changed, engine, review, thumbnails, partition, shard, workers, on, log_json
            )
        )
    sys.exit(code)


def _require(package: str, extra: str) -> None:
    """Raise VtadError where the package of an extra is not installed; Ray takes a second to import."""
    if find_spec(package) is None:
        raise VtadError(f"vtad-score: expected {package}, which is not installed; pip install 'vtad[{extra}]'")
