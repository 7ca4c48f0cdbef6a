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
from vtad_runtime.engine.engines import ENGINES

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
    opened_in_silence(f"import {first}", exported, "cpu", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not ENGINES["openvino"].installed(), reason="needs the extra openvino")
def test_openvino_is_loaded_without_its_telemetry(exported: Export, tmp_path: Path) -> None:
    """It would tell Google Analytics of every import, and keep an id of this machine in the home folder."""
    opened_in_silence("import vtad_runtime", exported, "openvino", tmp_path)


def opened_in_silence(first: str, exported: Export, engine: str, home: Path) -> None:
    """Open a model in a process of its own, which reaches no address and leaves no id of the machine."""
    program = f"""
import sys
reached = []
sys.addaudithook(lambda name, args: reached.append(args) if name in ("socket.connect", "socket.getaddrinfo") else None)
{first}
from vtad_runtime import Detector
Detector({str(exported.path)!r}, engine={engine!r})
assert not reached, reached
"""
    off = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "TF_BUILD", "JENKINS_URL")
    plain = {k: v for k, v in os.environ.items() if k not in off}
    environment = {
        **plain,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert {path.name for path in home.iterdir()} <= {"vtad"}
