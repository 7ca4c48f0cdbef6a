"""What a device showed: plain data, its text, and the JSON in which it is sent. The app in examples/ios writes the same."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed

KIND = "vtad device check"
SCHEMA = 1
SHOWN = 12  # operations off the engine that are named in the text
ENGINE, UNKNOWN = "Neural Engine", "unknown"


class ReportError(VtadError):
    """A file that is no report of a device check. One line."""


@dataclass(frozen=True)
class Placement:
    """Where Core ML's plan puts one operation."""

    operation: str  # its kind, such as ios16.conv
    output: str  # the name of its first output in the program
    device: str  # "Neural Engine", "GPU", "CPU" or "unknown"
    supported: tuple[str, ...]  # where it could run
    cost: float  # share of the function's whole as Core ML estimates it, 0..1; 0 where it says nothing


@dataclass(frozen=True)
class UnitsCheck:
    """One function on one choice of compute units, measured."""

    compute_units: str
    load_ms: float  # compiling for the device and loading; later loads are faster
    latency_ms: float  # median of one picture, its conversion to Core ML's image included
    slowest_ms: float
    max_error: dict[str, float | None]  # against torch, by output; units as on the card; None: not finite
    verdict_flips: int  # verdicts that differ from torch's
    flips_allowed: int
    over: tuple[str, ...]  # outputs whose error is over the tolerance of the export's proof

    @property
    def ok(self) -> bool:
        """Whether the device agrees with torch as closely as the export's proof had to."""
        return not self.over and self.verdict_flips <= self.flips_allowed


@dataclass(frozen=True)
class FunctionReport:
    """One function of a package."""

    name: str
    placements: tuple[Placement, ...]  # with CPU_AND_NE
    checks: tuple[UnitsCheck, ...]
    no_plan: str | None = None  # why Core ML gave no plan: it needs macOS 14.4 or iOS 17.4
    expected_share: float | None = None  # of FLOPs on the Neural Engine, by the lint; None: not estimated
    otherwise: tuple[str, ...] | None = (
        None  # what the plan puts elsewhere than the lint, by output; None: not compared
    )
    failed: dict[str, str] | None = None  # why it did not load or run, by choice of compute units; None: on all it did


@dataclass(frozen=True)
class Package:
    """What was checked."""

    name: str  # pill.mlpackage
    category: str
    precision: str  # of the export's proof
    weights_sha256: str
    specification: int | None = None  # of Core ML
    megabytes: float | None = None


@dataclass(frozen=True)
class Machine:
    """Where."""

    model: str  # Mac14,2 or iPhone16,1
    chip: str  # Apple M2; "" where the system does not say
    system: str  # macOS 15.1
    made_by: str  # vtad 0.1.0 with coremltools 9.0


@dataclass(frozen=True)
class DeviceReport:
    """The whole report."""

    kind: str
    schema: int
    created: str  # ISO 8601, UTC
    package: Package
    machine: Machine
    pictures: int  # reference pictures in the package
    functions: tuple[FunctionReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every function agrees with torch on every choice of compute units. Placement and latency do not count."""
        return all(not f.failed and all(check.ok for check in f.checks) for f in self.functions)

    def to_json(self) -> str:
        """As indented JSON; `from_json` gives an equal report back."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str | bytes, where: str) -> DeviceReport:
        """`where` names the file in errors. Raises ReportError."""
        try:
            raw = parsed(text)
            if not isinstance(raw, dict) or (raw.get("kind"), raw.get("schema")) != (KIND, SCHEMA):
                raise WrongJson(f"expected {KIND!r} of schema {SCHEMA}, got {_said(raw)}")
            return typed(DeviceReport, raw, "report")
        except WrongJson as e:
            raise ReportError(f"{where}: expected the JSON of vtad-export --device-check: {e}") from e

    def lines(self) -> list[str]:
        """The report as text."""
        machine = ", ".join(filter(None, (self.machine.model, self.machine.chip, self.machine.system)))
        size = "" if self.package.megabytes is None else f", {self.package.megabytes:.1f} MB"
        lines = [
            f"{self.package.name}: {self.package.category}, {self.package.precision}{size}",
            f"  device check on {machine}, by {self.machine.made_by}",
        ]
        for function in self.functions:
            lines += [f"  function {function.name}", *_plan(function), *_measured(function, self.pictures)]
        return lines


def number(error: float) -> float | None:
    """An error for the report: JSON has no infinity."""
    return error if math.isfinite(error) else None


def _plan(function: FunctionReport) -> list[str]:
    if function.no_plan is not None:
        return [f"    placement: no plan ({function.no_plan})"]
    placements = function.placements
    operations = Counter(p.device for p in placements)
    shares = ", ".join(
        f"{device} {count} ({sum(p.cost for p in placements if p.device == device):.1%} of the estimated cost)"
        for device, count in operations.most_common()
    )
    off = sorted((p for p in placements if p.device != ENGINE), key=lambda p: -p.cost)
    expected = function.expected_share
    return [
        f"    placement of {len(placements)} operations with CPU_AND_NE: {shares}",
        *([f"    the lint expected {expected:.1%} of the FLOPs on the {ENGINE}"] if expected is not None else []),
        *_compared(function),
        *(f"      {p.device:<8} {p.cost:6.1%}  {p.operation} {p.output}".rstrip() for p in off[:SHOWN]),
        *([f"      and {len(off) - SHOWN} more"] if len(off) > SHOWN else []),
    ]


def _compared(function: FunctionReport) -> list[str]:
    if function.otherwise is None:
        return []
    known = sum(p.device != UNKNOWN for p in function.placements)
    as_expected = known - len(function.otherwise)
    lines = [f"    {as_expected} of {known} operations are where the lint expected them"]
    if function.otherwise:
        more = f" and {len(function.otherwise) - SHOWN} more" if len(function.otherwise) > SHOWN else ""
        lines.append(f"      not: {', '.join(function.otherwise[:SHOWN])}{more}")
    return lines


def _measured(function: FunctionReport, pictures: int) -> list[str]:
    lines = [f"    against torch on {pictures} reference pictures:"]
    for c in function.checks:
        errors = ", ".join(f"{name} {'not finite' if e is None else f'{e:.1e}'}" for name, e in c.max_error.items())
        verdict = "agrees" if c.ok else f"DISAGREES ({', '.join(c.over) or 'verdicts'})"
        lines += [
            f"      {c.compute_units:<12} {c.latency_ms:7.1f} ms a picture (slowest {c.slowest_ms:.1f}, loaded in "
            f"{c.load_ms:.0f}), {verdict}, {c.verdict_flips} verdict flips",
            f"                   largest errors: {errors}",
        ]
    return lines + [f"      {units:<12} did not run: {reason}" for units, reason in (function.failed or {}).items()]


def _said(raw: Any) -> str:
    return f"{raw.get('kind')!r} of schema {raw.get('schema')!r}" if isinstance(raw, dict) else type(raw).__name__
