"""One artefact from a run that is loaded once, or all of them in one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vtad.run_folder import RunError, WriteError
from vtad_export.proof.errors import ParityError
from vtad_export.proof.exporter import Export, Exporter, Precision, Request
from vtad_export.proof.material import Material
from vtad_export.proof.parity import named
from vtad_export.proof.table import Row
from vtad_runtime.contract.progress import Bar

Pairs = Sequence[tuple[Exporter, Precision]]


def make(format: Exporter, precision: Precision, material: Material, request: Request) -> Export:
    """One artefact. Raises RunError, DataError, ParityError, WriteError; nothing is left then."""
    if reason := format.available():
        raise RunError(reason)
    with Bar(f"{format.name} {precision}"):
        return format.export(material, precision, request)


def make_all(pairs: Pairs, material: Material, request: Request, say: Callable[[str], None]) -> list[Row]:
    """Every format and precision asked for, a row each, whether it could be made or not. Raises WriteError.

    `say` gets a line before each.
    """
    rows = []
    for format, precision in pairs:
        say(f"{format.name} {precision} ...")
        start = time.monotonic()
        try:
            made = make(format, precision, material, request)
        except WriteError:
            raise
        except ParityError as e:
            row = Row(format.name, precision, time.monotonic() - start, "failed", reason=str(e))
        except RunError as e:  # its packages are not installed
            row = Row(format.name, precision, time.monotonic() - start, "not made", reason=str(e))
        else:
            reason = f"judged otherwise: {named(made.flipped)}" if made.flipped else ""
            row = Row(format.name, precision, time.monotonic() - start, made.status, made, reason)
        rows.append(row)
    _newest(rows)
    return rows


def _newest(rows: Sequence[Row]) -> None:
    """vtad-run takes what was written last: let that be the first of what was made, the default precision of ONNX."""
    made = [row.made for row in rows if row.made]
    if made:
        made[0].path.touch()
