"""The check on a real device: where Core ML places each operation, how long a picture takes, whether it agrees with torch.

It needs a Mac with the extra `apple`, no torch. Everything it compares with is inside the package. Not tested on hardware: no Mac
was at hand. What is tested is every call to coremltools, against a stand-in that answers by its signatures and executes the
package as the reference executor does. On an iPhone the app in examples/ios writes the same report.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtad.run_folder import RunError
from vtad.version import VERSION
from vtad_export.coreml_format.device.report import (
    ENGINE,
    KIND,
    SCHEMA,
    UNKNOWN,
    DeviceReport,
    FunctionReport,
    Machine,
    Package,
    Placement,
    UnitsCheck,
    number,
)
from vtad_export.coreml_format.lint.generations import REFERENCE
from vtad_export.coreml_format.lint.report import Share, lint
from vtad_export.coreml_format.mlpackage import PackageError, coremltools, read_program, specification
from vtad_export.proof.tolerance import allowed_flips
from vtad_runtime.contract.card import Card
from vtad_runtime.contract.errors import why
from vtad_runtime.contract.references import LARGEST, References, largest_error, sampled
from vtad_runtime.engine.coreml_engine import CoreMLSession

COMPUTE_UNITS = ("CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY", "ALL")
WARM_UP, RUNS = 3, 20
MAIN = "main"  # the one function of a package that names none
DEVICES = {
    "MLNeuralEngineComputeDevice": ENGINE,
    "MLGPUComputeDevice": "GPU",
    "MLCPUComputeDevice": "CPU",
}

Clock = Callable[[], float]
Values = dict[str, NDArray[np.float32]]


def device_check(model: Path, max_flips: int | None = None, clock: Clock = time.perf_counter) -> DeviceReport:
    """Check a package of vtad-export on this Mac, every function on every choice of compute units.

    `max_flips`: verdicts that may differ, by default as in an export of this precision. Raises RunError where the package is
    not ours, has no proof or no reference pictures; ModelError where this is no Mac or the package does not even load on the
    CPU; PackageError, ReferencesError.
    """
    model = Path(model)
    if model.suffix != ".mlpackage":
        raise RunError(f"{model}: expected a Core ML package (.mlpackage) to check, got another kind of file")
    session = CoreMLSession(model, "CPU_ONLY")  # for the card: whether it loads on others is what is checked
    card, references = session.card, session.references()
    if card.parity is None:
        raise RunError(f"{model}: expected a package with its proof, got a card without one; export the run again")
    if references is None:
        raise RunError(
            f"{model}: expected reference pictures in the package, got none; export the run again without --no-references"
        )
    described = specification(model).description
    names = [function.name for function in described.functions] or [MAIN]
    functions = []
    for name in names:
        placements, no_plan = plan(model, name)
        chosen = name if described.functions else None
        checks: list[UnitsCheck] = []
        failed: dict[str, str] = {}
        for units in COMPUTE_UNITS:
            try:
                checks.append(_check(model, chosen, units, card, references, max_flips, clock))
            except PackageError as e:
                failed[units] = str(e)
        share = lint(read_program(model, chosen)).generations[REFERENCE]
        otherwise = misplaced(placements, share) if placements else None
        functions.append(
            FunctionReport(name, placements, tuple(checks), no_plan, share.flops_share, otherwise, failed or None)
        )
    megabytes = sum(p.stat().st_size for p in model.rglob("*") if p.is_file()) / 1e6
    version = specification(model).specificationVersion
    return DeviceReport(
        KIND,
        SCHEMA,
        datetime.now(UTC).isoformat(timespec="seconds"),
        Package(model.name, card.identity.category, card.parity.precision, card.weights_sha256, version, megabytes),
        _machine(),
        len(references.names),
        tuple(functions),
    )


def plan(model: Path, function: str = MAIN) -> tuple[tuple[Placement, ...], str | None]:
    """Where Core ML would run each operation of a function with CPU_AND_NE; or why there is no plan."""
    ct = coremltools()
    from coremltools.models.compute_plan import MLComputePlan

    compiled = None
    try:
        compiled = ct.models.utils.compile_model(str(model))
        made = MLComputePlan.load_from_path(path=str(compiled), compute_units=ct.ComputeUnit.CPU_AND_NE)
        operations = made.model_structure.program.functions[function].block.operations
        return tuple(_placement(made, op) for op in operations if op.operator_name.split(".")[-1] != "const"), None
    except Exception as e:  # coremltools' errors share no base class; the rest of the check needs no plan
        return (), why(e)
    finally:
        if compiled is not None:
            shutil.rmtree(compiled, ignore_errors=True)


def _placement(made: Any, op: Any) -> Placement:
    usage = made.get_compute_device_usage_for_mlprogram_operation(op)
    cost = made.get_estimated_cost_for_mlprogram_operation(op)
    return Placement(
        operation=op.operator_name,
        output=op.outputs[0].name if op.outputs else "",
        device=_device(usage.preferred_compute_device) if usage is not None else UNKNOWN,
        supported=tuple(map(_device, usage.supported_compute_devices)) if usage is not None else (),
        cost=cost.weight if cost is not None else 0.0,
    )


def _device(device: Any) -> str:
    return DEVICES.get(type(device).__name__, UNKNOWN)


def misplaced(placements: tuple[Placement, ...], expected: Share) -> tuple[str, ...]:
    """What a plan puts on the engine and the lint elsewhere, or the other way round, by the names of their outputs."""
    known = [p for p in placements if p.device != UNKNOWN]
    return tuple(p.output for p in known if (p.device == ENGINE) == (p.output in expected.elsewhere))


def _check(
    model: Path,
    function: str | None,
    units: str,
    card: Card,
    references: References,
    max_flips: int | None,
    clock: Clock,
) -> UnitsCheck:
    """Measure one function on one choice of compute units. Raises PackageError: it does not load or run."""
    ct = coremltools()
    assert card.parity is not None
    pictures = [Image.fromarray(np.ascontiguousarray(p.transpose(1, 2, 0))) for p in references.pixels]
    try:
        start = clock()
        loaded = ct.models.MLModel(str(model), compute_units=ct.ComputeUnit[units], function_name=function)
        load_ms = 1000 * (clock() - start)
        for _ in range(WARM_UP):
            loaded.predict({card.input.name: pictures[0]})
        times_ms = []
        for _ in range(RUNS):
            start = clock()
            loaded.predict({card.input.name: pictures[0]})
            times_ms.append(1000 * (clock() - start))
        found = [loaded.predict({card.input.name: picture}) for picture in pictures]
    except Exception as e:  # coremltools' errors share no base class
        said = " ".join(str(e).split())[:300]
        raise PackageError(said) from e
    got = {
        name: sampled(np.concatenate([np.asarray(values[name], np.float32) for values in found]))
        for name in references.expected
        if name in found[0]
    }
    expected, tolerance = references.expected, card.parity.tolerance
    errors = {name: largest_error(name, expected[name], values, card.calibration) for name, values in got.items()}
    over = tuple(name for name, error in errors.items() if not error <= tolerance.get(name, LARGEST))
    return UnitsCheck(
        compute_units=units,
        load_ms=load_ms,
        latency_ms=statistics.median(times_ms),
        slowest_ms=max(times_ms),
        max_error={name: number(error) for name, error in errors.items()},
        verdict_flips=flips(expected, got, card) if "score" in got else 0,
        flips_allowed=allowed_flips(card.parity.precision, max_flips, len(pictures)),
        over=over if "score" in got else (*over, "score"),
    )


def flips(expected: Values, got: Values, card: Card) -> int:
    """Verdicts that differ."""
    threshold = card.calibration.threshold
    return int(((expected["score"] > threshold) != (got["score"] > threshold)).sum())


def _machine() -> Machine:
    version = platform.mac_ver()[0]
    made_by = f"vtad {VERSION} with coremltools {coremltools().__version__}"
    chip = _sysctl("machdep.cpu.brand_string")
    return Machine(_sysctl("hw.model") or platform.machine(), chip, f"macOS {version}", made_by)


def _sysctl(name: str) -> str:
    """A line that the system says of itself; "" where it says nothing."""
    try:
        said = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
