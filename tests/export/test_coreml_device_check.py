"""The check on a device, with a stand-in for Core ML that executes the package as the reference executor does."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

from fake_coreml import FakeMac, fake_mac

from vtad.run_folder import RunError
from vtad_export.coreml_format.device_check import COMPUTE_UNITS, RUNS, WARM_UP, DeviceReport, device_check
from vtad_export.coreml_format.exporter import CoreMLExport
from vtad_export.coreml_format.lint.generations import REFERENCE
from vtad_export.coreml_format.mil import Executor


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
    assert [c.compute_units for c in report.checks] == list(COMPUTE_UNITS)
    assert [units for _, units in mac.loaded] == list(COMPUTE_UNITS)
    assert mac.predictions == len(COMPUTE_UNITS) * (WARM_UP + RUNS + report.pictures)
    assert report.pictures >= 2
    for check in report.checks:
        assert check.latency_ms == pytest.approx(250)
        assert check.verdict_flips == 0
        assert 0 < check.max_error["heatmap"] <= made.proof.parity.tolerance["heatmap"]


def test_it_says_where_the_plan_puts_the_operations(mac: FakeMac, made: CoreMLExport) -> None:
    report = checked(made.path)
    assert mac.planned == ["CPU_AND_NE"]
    assert [(p.operation, p.device, p.cost) for p in report.placements] == [
        ("ios16.conv stem", "Neural Engine", 0.75),
        ("ios16.softmax attention", "Neural Engine", 0.25),
        ("ios16.topk score", "CPU", 0.0),
    ]
    text = "\n".join(report.lines())
    assert "placement of 3 operations with CPU_AND_NE: Neural Engine 2 (100.0% of the estimated cost), CPU 1" in text
    assert (
        f"the lint expected {made.proof.neural_engine_lint.generations[REFERENCE].flops_share:.1%} of the FLOPs" in text
    )
    assert "CPU        0.0%  ios16.topk score" in text
    assert "CPU_AND_NE     250.0 ms a picture (slowest 250.0), agrees, 0 verdict flips" in text
    assert mac.compiled
    assert not mac.compiled[0].exists()  # nothing of the compilation is left


def test_a_system_without_plans_is_checked_all_the_same(mac: FakeMac, made: CoreMLExport) -> None:
    mac.plan_fails = True
    report = checked(made.path)
    assert report.ok
    assert "placement: no plan (ValueError: MLComputePlan is not supported.)" in "\n".join(report.lines())


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
    assert {c.over for c in report.checks} == {(name,)}
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
    assert all(c.verdict_flips > 0 for c in report.checks)


def test_elsewhere_than_on_a_mac_one_line_says_so(made: CoreMLExport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtad_runtime.engine.coreml_engine.platform.system", lambda: "Linux")
    with pytest.raises(RunError) as caught:
        device_check(made.path)
    assert str(caught.value).startswith(f"{made.path}: expected a Mac to run a Core ML package, got Linux")
    assert "\n" not in str(caught.value)


def test_a_package_without_its_reference_or_with_anothers_is_refused(
    mac: FakeMac, made: CoreMLExport, tmp_path: Path
) -> None:
    package = Path(shutil.copytree(made.path, tmp_path / "pill.mlpackage"))
    with pytest.raises(RunError, match="expected torch's outputs stored at export"):
        device_check(package)
    with np.load(made.reference) as stored:
        other = {**stored, "weights_sha256": np.array("ef" * 32)}
    np.savez(tmp_path / "pill.reference.npz", **other)
    with pytest.raises(RunError, match="expected a reference of the same weights"):
        device_check(package)
