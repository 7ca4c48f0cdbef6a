"""The check on a real device: where Core ML places each operation, how long a picture takes, whether it agrees with torch.

It needs a Mac. Not tested on hardware: no Mac was at hand. What is tested is every call to coremltools, against a stand-in
that answers by its signatures and executes the package as the reference executor does.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtad.run_folder import RunError
from vtad_export.coreml_format.lint.generations import REFERENCE
from vtad_export.coreml_format.lint.report import lint
from vtad_export.coreml_format.mlpackage import coremltools, read_program
from vtad_export.proof.material import Values
from vtad_export.proof.parity import LARGEST, largest_error
from vtad_export.proof.reference import Reference, read_reference, sampled
from vtad_export.proof.tolerance import allowed_flips
from vtad_runtime.contract.card import Card, Parity
from vtad_runtime.engine.coreml_engine import CoreMLSession
from vtad_runtime.engine.model import ModelError

COMPUTE_UNITS = ("CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY", "ALL")
WARM_UP, RUNS = 3, 20
SHOWN = 12  # operations off the engine that are named

Clock = Callable[[], float]


@dataclass(frozen=True)
class Placement:
    """Where Core ML's plan puts one operation."""

    operation: str  # kind and name, as in the program
    device: str  # "Neural Engine", "GPU", "CPU" or "unknown"
    cost: float  # share of the whole estimated by Core ML, 0..1


@dataclass(frozen=True)
class UnitsCheck:
    """One choice of compute units, measured."""

    compute_units: str
    latency_ms: float  # median of one picture, its conversion to Core ML's image included
    slowest_ms: float
    max_error: dict[str, float]  # against torch; units as on the card
    verdict_flips: int  # verdicts that differ
    flips_allowed: int
    over: tuple[str, ...]  # outputs whose error is over the tolerance of the export's proof

    @property
    def ok(self) -> bool:
        """Whether the device agrees with torch as closely as the reference execution had to."""
        return not self.over and self.verdict_flips <= self.flips_allowed


