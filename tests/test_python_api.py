"""The Python API as the README shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vtad import Config, evaluate, train
from vtad_export import to_onnx
from vtad_runtime import Detector, Verdict, read_rgb

if TYPE_CHECKING:
    from vtad_export.proof.exporter import Export


@pytest.mark.slow
def test_train_evaluate_export_and_judge(pills: Path, tmp_path: Path) -> None:
    config = Config(
        category="pill",
        data=str(pills),
        out=str(tmp_path / "runs"),
        image_height=64,
        image_width=64,
        embed_dim=16,
        heads=2,
        depth=1,
        decoder_depth=1,
        mlp_dim=32,
        feature_dim=32,
        symmetries="turn270,transpose",
        patches=64,
        components=4,
        val_split=0.25,
        epochs=3,
    )
    run = train(config)
    report = evaluate(run)
    assert report.scores.defective == 5
    assert report.heatmap.auroc is not None
    to_onnx(run, tmp_path / "pill.onnx")

    detector = Detector(tmp_path / "pill.onnx")
    rgb = read_rgb(pills / "pill" / "test" / "wrong_colour" / "000.png")
    result = detector(rgb)
    assert np.isfinite(result.score)
    assert 0 < result.p_value <= 1
    assert result.verdict is (Verdict.NG if result.score > result.threshold else Verdict.OK)
    assert result.heatmap.shape == rgb.shape[:2]
    assert bool(result.regions) == bool(result.heatmap.max() > result.pixel_threshold)
    painted = rgb.copy()
    painted[20:36, 24:40] = (255, 0, 255)
    worse = detector(painted)
    assert worse.score > result.score
    assert worse.verdict is Verdict.NG
    region = worse.regions[0]
    assert region.x < 40
    assert region.x + region.width > 24
    assert region.y < 36
    assert region.y + region.height > 20


@pytest.mark.parametrize(
    "package", ["vtad", "vtad_export", "vtad_runtime", "vtad.commands.train", "vtad_export.commands.export"]
)
def test_importing_is_quick_and_takes_no_torch(package: str) -> None:
    heavy = "{'torch', 'onnx', 'sklearn', 'safetensors'}"
    code = f"import sys, {package}; found = {heavy} & sys.modules.keys(); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["vtad", "vtad_export", "vtad_runtime"])
def test_a_package_offers_what_it_lists_and_nothing_else(package: str) -> None:
    module = __import__(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'predict'"):
        module.predict  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    ["vtad_runtime.engine.onnxruntime_engine", "vtad_export.onnx_format.int8", "vtad_benchmark.methods.latency"],
)
def test_onnxruntime_is_loaded_without_its_telemetry(first: str, exported: Export, tmp_path: Path) -> None:
    """It would look up a server of Microsoft's and keep an id of this machine in the cache folder."""
    program = f"""
import {first}
from vtad_runtime import Detector
Detector({str(exported.path)!r})
"""
    plain = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")}
    environment = {
        **plain,
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert not list(tmp_path.rglob("*Microsoft*"))
