"""The command vtad-export: a run becomes artefacts for the edge, each with its proof."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from vtad.commands.library_errors import library_errors_as_lines
from vtad.commands.options import CONTEXT, choose_run, run_options
from vtad.report.card_words import card_text
from vtad_export.commands.formats import EXPORTERS, card_of, exporters, listing
from vtad_export.commands.sending import sender
from vtad_export.coreml_format.choices import Layout, Target
from vtad_export.proof.errors import RoundingError
from vtad_export.proof.exporter import ON_REQUEST, Export, Exporter, Precision, Request
from vtad_runtime.contract.command_line.command import no_traceback, say
from vtad_runtime.contract.command_line.stopping import stopped_as_line
from vtad_runtime.contract.errors import FAILED, USAGE, VtadError
from vtad_runtime.contract.log import warning
from vtad_runtime.engine.model import MAX_BATCH

if TYPE_CHECKING:
    from vtad.run_folder import Run
    from vtad_export.commands.making import Pairs
    from vtad_export.proof.material import Material

NOT_MADE = 3
CUT_SHORT, COMPLETE = "nothing half written is left", "what was asked for is complete"  # when a signal came

_CODES = """\b
Exit codes:
  0    exported and proven; --device-check: the device agrees
  1    an artefact does not agree with torch; nothing of it is left behind
  2    usage: no such run, no images to prove it on, a folder that cannot be made
  3    --format all: a format cannot be made here, and every other is proven
  4    a file could not be written, e.g. the disk is full; --register: the store took no model
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; nothing half written is left
"""


def _errors(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    """score=0.2 as the name of an output and the largest error of it."""
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            error = float(number)
        except ValueError:
            error = math.nan
        if not 0 < error < math.inf:
            raise click.BadParameter(f"expected OUTPUT=ERROR with an error above 0, such as score=0.2, got {text!r}")
        found[name] = error
    return found


@click.command(context_settings=CONTEXT, epilog=_CODES)
@click.option(
    "--format",
    "kind",
    type=click.Choice([*(f.name for f in EXPORTERS), "all"]),
    default="onnx",
    show_default=True,
    help="Artefact; all: each format in each precision. Core ML and Core AI come with an ONNX fallback.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="[default: onnx fp32, coreml fp16, coreai fp32]",
)
@click.option(
    "--target",
    type=click.Choice(get_args(Target)),
    help="coreml: oldest system it runs on.  [default: iOS16]",
)
@click.option(
    "--layout",
    type=click.Choice(get_args(Layout)),
    help="coreml: the transformer as the Neural Engine likes it, or as it was trained.  [default: ane]",
)
@click.option(
    "--with-backbone",
    is_flag=True,
    help="coreml int8, palettized6, palettized4: compress the backbone too, not the transformer alone; it drifts more.",
)
@run_options
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Images of the proof.  [default: the run's]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the artefact, or its file name: FILE.onnx, FILE.mlpackage, FILE.aimodel.  [default: export/ in the run]",
)
@click.option(
    "--batch",
    type=click.IntRange(1, MAX_BATCH),
    help="onnx: pictures that the file takes at a time.  [default: any number; int8, coreml and coreai: one]",
)
@click.option(
    "--tolerance",
    callback=_errors,
    metavar="OUTPUT=ERROR",
    multiple=True,
    help="Largest error allowed, e.g. score=0.2; may be given again. Units as on the certificate.",
)
@click.option(
    "--max-flips",
    type=click.IntRange(0),
    help="Verdicts that may differ from torch's.  [default: 0; int8, palettized: 1 % of the images, rounded up]",
)
@click.option(
    "--no-references", is_flag=True, help="Leave out the reference pictures, up to 1.5 MB, that check an engine."
)
@click.option(
    "--register",
    is_flag=True,
    help="onnx: make the export the `champion` of the category in MLflow's registry, in the store of `vtad-train --track`; "
    "of a run that is not tracked, in $MLFLOW_TRACKING_URI or ./mlflow.db.",
)
@click.option("--list", "list_formats", is_flag=True, help="Print the formats, where each runs and how it is proven.")
@click.option("--show", type=click.Path(path_type=Path), help="Print the card of an artefact and leave.")
@click.option("--json", "as_json", is_flag=True, help="--show: the card as JSON.")
@click.option(
    "--device-check",
    type=click.Path(path_type=Path),
    help="On a Mac: check an .mlpackage on its chips against the reference pictures inside, and write a JSON beside it.",
)
@click.version_option(package_name="vtad", prog_name="vtad-export")
def export(
    run_path: Path | None,
    runs: Path,
    category: str | None,
    list_formats: bool,
    show: Path | None,
    as_json: bool,
    device_check: Path | None,
    **options: Any,
) -> None:
    """Export a run and prove on real good images and synthetic defects that the artefact judges as torch does."""
    if list_formats:
        say(listing())
        return
    with no_traceback(), library_errors_as_lines(), stopped_as_line(CUT_SHORT, COMPLETE):
        if as_json and show is None:
            raise VtadError("--json: expected --show FILE, whose card it prints, got none", USAGE)
        if show is not None:
            _show(show, as_json)
            return
        if device_check is not None:
            _check_device(device_check, options["max_flips"])
            return
        _export(choose_run(run_path, runs, category), **options)


def _export(
    run: Run,
    *,
    kind: str,
    precision: str | None,
    data_dir: Path | None,
    out: Path | None,
    batch: int | None,
    tolerance: dict[str, float],
    max_flips: int | None,
    target: Target | None,
    layout: Layout | None,
    with_backbone: bool,
    no_references: bool,
    register: bool,
) -> None:
    wanted = [f for f in exporters(target or "iOS16", layout or "ane", with_backbone) if kind in ("all", f.name)]
    pairs = [(f, p) for f in wanted for p in f.precisions if precision == p or not (precision or p in ON_REQUEST)]
    if not pairs:
        precisions = " or ".join(wanted[0].precisions)
        raise VtadError(f"--precision {precision}: {kind} artefacts are {precisions}; see --list", USAGE)
    if kind != "all":
        pairs = pairs[:1]
    asked_for = f"--format {kind}" + (f" --precision {precision}" if precision else "")
    _require_taken(pairs, asked_for, batch, {"--target": target, "--layout": layout, "--with-backbone": with_backbone})
    onnx = next((p for f, p in pairs if f.name == "onnx"), None)
    if register and onnx is None:
        raise VtadError(f"--register: expected an ONNX export, got {asked_for}: leave one of them out", USAGE)
    send = sender(run, onnx if register else None)
    folder, name = _place(out or run.path / "export", kind, wanted)
    from vtad.run_folder import require_writable
    from vtad_export.commands.making import make_all
    from vtad_export.proof.material import load_material
    from vtad_export.proof.table import table
    from vtad_export.proof.tolerance import TOLERANCE

    if unknown := tolerance.keys() - TOLERANCE.keys():
        raise VtadError(f"--tolerance {unknown.pop()}: expected one of the outputs {', '.join(TOLERANCE)}", USAGE)
    if kind != "all" and (reason := wanted[0].available()):
        raise VtadError(reason, USAGE)
    require_writable(folder)
    request = Request(folder, name, batch, tolerance, max_flips)
    material = load_material(run, data_dir, references=not no_references)
    if kind != "all":
        made = _one(*pairs[0], material, request, chosen=precision is not None)
        say(made.certificate)
        _show_on_page(run)
        send([made])
        return
    rows = make_all(pairs, material, request, lambda text: say(text, err=True))
    say(table(rows, request.folder))
    if material.sample.note:
        say(f"  note: {material.sample.note}")
    _show_on_page(run)
    send([row.made for row in rows if row.made])
    if any(row.status == "failed" for row in rows):
        sys.exit(FAILED)
    if any(row.status == "not made" for row in rows):
        sys.exit(NOT_MADE)


def _require_taken(pairs: Pairs, asked_for: str, batch: int | None, of_coreml: Mapping[str, object]) -> None:
    """Raise VtadError for an option that none of the artefacts takes; each must take the `batch`."""
    from vtad_export.proof.tolerance import COMPRESSED  # numpy: --help is to be quick

    for format, precision in pairs:
        if batch not in (None, 1) and (precision == "int8" or not format.batches):
            which = f"{format.name} {precision}" if format.batches else format.name
            raise VtadError(f"--batch {batch}: {which} artefacts take one picture at a time", USAGE)
    coreml = {precision for format, precision in pairs if format.name == "coreml"}
    for option, value in of_coreml.items():
        if value and not coreml:
            raise VtadError(f"{option}: expected a Core ML export, got {asked_for}: leave one of them out", USAGE)
    if of_coreml["--with-backbone"] and coreml.isdisjoint(COMPRESSED):
        raise VtadError(f"--with-backbone: expected --precision {' or '.join(COMPRESSED)}, got {asked_for}", USAGE)


def _show_on_page(run: Run) -> None:
    """Put the certificates on the run's page. The export is complete without that: what hinders it is a warning."""
    from vtad.report.page import show_certificates

    try:
        show_certificates(run)
    except OSError as e:
        warning("report", f"{run.path / 'report.html'}: expected to put the certificates there, got {e.strerror or e}")