@dataclass(frozen=True)
class DeviceReport:
    """What a device showed."""

    model: Path
    machine: str
    expected_share: float  # of FLOPs on the Neural Engine, by the lint
    placements: tuple[Placement, ...]
    no_plan: str | None  # why Core ML gave no plan: it needs macOS 14.4
    pictures: int
    checks: tuple[UnitsCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every choice of compute units agrees with torch. Placement and latency do not count."""
        return all(check.ok for check in self.checks)

    def lines(self) -> list[str]:
        """The report as text."""
        return [f"{self.model}", f"  device check on {self.machine}", *self._plan(), *self._measured()]

    def _plan(self) -> list[str]:
        if self.no_plan is not None:
            return [f"  placement: no plan ({self.no_plan})"]
        operations = Counter(p.device for p in self.placements)
        shares = ", ".join(
            f"{device} {count} ({sum(p.cost for p in self.placements if p.device == device):.1%} of the estimated cost)"
            for device, count in operations.most_common()
        )
        off = sorted((p for p in self.placements if p.device != "Neural Engine"), key=lambda p: -p.cost)
        return [
            f"  placement of {len(self.placements)} operations with CPU_AND_NE: {shares}",
            f"  the lint expected {self.expected_share:.1%} of the FLOPs on the Neural Engine",
            *(f"    {p.device:<8} {p.cost:6.1%}  {p.operation}" for p in off[:SHOWN]),
            *([f"    and {len(off) - SHOWN} more"] if len(off) > SHOWN else []),
        ]

    def _measured(self) -> list[str]:
        lines = [f"  against torch on {self.pictures} stored pictures:"]
        for c in self.checks:
            errors = ", ".join(f"{name} {error:.1e}" for name, error in c.max_error.items())
            verdict = "agrees" if c.ok else f"DISAGREES ({', '.join(c.over) or 'verdicts'})"
            lines += [
                f"    {c.compute_units:<12} {c.latency_ms:7.1f} ms a picture (slowest {c.slowest_ms:.1f}), {verdict}, "
                f"{c.verdict_flips} verdict flips",
                f"                 largest errors: {errors}",
            ]
        return lines


def device_check(model: Path, clock: Clock = time.perf_counter) -> DeviceReport:
    """Check a package of vtad-export on this Mac, against the reference stored beside it.

    Raises RunError where this is no Mac, the package is not ours, or its reference is not there; PackageError.
    """
    model = Path(model)
    if model.suffix != ".mlpackage":
        raise RunError(f"{model}: expected a Core ML package (.mlpackage) to check, got another kind of file")
    try:
        first = CoreMLSession(model, COMPUTE_UNITS[0])
    except ModelError as e:
        raise RunError(str(e)) from e
    parity = first.card.parity
    if parity is None:
        raise RunError(f"{model}: expected a package with its proof, got a card without one; export the run again")
    reference = read_reference(model)
    if reference.weights_sha256 != first.card.weights_sha256:
        raise RunError(
            f"{model}: expected a reference of the same weights beside it, got another's; export the run again"
        )
    placements, no_plan = plan(model)
    try:
        checks = [check_units(first, reference, parity, clock)]
        for units in COMPUTE_UNITS[1:]:
            checks.append(check_units(CoreMLSession(model, units), reference, parity, clock))
    except ModelError as e:
        raise RunError(str(e)) from e
    share = lint(read_program(model)).generations[REFERENCE].flops_share
    version = platform.mac_ver()[0]
    machine = f"macOS {version} on {platform.machine()}"
    return DeviceReport(model, machine, share, placements, no_plan, len(reference.pixels), tuple(checks))


def plan(model: Path) -> tuple[tuple[Placement, ...], str | None]:
    """Where Core ML would run each operation with CPU_AND_NE; or why there is no plan."""
    ct = coremltools()
    from coremltools.models.compute_plan import MLComputePlan

    compiled = None
    try:
        compiled = ct.models.utils.compile_model(str(model))
        made = MLComputePlan.load_from_path(path=str(compiled), compute_units=ct.ComputeUnit.CPU_AND_NE)
        operations = made.model_structure.program.functions["main"].block.operations
        return tuple(_placement(made, op) for op in operations if op.operator_name.split(".")[-1] != "const"), None
    except Exception as e:  # coremltools' errors share no base class; the rest of the check needs no plan
        return (), f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
    finally:
        if compiled is not None:
            shutil.rmtree(compiled, ignore_errors=True)


def _placement(made: Any, op: Any) -> Placement:
    usage = made.get_compute_device_usage_for_mlprogram_operation(op)
    cost = made.get_estimated_cost_for_mlprogram_operation(op)
    kind = type(usage.preferred_compute_device).__name__ if usage is not None else ""
    names = {
        "MLNeuralEngineComputeDevice": "Neural Engine",
        "MLGPUComputeDevice": "GPU",
        "MLCPUComputeDevice": "CPU",
    }
    label = f"{op.operator_name} {op.outputs[0].name if op.outputs else ''}".strip()
    return Placement(label, names.get(kind, "unknown"), cost.weight if cost is not None else 0.0)


def check_units(session: CoreMLSession, reference: Reference, parity: Parity, clock: Clock) -> UnitsCheck:
    """Measure one opened package on the stored pictures. Raises ModelError."""
    one = reference.pixels[:1]
    for _ in range(WARM_UP):
        session.run(one)
    times_ms = []
    for _ in range(RUNS):
        start = clock()
        session.run(one)
        times_ms.append(1000 * (clock() - start))
    outputs = session.run(reference.pixels)
    got = {name: sampled(getattr(outputs, name)) for name in reference.expected}
    calibration = session.card.calibration
    errors = {name: largest_error(name, reference.expected[name], got[name], calibration) for name in got}
    return UnitsCheck(
        compute_units=session.compute_units,
        latency_ms=statistics.median(times_ms),
        slowest_ms=max(times_ms),
        max_error=errors,
        verdict_flips=flips(reference.expected, got, session.card),
        flips_allowed=allowed_flips(parity.precision, None, len(reference.pixels)),
        over=tuple(name for name, error in errors.items() if not error <= parity.tolerance.get(name, LARGEST)),
    )


def flips(expected: Values, got: Values, card: Card) -> int:
    """Verdicts that differ."""
    threshold = card.calibration.threshold
    return int(((expected["score"] > threshold) != (got["score"] > threshold)).sum())
