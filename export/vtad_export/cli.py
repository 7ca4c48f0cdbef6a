"""The command vtad-export: a run becomes artefacts for the edge, each with its proof."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vtad.cli import CONTEXT, choose_run, run_options, said
from vtad_export.formats import FORMATS, card_of, listing
from vtad_runtime.command import FAILED, USAGE, Failure, no_traceback

if TYPE_CHECKING:
    from vtad.run_folder import Run
    from vtad_export.onnx import Export

_CODES = """\b
Exit codes:
  0    exported and proven
  1    the artefact does not agree with torch; nothing is left behind
  2    usage: no such run, no images to prove it on, a folder that cannot be made
  4    a file could not be written, e.g. the disk is full
  70   internal error
"""
_TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26", "macOS13", "macOS14", "macOS15", "macOS26")


@click.command(context_settings=CONTEXT, epilog=_CODES)
@click.option(
    "--format",
    "kind",
    type=click.Choice([*(f.name for f in FORMATS), "all"]),
    default="onnx",
    show_default=True,
    help="Artefact. A Core ML package comes with its ONNX twin.",
)
@click.option("--precision", type=click.Choice(["fp16", "fp32"]), help="[default: onnx fp32, coreml fp16]")
@click.option(
    "--target",
    type=click.Choice(_TARGETS),
    default="iOS16",
    show_default=True,
    help="coreml: oldest system it runs on.",
)
@click.option(
    "--layout",
    type=click.Choice(["ane", "standard"]),
    default="ane",
    show_default=True,
    help="coreml: the transformer as the Neural Engine likes it, or as it was trained.",
)
@run_options
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Images of the proof.  [default: the run's]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the artefact.  [default: export/ in the run]")
@click.option("--list", "list_formats", is_flag=True, help="Print the formats, where each runs and how it is proven.")
@click.option("--show", type=click.Path(path_type=Path), help="Print the card of an artefact and leave.")
@click.version_option(package_name="vtad", prog_name="vtad-export")
def export(
    run_path: Path | None, runs: Path, category: str | None, list_formats: bool, show: Path | None, **options: Any
) -> None:
    """Export a run and prove on real good images and synthetic defects that the artefact judges as torch does."""
    if list_formats:
        click.echo(listing())
        return
    with no_traceback(), said(), _failed_proofs():
        if show is not None:
            click.echo(card_of(show).to_json())
            return
        run = choose_run(run_path, runs, category)
        _export(run, **options)


def _export(
    run: Run, *, kind: str, precision: str | None, target: Any, layout: Any, data_dir: Path | None, out: Path | None
) -> None:
    from vtad_export.certificate import certificate, coreml_certificate, table

    def path(suffix: str) -> Path | None:
        return out / f"{run.card().identity.category}{suffix}" if out else None

    made: list[Export] = []
    if kind != "coreml":
        if kind == "onnx" and precision == "fp16":
            raise Failure("--precision fp16: onnx artefacts are fp32; float16 is for --format coreml", USAGE)
        from vtad_export.onnx import to_onnx

        onnx = to_onnx(run, path(".onnx"), data=data_dir)
        made.append(onnx)
        click.echo(certificate(onnx.path, onnx.card, onnx.operations))
    if kind != "onnx":
        from vtad_export.coreml import to_coreml

        chosen: Any = precision or "fp16"
        coreml = to_coreml(run, path(".mlpackage"), data=data_dir, precision=chosen, target=target, layout=layout)
        made.append(coreml)
        click.echo(coreml_certificate(coreml))
    if len(made) > 1:
        click.echo(table(made))


@contextmanager
def _failed_proofs() -> Iterator[None]:
    """Errors of the proofs, as one line and their exit code."""
    try:
        yield
    except RuntimeError as e:
        from vtad_export.parity import ParityError

        if isinstance(e, ParityError):
            raise Failure(e, FAILED) from e
        raise
    except ValueError as e:
        from vtad_export.mlpackage import PackageError

        if isinstance(e, PackageError):
            raise Failure(e, USAGE) from e
        raise