def _place(out: Path, kind: str, wanted: Sequence[Exporter]) -> tuple[Path, str | None]:
    """The folder that `out` is or is in, and the name of the file if it is one. Raises VtadError."""
    suffix = out.suffix.lower()
    if suffix not in {format.suffix for format in EXPORTERS}:
        return out, None
    if len(wanted) > 1:
        raise VtadError(f"--out {out}: a file is one artefact, and --format {kind} makes several; name a folder", USAGE)
    if suffix != wanted[0].suffix:
        raise VtadError(
            f"--out {out}: {kind} artefacts end in {wanted[0].suffix}; name such a file, or a folder", USAGE
        )
    if suffix == ".onnx" and out.is_dir():
        raise VtadError(f"--out {out}: expected a file to write, got a folder of that name; name another", USAGE)
    return out.parent, out.name


def _one(format: Exporter, first: Precision, material: Material, request: Request, *, chosen: bool) -> Export:
    """An artefact in its first precision. Where the user chose none, and rounding to it flips a verdict, in float32."""
    from vtad_export.commands.making import make

    try:
        return make(format, first, material, request)
    except RoundingError as e:
        if chosen or first == "fp32" or "fp32" not in format.precisions:
            raise
        say(f"{first}: {e}; exporting in float32 instead", err=True)
        return make(format, "fp32", material, request)


def _show(path: Path, as_json: bool) -> None:
    """Print a card, and whether the artefact is as it was exported: in the text, or beside the JSON on stderr."""
    from vtad_runtime.engine.integrity import PACKAGES, integrity  # numpy: --help is to be quick

    card = card_of(path)
    found = integrity(path) if path.suffix in (".onnx", *PACKAGES) else None
    say(card.to_json() if as_json else card_text(path, card, found))
    if as_json and found:
        say(f"{path}: {found}", err=True)


def _check_device(model: Path, max_flips: int | None) -> None:
    from vtad.run_folder import write_text
    from vtad_export.coreml_format.device.check import device_check

    report = device_check(model, max_flips)
    file = model.with_suffix(".device-check.json")
    write_text(file, report.to_json() + "\n")
    say("\n".join([*report.lines(), f"  to send: {file}"]))
    if not report.ok:
        sys.exit(FAILED)
