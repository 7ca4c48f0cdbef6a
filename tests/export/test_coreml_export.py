"""vtad-export --format coreml: what it writes, when it writes nothing, and what it says."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

from fake_coreml import fake_mac
from shared_exports import traces
from tiny_run import done, error

from vtad.models.detector import Judgement
from vtad.models.trained import load_detector
from vtad.run_folder import Run, RunError, WriteError, replacing_folder
from vtad_export.commands.export import export
from vtad_export.coreml_format.exporter import CoreMLExport, to_coreml
from vtad_export.coreml_format.mil import Executor
from vtad_export.coreml_format.mlpackage import (
    PackageError,
    read_package_card,
    read_program,
    specification,
    weight_file,
)
from vtad_export.coreml_format.reference_proof import prove_verdict
from vtad_export.onnx_format import fallback
from vtad_export.proof import material
from vtad_export.proof.errors import ParityError
from vtad_runtime import Detector
from vtad_runtime.contract.card import ONNX_KEY, REFERENCES_KEY, Card
from vtad_runtime.contract.references import References
from vtad_runtime.engine.coreml_engine import CoreMLSession, onnx_fallback
from vtad_runtime.engine.integrity import integrity
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.engine.opening import newest_model

pytestmark = pytest.mark.usefixtures("ready")


@pytest.fixture(scope="module")
def made(packaged: CoreMLExport) -> CoreMLExport:
    """The default export of the tiny run, in a folder of its own."""
    return packaged


def test_the_package_says_what_it_takes_and_gives(made: CoreMLExport) -> None:
    spec = specification(made.path)
    (image,) = spec.description.input
    assert image.name == "image"
    kind = image.type.imageType
    assert (kind.width, kind.height, kind.ColorSpace.Name(kind.colorSpace)) == (32, 32, "RGB")
    shapes = {"score": [1], "reconstruction": [1, 3, 32, 32]}
    assert [o.name for o in spec.description.output] == list(Judgement._fields)
    for output in spec.description.output:
        array = output.type.multiArrayType
        assert array.ArrayDataType.Name(array.dataType) == "FLOAT32"
        assert list(array.shape) == shapes.get(output.name, [1, 32, 32])
        assert "z-score" in output.shortDescription or "intensity" in output.shortDescription
    meta = spec.description.metadata
    assert (meta.author, meta.license) == ("vtad", "Apache-2.0")
    assert meta.versionString
    assert meta.userDefined["com.apple.coreml.model.preview.type"] == "depthEstimation"  # a picture in, a map out
    assert "RGB, 32 x 32 pixels" in image.shortDescription
    assert spec.specificationVersion == 7  # iOS 16, macOS 13


def test_reading_a_package_does_not_change_it(made: CoreMLExport, tmp_path: Path) -> None:
    """coremltools writes Manifest.json anew when it opens the folder."""
    copy = Path(shutil.copytree(made.path, tmp_path / "pill.mlpackage"))

    def state() -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in copy.rglob("*") if p.is_file()}

    before = state()
    done(export, "--show", copy)
    read_program(copy)
    assert state() == before


def test_the_package_and_what_lies_beside_it_say_nothing_of_the_machine(
    made: CoreMLExport, trained: Run, pills: Path
) -> None:
    assert traces(made.path.parent, trained.path, pills) == []


def test_the_card_travels_inside_with_the_proof(made: CoreMLExport, trained: Run) -> None:
    card = Card.from_json(specification(made.path).description.metadata.userDefined[ONNX_KEY])
    assert card == made.card == read_package_card(made.path)
    assert card.calibration == trained.card().calibration
    assert card.weights_sha256 == trained.card().weights_sha256
    assert card.parity is not None
    assert (card.parity.format, card.parity.precision, card.parity.verdict_flips) == ("coreml", "fp16", 0)
    report = json.loads((made.path.parent / "parity-coreml.json").read_text())
    assert report["method"] == "reference execution, not device proof"
    assert report["parity"]["max_error"] == card.parity.max_error
    assert card.compute_units == "CPU_AND_NE"


def test_what_torch_says_of_a_few_pictures_is_in_the_package_and_in_its_onnx_fallback(
    made: CoreMLExport, trained: Run
) -> None:
    text = specification(made.path).description.metadata.userDefined[REFERENCES_KEY]
    stored = References.from_text(text, made.card, "package")
    assert len(stored.names) == 8
    assert stored.defective == (False,) * 4 + (True,) * 4
    with torch.inference_mode():
        expected = load_detector(trained)(torch.from_numpy(stored.pixels))
    np.testing.assert_allclose(stored.expected["score"], expected.score.numpy(), rtol=1e-5)  # there one at a time
    heatmap = expected.heatmap.numpy()[:, 8::16, 8::16]
    np.testing.assert_allclose(stored.expected["heatmap"], heatmap, rtol=1e-4, atol=1e-5)
    fallback = OnnxSession(made.fallback).references()
    assert fallback is not None
    assert fallback.to_text() == stored.to_text()
    checked = Detector(made.fallback).check_references()
    assert checked is not None
    assert checked.ok


def test_the_onnx_fallback_of_the_same_weights_lies_beside_it(made: CoreMLExport) -> None:
    assert made.fallback == made.path.with_suffix(".onnx")
    assert OnnxSession(made.fallback).card.weights_sha256 == made.card.weights_sha256


def test_no_path_of_this_machine_is_in_the_package_but_on_its_card(made: CoreMLExport) -> None:
    spec = specification(made.path)
    del spec.description.metadata.userDefined[ONNX_KEY]
    source = str(Path(fallback.__file__).parents[3]).encode()
    assert source not in spec.SerializeToString()
    assert sorted(p.name for p in made.path.iterdir()) == ["Data", "Manifest.json"]


def test_whoever_may_read_the_folder_may_read_the_package(made: CoreMLExport, tmp_path: Path) -> None:
    parts = [made.path, *made.path.rglob("*")]
    (tmp_path / "any").mkdir()
    assert {p.stat().st_mode for p in parts if p.is_dir()} == {(tmp_path / "any").stat().st_mode}
    assert {p.stat().st_mode for p in parts if p.is_file()} == {made.fallback.stat().st_mode}


def test_an_old_package_is_replaced_and_the_fallback_is_kept(run: Run, made: CoreMLExport) -> None:
    old = run.path / "export" / "pill.mlpackage"
    (old / "Data").mkdir(parents=True)
    (old / "left over").touch()
    fallback = Path(shutil.copy2(made.fallback, old.with_suffix(".onnx")))
    stamp = fallback.stat().st_mtime_ns
    again = to_coreml(run, precision="fp32")
    assert (again.path, again.fallback) == (old, fallback)
    assert read_package_card(old).parity == again.card.parity
    assert fallback.stat().st_mtime_ns == stamp
    assert not (old / "left over").exists()
    assert sorted(p.name for p in old.parent.iterdir()) == [
        "parity-coreml-fp32.json",
        "pill.mlpackage",
        "pill.onnx",
        "pill.verdict.mlpackage",
    ]


def test_what_is_no_fallback_of_these_weights_is_replaced(trained: Run, made: CoreMLExport, tmp_path: Path) -> None:
    (tmp_path / "pill.onnx").write_text("not a model")
    export = to_coreml(trained, tmp_path / "pill.mlpackage", precision="fp32")
    assert export.fallback == tmp_path / "pill.onnx"
    assert OnnxSession(export.fallback).card.weights_sha256 == made.card.weights_sha256


def test_the_proof_compares_the_onnx_fallback_too(made: CoreMLExport) -> None:
    fallback = made.proof.against_fallback
    assert fallback is not None
    assert fallback.flips == 0
    assert 0 < fallback.max_error["heatmap"] <= 5e-4  # fallback and torch: float32
    assert fallback.apart["heatmap"] > fallback.max_error["heatmap"]  # fallback and package: float16


def test_every_image_of_the_proof_comes_from_its_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from vtad_runtime.contract.fit import fit_image
    from vtad_runtime.contract.image import read_rgb

    done(export, "--run", run.path)  # the fallback is there already
    monkeypatch.setattr(material, "read_fitted", lambda path, spec: fit_image(read_rgb(path)[:, ::-1], spec))
    line = error(1, export, "--run", run.path, "--format", "coreml")
    assert "the runtime's pixels are not those of the training" in line
    assert sorted(p.name for p in (run.path / "export").iterdir()) == ["parity.json", "pill.onnx"]


def test_a_failed_proof_leaves_nothing_behind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise ParityError("the coreml artefact does not agree with torch")

    monkeypatch.setattr("vtad_export.coreml_format.exporter.prove_package", refuses)
    with pytest.raises(ParityError):
        to_coreml(run)
    assert list((run.path / "export").iterdir()) == []  # the fallback that was made for it is gone too
    assert "does not agree with torch" in error(1, export, "--run", run.path, "--format", "coreml")
    assert not (run.path / "export" / "pill.mlpackage").exists()


def test_a_failed_proof_leaves_the_old_package_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = run.path / "export" / "pill.mlpackage"
    old.mkdir(parents=True)
    (old / "Manifest.json").write_text("old")
    monkeypatch.setattr(fallback, "to_onnx", lambda *_, **__: (_ for _ in ()).throw(ParityError("it does not agree")))
    with pytest.raises(ParityError):
        to_coreml(run)
    assert [p.name for p in old.parent.iterdir()] == ["pill.mlpackage"]
    assert (old / "Manifest.json").read_text() == "old"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mlpackage"
    path.mkdir()
    (path / "old").touch()
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "a.mlpackage" and self.parent != tmp_path:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(WriteError, match="No space left"), replacing_folder(path) as beside:
        beside.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mlpackage"]
    assert (path / "old").exists()


def test_a_signal_between_two_renames_leaves_the_old_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pill.mlpackage"
    path.mkdir()
    (path / "old").touch()
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if target == path and self.parent.name.endswith(".part") and self.name == path.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as beside:
        beside.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["pill.mlpackage"]
    assert (path / "old").exists()


def test_the_certificate_says_how_it_was_proven_and_what_runs_elsewhere(run: Run) -> None:
    out = done(export, "--run", run.path, "--format", "coreml")
    assert "reference execution, not device proof" in out
    assert "verdict flips   0 of" in out
    assert len(out.splitlines()) <= 30  # one screen
    assert all(len(line) <= 120 for line in out.splitlines() if str(run.path) not in line)
    assert "largest activation" in out
    assert "likely eligible" in out
    assert f"vtad-run takes the ONNX fallback: {run.path / 'export' / 'pill.onnx'}" in out
    assert f"vtad-export --device-check {run.path / 'export' / 'pill.mlpackage'}" in out


def test_show_prints_the_card_of_every_artefact(made: CoreMLExport, trained: Run) -> None:
    assert Card.from_json(done(export, "--show", made.path, "--json")) == made.card
    assert Card.from_json(done(export, "--show", made.fallback, "--json")) == OnnxSession(made.fallback).card
    assert Card.from_json(done(export, "--show", trained.path, "--json")) == trained.card()


def test_show_refuses_what_is_no_artefact(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.mlpackage").mkdir()
    assert "expected an artefact" in error(2, export, "--show", tmp_path / "a.txt")
    assert "expected a Core ML package" in error(2, export, "--show", tmp_path / "a.mlpackage")


def test_list_says_what_was_proven_how() -> None:
    out = done(export, "--list")
    assert "onnx     .onnx       fp32" in out
    assert "coreml   .mlpackage  fp16 fp32" in out
    assert "reference execution, not device proof" in out


def test_float16_onnx_is_refused_before_anything_is_made(run: Run) -> None:
    assert "fp32" in error(2, export, "--run", run.path, "--precision", "fp16")
    assert not (run.path / "export").exists()


def test_without_coremltools_the_error_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    monkeypatch.setattr(material, "load_material", lambda *_, **__: pytest.fail("the pictures were read for nothing"))
    assert "pip install 'vtad[export]'" in error(2, export, "--run", run.path, "--format", "coreml")


def test_a_name_that_core_ml_does_not_take_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ends in \.mlpackage"):
        to_coreml(run, tmp_path / "pill.mlmodel")


def test_a_package_beside_it_gives_score_and_heatmap_alone_with_the_same_card(made: CoreMLExport) -> None:
    path = made.path.with_name("pill.verdict.mlpackage")
    assert made.verdict_path == path
    assert dataclasses.replace(read_package_card(path), digests=None) == dataclasses.replace(made.card, digests=None)
    assert str(integrity(path)) == str(integrity(made.path)) == "as exported"
    assert [o.name for o in specification(path).description.output] == ["score", "heatmap"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    whole, short = Executor.load(made.path)(pixels), Executor.load(path)(pixels)
    for name in ("score", "heatmap"):
        np.testing.assert_array_equal(short[name], whole[name])


def test_it_is_no_export_of_its_own(made: CoreMLExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pill" / "1" / "export"
    shutil.copytree(made.path.parent, folder)
    mac = fake_mac(monkeypatch, lambda *_: {}, tmp_path)
    assert newest_model(tmp_path) == folder / "pill.mlpackage"
    with pytest.raises(ModelError, match=r"gives score and heatmap alone, for apps; run .*/pill\.mlpackage"):
        CoreMLSession(folder / "pill.verdict.mlpackage")
    assert mac.loaded == []
    assert onnx_fallback(folder / "pill.verdict.mlpackage") == folder / "pill.onnx"


def test_from_ios_18_on_one_package_has_both_functions_and_they_share_their_weights(run: Run) -> None:
    folder = run.path / "export"
    (folder / "pill.verdict.mlpackage").mkdir(parents=True)  # of an earlier export
    out = done(export, "--run", run.path, "--format", "coreml", "--target", "macOS15")  # the same as iOS18
    assert "coreml fp16 for macOS15 and later, layout ane" in out
    assert json.loads((folder / "parity-coreml.json").read_text())["target"] == "macOS15"
    assert not (folder / "pill.verdict.mlpackage").exists()
    path = folder / "pill.mlpackage"
    assert specification(path).specificationVersion == 9
    described = specification(path).description
    assert [f.name for f in described.functions] == ["verdict", "explain"]
    assert described.defaultFunctionName == "explain"
    assert str(integrity(path)) == "as exported"
    whole, short = read_program(path), read_program(path, "verdict")
    assert (short.outputs, whole.outputs) == (("score", "heatmap"), Judgement._fields)
    assert "scaled_dot_product_attention" in {op.kind for op in whole.operations}
    weights = sum(v.nbytes for v in whole.constants.values() if isinstance(v, np.ndarray))
    assert weight_file(path).stat().st_size < 1.5 * weights
    with pytest.raises(PackageError, match="expected a function judge, got"):
        read_program(path, "judge")
    broken = dataclasses.replace(short, constants=dict(short.constants))
    name = next(n for n, v in broken.constants.items() if isinstance(v, np.ndarray) and v.size > 500)
    broken.constants[name] = np.nextafter(broken.constants[name], np.float16(9))
    with pytest.raises(ParityError, match="the function verdict is not a part of explain"):
        prove_verdict(broken, whole)
