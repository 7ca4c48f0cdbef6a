"""One artefact of each kind from a run that is loaded once, with its certificate; or all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtad.run_folder import RunError, WriteError
from vtad_export.commands.formats import FORMATS, Format
from vtad_export.onnx_format.exporter import Export
from vtad_export.proof.parity import Flip, Material, ParityError, named
from vtad_export.proof.table import Row, Status


@dataclass(frozen=True)
class Options:
    """What is asked of every artefact."""

    folder: Path
    target: Any  # of Core ML
    layout: Any  # of Core ML
    tolerance: dict[str, float]  # in place of the default ones
    max_flips: int | None  # None: the precision's default


@dataclass(frozen=True)
class Made:
    """An artefact on disk, proven."""

    export: Export
    certificate: str
    status: Status
    flipped: tuple[Flip, ...] = ()  # images judged otherwise than by torch


def make(format: Format, precision: str, material: Material, options: Options) -> Made:
    """One artefact. Raises RunError, DataError, ParityError, WriteError; nothing is left then."""
    path = options.folder / format.file_name(material.card.identity.category, precision)
    return {"onnx": _onnx, "coreml": _coreml, "coreai": _coreai}[format.name](path, precision, material, options)


def make_all(
    pairs: Sequence[tuple[Format, str]], material: Material, options: Options, say: Callable[[str], None]
) -> list[Row]:
    """Every format and precision asked for, a row each, whether it could be made or not. Raises WriteError.

    `say` is told what is being made.
    """
    rows = []
    for format, precision in pairs:
        say(f"{format.name} {precision} ...")
        start = time.monotonic()
        made: Made | None = None
        status: Status
        try:
            made = make(format, precision, material, options)
            status = made.status
            reason = f"judged otherwise: {named(made.flipped)}" if made.flipped else ""
        except WriteError:
            raise
        except ParityError as e:
            status, reason = "failed", str(e)
        except RunError as e:  # its packages are not installed
            status, reason = "not made", str(e)
        rows.append(
            Row(format.name, precision, time.monotonic() - start, status, made.export if made else None, reason)
        )
    _newest(options.folder, material)
    return rows


def _newest(folder: Path, material: Material) -> None:
    """vtad-run takes what was written last: of all precisions, let that be the default one."""
    for format in reversed(FORMATS):
        path = folder / format.file_name(material.card.identity.category, format.precisions[0])
        if path.exists():
            path.touch()


def _onnx(path: Path, precision: Any, material: Material, options: Options) -> Made:
    from vtad_export.onnx_format.exporter import to_onnx
    from vtad_export.proof.certificate import onnx_certificate

    made = to_onnx(
        material.run,
        path,
        precision=precision,
        tolerance=options.tolerance,
        max_flips=options.max_flips,
        material=material,
    )
    return Made(made, onnx_certificate(made), "proven", made.flipped)


def _coreml(path: Path, precision: Any, material: Material, options: Options) -> Made:
    from vtad_export.coreml_format.exporter import to_coreml
    from vtad_export.proof.certificate import coreml_certificate

    made = to_coreml(
        material.run,
        path,
        precision=precision,
        target=options.target,
        layout=options.layout,
        tolerance=options.tolerance,
        max_flips=options.max_flips,
        material=material,
    )
    return Made(made, coreml_certificate(made, material.sample.note), "proven", made.proof.flipped)


def _coreai(path: Path, precision: Any, material: Material, options: Options) -> Made:
    from vtad_export.coreai_format.exporter import to_coreai
    from vtad_export.proof.certificate import coreai_certificate

    made = to_coreai(
        material.run,
        path,
        precision=precision,
        tolerance=options.tolerance,
        max_flips=options.max_flips,
        material=material,
    )
    status: Status = "proven" if precision == "fp32" else "structure only"
    return Made(made, coreai_certificate(made), status, made.flipped)
