"""Packages on a Mac, and what every other machine says of them; Core ML itself is a stand-in."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import GREY, UNIT, bad, good, make_card, write_model

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[apple]'")

from fake_coreml import FakeMac, fake_mac

from vtad_runtime import Verdict
from vtad_runtime.contract.card import ONNX_KEY, Card, CardError
from vtad_runtime.engine import coreml_engine
from vtad_runtime.engine.coreml_engine import CoreMLSession
from vtad_runtime.engine.integrity import write_sealed
from vtad_runtime.engine.model import OUTPUTS, ModelError, Outputs
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.engine.opening import newest_model, open_model
from vtad_runtime.verdict.detector import Detector

Values = dict[str, np.ndarray[Any, Any]]


def write_package(path: Path, card: Card | None = None, text: str | None = None, drop: str = "") -> Path:
    """A package with a specification and no program: what is read before Core ML loads it."""
    import coremltools as ct

    card = card or make_card()
    spec = ct.proto.Model_pb2.Model()
    spec.specificationVersion = 7
    image = spec.description.input.add()
    image.name = "image"
    image.type.imageType.width, image.type.imageType.height = 32, 32
    for name in OUTPUTS:
        if name != drop:
            spec.description.output.add().name = name
    given = card.to_json() if text is None else text
    if given:
        spec.description.metadata.userDefined[ONNX_KEY] = given
    data = path / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(spec.SerializeToString())
    item = {"author": "com.apple.CoreML", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    entries = {"identifier": {**item, "description": ""}}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": "identifier"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    with suppress(CardError):  # text that is no card has no digests
        write_sealed(path, Card.from_json(given))
    return path


def predict(_: Path, rgb: np.ndarray[Any, Any]) -> Values:
    """The tiny ONNX model, as Core ML gives its outputs."""
    units = np.abs(rgb.astype(np.float32).transpose(2, 0, 1)[None] - GREY) / UNIT  # (1, 3, H, W)
    heatmap = units.max(axis=1)
    maps = {"heatmap": heatmap, "ssim_map": heatmap, "density_map": units[:, 0]}
    picture = rgb.astype(np.float32).transpose(2, 0, 1)[None] / 255
    return {"score": heatmap.max(axis=(1, 2)), **maps, "reconstruction": picture}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMac:
    return fake_mac(monkeypatch, predict, tmp_path)


def test_a_package_says_what_its_onnx_fallback_says(mac: FakeMac, tmp_path: Path) -> None:
    package = CoreMLSession(write_package(tmp_path / "m.mlpackage"))
    fallback = OnnxSession(write_model(tmp_path / "m.onnx"))
    batch = np.stack([good(32, 32), bad(32, 32, 3, 4), bad(32, 32, 20, 8)]).transpose(0, 3, 1, 2)
    ours, theirs = package.run(batch), fallback.run(batch)
    assert mac.predictions == 3  # one each
    for name in OUTPUTS:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6)
        assert getattr(ours, name).dtype == np.float32
    assert dataclasses.replace(package.card, digests=None) == dataclasses.replace(fallback.card, digests=None)


@pytest.mark.parametrize(("on_card", "units"), [(None, "CPU_AND_NE"), ("CPU_ONLY", "CPU_ONLY"), ("ALL", "ALL")])
def test_it_runs_on_the_compute_units_of_its_card(mac: FakeMac, tmp_path: Path, on_card: Any, units: str) -> None:
    card = dataclasses.replace(make_card(), compute_units=on_card)
    session = CoreMLSession(write_package(tmp_path / "m.mlpackage", card))
    assert session.compute_units == units
    assert mac.loaded == [("m.mlpackage", units)]


def test_a_detector_opens_either_kind_by_its_name(
    mac: FakeMac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = open_model(write_package(tmp_path / "m.mlpackage"), threads=1)
    assert isinstance(package, CoreMLSession)
    assert isinstance(open_model(write_model(tmp_path / "m.onnx"), threads=1), OnnxSession)
    detector = Detector(tmp_path / "m.mlpackage")
    assert [r.verdict for r in detector.batch([good(), bad()])] == [Verdict.OK, Verdict.NG]


def test_elsewhere_one_line_names_the_onnx_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    path = write_package(tmp_path / "m.mlpackage")
    assert "vtad-export --format onnx" in refused(path)
    fallback = write_model(tmp_path / "m.onnx")
    assert (
        refused(path) == f"{path}: expected a Mac to run a Core ML package, got Linux; run its ONNX fallback {fallback}"
    )


@pytest.mark.parametrize("kind", ["aimodel", "mlmodelc"])
def test_what_vtad_run_does_not_run_anywhere_names_the_onnx_fallback(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"m.{kind}"
    path.mkdir()
    with pytest.raises(ModelError, match="vtad-export --format onnx makes a model that runs here"):
        open_model(path)
    fallback = write_model(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"expected an .onnx model, .*; run its ONNX fallback {fallback}"):
        open_model(path)
    with pytest.raises(ModelError, match=f"run its ONNX fallback {fallback}"):
        open_model(tmp_path / f"m-fp16.{kind}")


def test_a_mac_without_coremltools_is_told_what_to_install(
    mac: FakeMac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    message = refused(write_package_before(tmp_path))
    assert "pip install 'vtad[apple]'" in message


def write_package_before(folder: Path) -> Path:
    """A folder that looks like a package, made without coremltools."""
    path = folder / "m.mlpackage"
    path.mkdir()
    (path / "Manifest.json").touch()
    return path


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_package_of_ours_is_refused(mac: FakeMac, tmp_path: Path) -> None:
    (tmp_path / "empty.mlpackage").mkdir()
    assert "got none" in refused(tmp_path / "empty.mlpackage")
    assert "got none" in refused(tmp_path / "absent.mlpackage")
    assert "without" in refused(write_package(tmp_path / "a.mlpackage", text=""))
    assert "does not parse" in refused(write_package(tmp_path / "b.mlpackage", text="{"))
    assert "('image', 32, 32)" in refused(write_package(tmp_path / "c.mlpackage", make_card(16, 32)))
    assert "expected outputs" in refused(write_package(tmp_path / "d.mlpackage", drop="density_map"))
    torn = write_package(tmp_path / "e.mlpackage")
    (torn / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(b"\xff\xff")
    assert "Core ML refuses" in refused(torn)
    assert mac.loaded == []  # nothing was compiled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("density_map"), "got none of density_map"),
        (lambda v: v.update(heatmap=v["heatmap"][:, :16]), r"output heatmap: expected shape \(1, 32, 32\)"),
    ],
)
def test_a_prediction_that_breaks_the_contract_is_an_error(
    mac: FakeMac, tmp_path: Path, change: Any, message: str
) -> None:
    def broken(path: Path, rgb: np.ndarray[Any, Any]) -> Values:
        values = predict(path, rgb)
        change(values)
        return values

    mac.predict = broken
    with pytest.raises(ModelError, match=message):
        run_one(CoreMLSession(write_package(tmp_path / "m.mlpackage")))


def test_a_prediction_that_fails_is_one_line(mac: FakeMac, tmp_path: Path) -> None:
    def fails(path: Path, rgb: np.ndarray[Any, Any]) -> Values:
        raise RuntimeError("Unable to compute\nthe prediction")

    mac.predict = fails
    with pytest.raises(ModelError, match="Unable to compute the prediction"):
        run_one(CoreMLSession(write_package(tmp_path / "m.mlpackage")))


def run_one(session: CoreMLSession) -> Outputs:
    return session.run(good(32, 32).transpose(2, 0, 1)[None])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two exports: a (older) in both formats, b in both formats; mtimes in that order."""
    for age, run in enumerate(("a/0001", "b/0001")):
        export = tmp_path / "runs" / run / "export"
        write_package(export / "pill.mlpackage")
        (export / "pill.onnx").touch()
        for path in (export / "pill.mlpackage", export / "pill.onnx"):
            os.utime(path, (1000 + age, 1000 + age))
    return tmp_path / "runs"


