"""The check on a device, with a stand-in for Core ML that executes the package as the reference executor does."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

from fake_coreml import FakeMac, fake_mac
from tiny_run import done, invoke

from bench import device_checks
from vtad.run_folder import RunError
from vtad_export.commands.export import export
from vtad_export.coreml_format.device.check import COMPUTE_UNITS, RUNS, WARM_UP, device_check, misplaced
from vtad_export.coreml_format.device.report import DeviceReport, ReportError
from vtad_export.coreml_format.exporter import CoreMLExport
from vtad_export.coreml_format.lint.generations import REFERENCE
from vtad_export.coreml_format.mil import Executor
from vtad_export.coreml_format.mlpackage import model_file, specification
from vtad_runtime.contract.card import REFERENCES_KEY
from vtad_runtime.contract.references import ReferencesError
from vtad_runtime.engine.integrity import write_sealed
from vtad_runtime.engine.model import ModelError


@pytest.fixture(scope="module")
def made(packaged: CoreMLExport) -> CoreMLExport:
    return packaged


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: CoreMLExport) -> FakeMac:
    executor = Executor.load(made.path)
    seen: dict[bytes, dict[str, Any]] = {}

    def predict(_: Path, rgb: Any) -> dict[str, Any]:
        key = rgb.tobytes()
        if key not in seen:
            seen[key] = executor(np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]))
        return dict(seen[key])

    return fake_mac(monkeypatch, predict, tmp_path)


def checked(model: Path) -> DeviceReport:
    """A check by a clock that ticks a quarter of a second at each look."""
    ticks = itertools.count()
    return device_check(model, clock=lambda: 0.25 * next(ticks))


def test_a_device_that_computes_what_torch_does_passes_on_all_compute_units(mac: FakeMac, made: CoreMLExport) -> None:
    report = checked(made.path)
    assert report.ok
    (function,) = report.functions
    assert [c.compute_units for c in function.checks] == list(COMPUTE_UNITS)
    assert [units for _, units in mac.loaded][1:] == list(COMPUTE_UNITS)
    assert mac.predictions == len(COMPUTE_UNITS) * (WARM_UP + RUNS + report.pictures)
    assert report.pictures == 8
    for check in function.checks:
        assert check.latency_ms == check.load_ms == pytest.approx(250)
        assert check.verdict_flips == 0
        assert check.max_error.keys() == made.proof.parity.tolerance.keys()
        assert 0 < (check.max_error["heatmap"] or 0) <= made.proof.parity.tolerance["heatmap"]


def test_it_says_where_the_plan_puts_the_operations(mac: FakeMac, made: CoreMLExport) -> None:
    report = checked(made.path)
    assert mac.planned == ["CPU_AND_NE"]
    (function,) = report.functions
    assert function.otherwise == ()  # the score is float32
    assert [(p.operation, p.output, p.device, p.cost) for p in function.placements] == [
        ("ios16.conv", "stem", "Neural Engine", 0.75),
        ("ios16.softmax", "attention", "Neural Engine", 0.25),
        ("ios16.topk", "score", "CPU", 0.0),
    ]
    assert function.placements[0].supported == ("Neural Engine", "CPU")
    text = "\n".join(report.lines())
    assert "placement of 3 operations with CPU_AND_NE: Neural Engine 2 (100.0% of the estimated cost), CPU 1" in text
    assert (
        f"the lint expected {made.proof.neural_engine_lint.generations[REFERENCE].flops_share:.1%} of the FLOPs" in text
    )
    assert "CPU        0.0%  ios16.topk score" in text
    assert "CPU_AND_NE     250.0 ms a picture (slowest 250.0, loaded in 250), agrees, 0 verdict flips" in text
    assert mac.compiled
    assert not mac.compiled[0].exists()  # nothing of the compilation is left
    share = made.proof.neural_engine_lint.generations[REFERENCE]
    on_cpu = tuple(dataclasses.replace(p, device="CPU") for p in function.placements)
    assert misplaced(tuple(dataclasses.replace(p, device="unknown") for p in on_cpu), share) == ()
    shown = dataclasses.replace(function, placements=on_cpu, otherwise=misplaced(on_cpu, share))
    text = "\n".join(dataclasses.replace(report, functions=(shown,)).lines())
    assert "1 of 3 operations are where the lint expected them\n      not: stem, attention" in text


def test_a_system_without_plans_is_checked_all_the_same(mac: FakeMac, made: CoreMLExport) -> None:
    mac.plan_fails = True
    report = checked(made.path)
    assert report.ok
    assert "placement: no plan (ValueError: MLComputePlan is not supported.)" in "\n".join(report.lines())


def write(package: Path, spec: Any, made: CoreMLExport) -> None:
    """Change a package as an exporter would: with its digests."""
    model_file(package).write_bytes(spec.SerializeToString())
    write_sealed(package, made.card)


def off_by_a_unit(v: dict[str, Any]) -> None:
    v["heatmap"] = v["heatmap"] + 1.0


def not_finite(v: dict[str, Any]) -> None:
    v["ssim_map"] = v["ssim_map"] * np.nan


def brighter(v: dict[str, Any]) -> None:
    v["reconstruction"] = v["reconstruction"] + 0.05


@pytest.mark.parametrize(
    ("wrong", "name"), [(off_by_a_unit, "heatmap"), (not_finite, "ssim_map"), (brighter, "reconstruction")]
)
def test_a_device_that_computes_something_else_fails(mac: FakeMac, made: CoreMLExport, wrong: Any, name: str) -> None:
    right = mac.predict

    def predict(path: Path, rgb: Any) -> dict[str, Any]:
        values = right(path, rgb)
        wrong(values)
        return values

    mac.predict = predict
    report = checked(made.path)
    assert not report.ok
    assert {c.over for c in report.functions[0].checks} == {(name,)}
    assert DeviceReport.from_json(report.to_json(), "sent.json") == report
    assert f"DISAGREES ({name})" in "\n".join(report.lines())


def test_verdicts_that_flip_fail(mac: FakeMac, made: CoreMLExport) -> None:
    right, threshold = mac.predict, made.card.calibration.threshold

    def predict(path: Path, rgb: Any) -> dict[str, Any]:
        values = right(path, rgb)
        values["score"] = 2 * threshold - values["score"]  # mirrored at the threshold
        return values

    mac.predict = predict
    report = checked(made.path)
    assert not report.ok
    assert all(c.verdict_flips > 0 for c in report.functions[0].checks)
    assert {c.flips_allowed for c in device_check(made.path, max_flips=3).functions[0].checks} == {3}


def test_the_command_prints_it_and_writes_one_json_beside_the_package(
    mac: FakeMac, made: CoreMLExport, tmp_path: Path
) -> None:
    package = Path(shutil.copytree(made.path, tmp_path / "pill.mlpackage"))
    out = done(export, "--device-check", package)
    file = tmp_path / "pill.device-check.json"
    report = DeviceReport.from_json(file.read_bytes(), str(file))
    assert out.splitlines()[-1] == f"  to send: {file}"
    assert out.splitlines()[:-1] == report.lines()
    assert (report.package.precision, report.package.weights_sha256) == ("fp16", made.card.weights_sha256)
    assert report.ok
    with pytest.raises(ReportError, match=r"^a\.json: expected the JSON of vtad-export --device-check: .* got None of"):
        DeviceReport.from_json(made.card.to_json(), "a.json")


def test_every_function_of_a_package_is_checked_by_what_it_gives(
    mac: FakeMac, made: CoreMLExport, tmp_path: Path
) -> None:
    package = Path(shutil.copytree(made.path, tmp_path / "pill.mlpackage"))
    spec = specification(package)
    for name in ("verdict", "explain"):
        spec.description.functions.add().name = name
        spec.mlProgram.functions[name].CopyFrom(spec.mlProgram.functions["main"])
    write(package, spec, made)
    whole = mac.predict
    mac.predict = lambda path, rgb: {
        k: v for k, v in whole(path, rgb).items() if mac.functions[-1] != "verdict" or k in ("score", "heatmap")
    }
    report = checked(package)
    assert report.ok
    assert [f.name for f in report.functions] == ["verdict", "explain"]
    assert mac.functions[1:] == ["verdict"] * 4 + ["explain"] * 4
    assert [len(f.checks[0].max_error) for f in report.functions] == [2, 5]
    assert [f.placements for f in report.functions] == [(), report.functions[1].placements]
    share = made.proof.neural_engine_lint.generations[REFERENCE].flops_share
    assert [f.expected_share for f in report.functions] == [share, share]
    assert [f.otherwise for f in report.functions] == [None, ()]  # there is a plan of one of them


def test_a_choice_of_compute_units_that_does_not_load_is_reported_beside_those_that_do(
    mac: FakeMac, made: CoreMLExport, tmp_path: Path
) -> None:
    mac.refused = {"CPU_AND_NE", "ALL"}
    package = Path(shutil.copytree(made.path, tmp_path / "pill.mlpackage"))
    out = invoke(export, "--device-check", package)
    assert out.exit_code == 1
    assert "CPU_AND_NE   did not run: Error compiling model: CPU_AND_NE is not there" in out.stdout
    file = tmp_path / "pill.device-check.json"
    report = DeviceReport.from_json(file.read_bytes(), str(file))
    (function,) = report.functions
    assert [c.compute_units for c in function.checks] == ["CPU_AND_GPU", "CPU_ONLY"]
    assert all(c.ok for c in function.checks)
    assert (function.failed or {}).keys() == mac.refused
    assert not report.ok
    rows = [row for row in device_checks.rows(report) if "did not run" in row]
    assert len(rows) == 2
    assert all(row.count("|") == len(device_checks.COLUMNS) + 1 for row in rows)


def test_the_check_needs_no_torch(made: CoreMLExport) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from click.testing import CliRunner\n"
        "from vtad_export.commands.export import export\n"
        f"print(CliRunner().invoke(export, ['--device-check', {str(made.path)!r}]).output)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "expected a Mac to run a Core ML package, got Linux" in ran.stdout


def test_elsewhere_than_on_a_mac_one_line_says_so(made: CoreMLExport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtad_runtime.engine.coreml_engine.platform.system", lambda: "Linux")
    with pytest.raises(ModelError) as caught:
        device_check(made.path)
    assert str(caught.value).startswith(f"{made.path}: expected a Mac to run a Core ML package, got Linux")
    assert "\n" not in str(caught.value)


def test_a_package_without_reference_pictures_or_with_anothers_is_refused(
    mac: FakeMac, made: CoreMLExport, tmp_path: Path
) -> None:
    package = Path(shutil.copytree(made.path, tmp_path / "pill.mlpackage"))
    spec = specification(package)
    metadata = spec.description.metadata.userDefined
    metadata[REFERENCES_KEY] = metadata[REFERENCES_KEY].replace(made.card.weights_sha256, "ef" * 32)
    write(package, spec, made)
    with pytest.raises(ReferencesError, match="got those of other weights; copy the file again"):
        device_check(package)
    del metadata[REFERENCES_KEY]
    write(package, spec, made)
    with pytest.raises(RunError, match="expected reference pictures in the package, got none"):
        device_check(package)
