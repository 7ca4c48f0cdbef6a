"""Merges what device checks wrote into docs/benchmarks.md: python -m bench.device_checks pill.device-check.json ...

A row for each function and choice of compute units. A machine that sends the same weights again replaces its rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vtad_export.coreml_format.device.report import ENGINE, DeviceReport, FunctionReport, UnitsCheck
from vtad_runtime.contract.disk.files import replacing
from vtad_runtime.contract.errors import VtadError, one_line

BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEADING = "## What do devices show?"
COLUMNS = (
    *("machine", "package", "date", "function", "compute units", "operations on the Neural Engine"),
    *("load, ms", "a picture, ms", "error of the score", "verdicts that differ", "agrees"),
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"


def rows(report: DeviceReport) -> list[str]:
    """The table's lines of a report."""
    machine = ", ".join(filter(None, (report.machine.model, report.machine.chip, report.machine.system)))
    package = f"{report.package.category} {report.package.precision}, weights {report.package.weights_sha256[:8]}"
    start = (machine, package, report.created[:10])
    found = [_line(*start, *_measured(f, c, report.pictures)) for f in report.functions for c in f.checks]
    return found + [
        _line(*start, f.name, units, _planned(f), *[""] * 4, f"no: did not run: {reason}")
        for f in report.functions
        for units, reason in (f.failed or {}).items()
    ]


def merged(text: str, reports: list[DeviceReport]) -> str:
    """The document with the rows of these reports, the newest last. Raises VtadError: it has no such table."""
    before, heading, after = text.partition(HEADING)
    intro, head, table = after.partition(HEAD)
    if not (heading and head):
        raise VtadError(f"docs/benchmarks.md: expected the table below {HEADING!r}, got none; put it back")
    lines = table.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    kept = lines[:end]
    for report in reports:
        new = rows(report)
        replaced = {_whose(line) for line in new}
        kept = [line for line in kept if _whose(line) not in replaced] + new
    return "".join([before, heading, intro, head, *kept, *lines[end:]])


def _measured(function: FunctionReport, check: UnitsCheck, pictures: int) -> tuple[str, ...]:
    error = check.max_error.get("score")
    return (
        function.name,
        check.compute_units,
        _planned(function),
        f"{check.load_ms:.0f}",
        f"{check.latency_ms:.1f}",
        "not finite" if error is None else f"{error:.1e}",
        f"{check.verdict_flips} of {pictures}",
        "yes" if check.ok else f"no: {', '.join(check.over) or 'verdicts'}",
    )


def _planned(function: FunctionReport) -> str:
    on_engine = sum(p.device == ENGINE for p in function.placements)
    return f"{on_engine} of {len(function.placements)}" if function.placements else "no plan"


def _line(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |\n"


def _whose(line: str) -> tuple[str, ...]:
    """Machine and package of a line."""
    return tuple(line.split(" | ")[:2])


def main() -> None:
    """Merge the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    try:
        files = parser.parse_args().files
        text = merged(BENCHMARKS.read_text(encoding="utf-8"), [_read(file) for file in files])
        with replacing(BENCHMARKS) as beside:
            beside.write_text(text, encoding="utf-8")
    except VtadError as e:
        sys.exit(f"Error: {e}")


def _read(file: Path) -> DeviceReport:
    try:
        return DeviceReport.from_json(file.read_bytes(), str(file))
    except OSError as e:
        raise VtadError(f"{file}: expected the JSON of a device check, got {one_line(e)}") from e


if __name__ == "__main__":
    main()
