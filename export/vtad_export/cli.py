"""The command vtad-export: a run becomes an artefact for the edge, with its proof."""

from __future__ import annotations

from pathlib import Path

import click

from vtad.cli import CONTEXT, choose_run, said
from vtad_export.certificate import certificate
from vtad_runtime.command import FAILED, Failure, no_traceback

_CODES = """\b
Exit codes:
  0    exported and proven
  1    the artefact does not agree with torch; nothing is left behind
  2    usage: no such run, no images to prove it on, a folder that cannot be made
  4    a file could not be written, e.g. the disk is full
  70   internal error
"""


@click.command(context_settings=CONTEXT, epilog=_CODES)
@click.option("--format", "kind", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="Artefact.")
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Run folder.  [default: the newest]")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs are."
)
@click.option("--category", help="Take the newest run of this category.")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Images of the proof.  [default: the run's]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the artefact.  [default: export/ in the run]")
@click.version_option(package_name="vtad", prog_name="vtad-export")
def export(
    kind: str, run_path: Path | None, runs: Path, category: str | None, data_dir: Path | None, out: Path | None
) -> None:
    """Export a run and prove on real good images and synthetic defects that the artefact judges as torch does."""
    with no_traceback(), said():
        run = choose_run(run_path, runs, category)
        from vtad_export.onnx import to_onnx
        from vtad_export.parity import ParityError

        path = out / f"{run.card().identity.category}.{kind}" if out else None
        try:
            made = to_onnx(run, path, data=data_dir)
        except ParityError as e:
            raise Failure(e, FAILED) from e
        click.echo(certificate(made.path, made.card, made.operations))