@pytest.mark.parametrize(("is_mac", "suffix"), [(True, ".mlpackage"), (False, ".onnx")])
def test_the_newest_export_is_taken_in_the_format_that_this_machine_runs(
    runs: Path, monkeypatch: pytest.MonkeyPatch, is_mac: bool, suffix: str
) -> None:
    monkeypatch.setattr(coreml_engine, "on_mac", lambda: is_mac)
    assert newest_model(runs) == runs / f"b/0001/export/pill{suffix}"
    os.utime(runs / "a/0001/export/pill.mlpackage", (2000, 2000))  # exported again; its ONNX model was kept
    assert newest_model(runs) == runs / f"a/0001/export/pill{suffix}"


@pytest.mark.parametrize("is_mac", [True, False])
def test_an_int8_package_without_an_int8_onnx_runs_elsewhere_as_the_float32_one(
    runs: Path, monkeypatch: pytest.MonkeyPatch, is_mac: bool
) -> None:
    monkeypatch.setattr(coreml_engine, "on_mac", lambda: is_mac)
    export = runs / "a/0001/export"
    write_package(export / "pill-int8.mlpackage")
    os.utime(export / "pill-int8.mlpackage", (2000, 2000))
    assert newest_model(runs) == export / ("pill-int8.mlpackage" if is_mac else "pill.onnx")
    if not is_mac:
        assert refused(export / "pill-int8.mlpackage").endswith(f"run its ONNX fallback {export / 'pill.onnx'}")
    (export / "pill-int8.onnx").touch()
    os.utime(export / "pill-int8.onnx", (1000, 1000))
    assert newest_model(runs) == export / f"pill-int8{'.mlpackage' if is_mac else '.onnx'}"


def test_an_export_without_a_package_is_taken_as_it_is(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_engine, "on_mac", lambda: True)
    alone = runs / "a/0001/export/other.onnx"
    alone.touch()
    assert newest_model(runs) == alone


def test_a_mac_without_coremltools_takes_the_onnx_fallback(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_engine, "on_mac", lambda: True)
    monkeypatch.setattr(coreml_engine, "find_spec", lambda name: None)
    assert newest_model(runs) == runs / "b/0001/export/pill.onnx"


def test_a_package_alone_is_named_elsewhere_too_and_not_an_older_model(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreml_engine, "on_mac", lambda: False)
    (runs / "b/0001/export/pill.onnx").unlink()
    assert newest_model(runs) == runs / "b/0001/export/pill.mlpackage"


def test_without_exports_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no exported model"):
        newest_model(tmp_path)
