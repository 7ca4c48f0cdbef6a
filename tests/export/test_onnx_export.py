"""ONNX export: one proven file that judges as torch does, or nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from PIL import Image
from safetensors.torch import load_file
from shared_exports import traces
from tiny_run import disk_fills_up, done, error

import vtad_export.onnx_format.exporter as exporter
from vtad.data.batches import batches
from vtad.fitting.checkpoint import save_tensors
from vtad.models.detector import Judgement
from vtad.models.trained import load_detector
from vtad.run_folder import Run, WriteError, sha256
from vtad.version import VERSION
from vtad_export import ParityError, to_onnx
from vtad_export.commands.export import export as command
from vtad_export.onnx_format.int8 import learned_products
from vtad_export.onnx_format.reading_back import batch_sizes
from vtad_export.proof.exporter import Export
from vtad_export.proof.material import Samples, decoded, image_files, load_material, samples
from vtad_export.proof.parity import accept, compare
from vtad_export.proof.tolerance import TOLERANCE
from vtad_runtime.contract.card import ONNX_KEY, REFERENCES_KEY
from vtad_runtime.contract.fit import fit_image
from vtad_runtime.contract.image import read_rgb
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.verdict.verdict import Verdict

Outputs = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def pixels(trained: Run) -> NDArray[np.uint8]:
    """Five images (5, 3, H, W), good and defective."""
    found = samples(trained)
    images = np.concatenate([found.good[:2], found.defective[:3]])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_the_proof_holds_on_held_out_good_images_and_on_defects(exported: Export) -> None:
    parity = exported.card.parity
    assert parity is not None
    assert (parity.format, parity.precision, parity.verdict_flips) == ("onnx", "fp32", 0)
    assert (parity.images_good, parity.images_defective) == (4, 16)
    assert parity.max_error.keys() == parity.tolerance.keys() == set(OnnxSession(exported.path).run(_black()).__dict__)
    assert all(0 <= error <= TOLERANCE[name] for name, error in parity.max_error.items())
    assert parity.max_error["reconstruction"] > 0  # it was measured


def _black() -> NDArray[np.uint8]:
    return np.zeros((1, 3, 32, 32), np.uint8)


def test_the_export_is_one_file_with_the_card_of_the_run_and_the_proof_inside(exported: Export, trained: Run) -> None:
    assert files(exported.path.parent) == ["parity.json", "pill.onnx"]
    inside = OnnxSession(exported.path).card
    assert inside == exported.card
    assert dataclasses.replace(inside, parity=None, digests=None) == trained.card()
    assert inside.parity is not None
    report = json.loads(exported.path.with_name("parity.json").read_text())
    assert report.pop("constants")["equal"] >= 70  # tensors of the checkpoint, bit for bit
    assert report == dataclasses.asdict(inside.parity)
    model = onnx.load(exported.path, load_external_data=False)
    assert not [t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert (model.producer_name, model.producer_version, model.opset_import[0].version) == ("vtad", VERSION, 20)


def test_the_file_says_in_words_and_units_what_goes_in_and_out_and_nothing_of_the_machine(
    exported: Export, trained: Run, pills: Path
) -> None:
    model = onnx.load(exported.path)
    (image,) = model.graph.input
    assert "RGB, 32 x 32 pixels" in image.doc_string
    assert [o.name for o in model.graph.output] == list(Judgement._fields)
    assert all("z-score" in o.doc_string or "intensity" in o.doc_string for o in model.graph.output)
    assert "pill" in model.doc_string
    assert {p.key for p in model.metadata_props} == {ONNX_KEY, REFERENCES_KEY}
    assert not [n.name for n in model.graph.node if n.metadata_props or n.doc_string]
    assert traces(exported.path.parent, trained.path, pills) == []


def test_nodes_are_named_by_the_module_that_they_compute(exported: Export) -> None:
    names = [node.name for node in onnx.load(exported.path).graph.node]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("model.encoder.0.attention")]


def test_an_export_of_a_run_whose_card_has_paths_has_none(run: Run) -> None:
    """As cards of older versions have."""
    card = run.card()
    config = {**card.identity.config, "data": "/home/ann/data", "out": "/home/ann/runs", "backbone_file": "/x/b.pth"}
    old = dataclasses.replace(card, identity=dataclasses.replace(card.identity, config=config))
    (run.path / "card.json").write_text(old.to_json())
    found = load_material(run).card.identity.config
    assert [found[key] for key in ("data", "out", "backbone_file")] == ["data", "runs", "b.pth"]


def test_a_file_alone_in_another_folder_judges_alike(
    exported: Export, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    alone = OnnxSession(shutil.copy(exported.path, tmp_path / "alone.onnx")).run(pixels)
    assert np.array_equal(alone.score, OnnxSession(exported.path).run(pixels).score)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_batch_gives_the_numbers_of_torch(
    exported: Export, trained: Run, pixels: NDArray[np.uint8], size: int
) -> None:
    session, detector = OnnxSession(exported.path), load_detector(trained)
    with torch.inference_mode():
        expected = detector(torch.from_numpy(pixels))
    parts = [session.run(pixels[i : i + size]) for i in range(0, 5, size)]
    for name, value in expected._asdict().items():
        got = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(got, value.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.usefixtures("ready_graph", "few_pictures")
def test_a_fixed_batch_takes_any_number_of_pictures_and_judges_them_as_they_are(
    trained: Run, exported: Export, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    made = to_onnx(trained, tmp_path / "four.onnx", batch=4)
    (image,) = onnx.load(made.path).graph.input
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [4, 3, 32, 32]
    assert "(4, 3, height, width)" in image.doc_string
    assert {o.shape[0] for o in made.card.outputs} == {4}
    free, four = OnnxSession(exported.path), OnnxSession(made.path)
    for size in (1, 4, 5):
        expected, got = free.run(pixels[:size]), four.run(pixels[:size])
        np.testing.assert_allclose(got.score, expected.score, rtol=1e-5, atol=1e-5)
        assert got.reconstruction.shape == expected.reconstruction.shape


def test_of_large_pictures_fewer_are_judged_at_a_time_for_all_of_a_batch_is_in_memory(exported: Export) -> None:
    def sizes(height: int, width: int) -> tuple[int, ...]:
        spec = dataclasses.replace(exported.card.input, height=height, width=width)
        return batch_sizes(dataclasses.replace(exported.card, input=spec))

    assert sizes(32, 32) == (1, 2, 7, 64)
    assert sizes(512, 768) == (1, 2, 7, 8)
    assert sizes(2048, 2048) == (1, 2)
    assert "batches of 1, 2, 7 and 64" in exported.certificate


def altered_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    """One number of the transformer's first weight is off by a tenth of its scale."""
    first = next(node for node in model.graph.node if node.name == learned_products(model)[0])
    weight = next(t for t in model.graph.initializer if t.name == first.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.flat[values.size // 2] += 0.1 * np.abs(values).max() + 0.1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return model


@pytest.mark.usefixtures("few_pictures")
def test_a_changed_weight_is_found_and_nothing_is_left(
    exported: Export, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "onnx_graph", lambda detector: altered_weight(onnx.load(exported.path)))
    line = error(1, command, "--run", run.path)
    assert "the onnx artefact does not agree with torch" in line
    assert line.endswith("nothing was kept")
    assert files(run.path / "export") == []


@pytest.mark.usefixtures("few_pictures")
def test_a_graph_that_the_runtime_refuses_is_a_failed_proof(
    exported: Export, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_score(detector: object) -> onnx.ModelProto:
        model = onnx.load(exported.path)
        del model.graph.output[0]
        return model

    monkeypatch.setattr(exporter, "onnx_graph", without_score)
    assert "the onnx artefact does not run" in error(1, command, "--run", run.path)
    assert files(run.path / "export") == []


@pytest.mark.usefixtures("ready_graph", "few_pictures")
@pytest.mark.parametrize("name", list(TOLERANCE))
@pytest.mark.parametrize("fault", ["off", "nan", "shape"])
def test_an_output_that_is_off_is_found_by_its_name_and_nothing_is_left(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    from vtad_export.onnx_format.graph import executor as honest

    def perturbed(path: Path) -> Callable[[NDArray[np.uint8]], Outputs]:
        execute = honest(path)

        def dishonest(batch: NDArray[np.uint8]) -> Outputs:
            outputs = dict(execute(batch))
            value = outputs[name].copy()
            if fault == "off":
                value.flat[-1] += 1e-3 + 2e-3 * abs(value.flat[-1])
            elif fault == "nan":
                value.flat[0] = np.nan
            else:
                value = value[..., None]
            return {**outputs, name: value}

        return dishonest

    monkeypatch.setattr(exporter, "executor", perturbed)
    line = error(1, command, "--run", run.path)
    assert f"{name} {'inf' if fault != 'off' else ''}" in line
    assert "nothing was kept" in line
    assert files(run.path / "export") == []


def proof_with(trained: Run, threshold: float, change: Callable[[Outputs], Outputs]) -> None:
    """Prove torch against itself with its outputs changed, at another threshold."""
    detector = load_detector(trained)
    found = samples(trained)

    def execute(batch: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            return change({k: v.numpy() for k, v in detector(torch.from_numpy(batch))._asdict().items()})

    calibration = dataclasses.replace(trained.card().calibration, threshold=threshold)
    sample = Samples(found.good, found.defective[:4])
    result = compare(detector, execute, sample, calibration, TOLERANCE)
    accept(result, sample, format="onnx", precision="fp32", tolerance=TOLERANCE)


def test_one_flipped_verdict_fails_however_small_the_error(trained: Run) -> None:
    good = samples(trained).good
    with torch.inference_mode():
        scores = torch.cat([load_detector(trained)(b).score for b in batches(good, torch.device("cpu"))])
    score = float(scores[0])
    hair = 1e-6

    def a_hair_more(outputs: Outputs) -> Outputs:
        return {**outputs, "score": outputs["score"] + np.float32(2 * hair)}

    proof_with(trained, score - hair, a_hair_more)
    with pytest.raises(
        ParityError, match=r"1 of 8 verdicts differ: good image 1 \(.* in torch, .*\); .*; nothing was kept"
    ):
        proof_with(trained, score + hair, a_hair_more)


def test_numbers_that_are_none_in_torch_are_no_proof_either(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, found = load_detector(trained), samples(trained)

    def execute(batch: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            return {k: np.nan_to_num(v.numpy()) for k, v in detector(torch.from_numpy(batch))._asdict().items()}

    detector.density_mean.fill_(float("nan"))
    result = compare(detector, execute, found, trained.card().calibration, TOLERANCE)
    with pytest.raises(ParityError, match="density_map inf"):
        accept(result, found, format="onnx", precision="fp32", tolerance=TOLERANCE)


@pytest.mark.usefixtures("ready_graph")
def test_the_command_prints_its_certificate(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = done(command, "--format", "onnx")
    assert text.startswith("run: runs/pill/0001, the newest\n")
    for word in (
        "runs/pill/0001/export/pill.onnx",
        "4 good images, 16 synthetic defects, ",
        "verdict flips   0 of 20",
    ):
        assert word in text
    assert files(run.path / "export") == ["parity.json", "pill.onnx"]


@pytest.mark.usefixtures("ready_graph", "few_pictures")
def test_out_names_a_folder_and_a_file_in_its_place_is_an_error(run: Run, tmp_path: Path) -> None:
    done(command, "--run", run.path, "--out", tmp_path / "line 3" / "models")
    assert files(tmp_path / "line 3") == ["parity.json", "pill.onnx"]
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        assert "expected a folder to write to" in error(2, command, "--run", run.path, "--out", out)


@pytest.mark.usefixtures("ready_graph", "few_pictures")
def test_a_path_may_be_text(run: Run, tmp_path: Path) -> None:
    made = to_onnx(run, str(tmp_path / "part.onnx"), data=run.config().data)
    assert made.path == tmp_path / "part.onnx"
    assert OnnxSession(made.path).card == made.card


@pytest.mark.usefixtures("ready_graph", "few_pictures")
@pytest.mark.parametrize("function", ["write_graph", "write_text"])
def test_a_full_disk_is_exit_code_4_and_the_earlier_export_stays(
    run: Run, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = to_onnx(run).path
    earlier = path.read_bytes(), path.with_name("parity.json").read_bytes()
    disk_fills_up(monkeypatch, exporter, function, room=200)
    assert "could not be written" in error(4, command, "--run", run.path)
    assert files(path.parent) == ["parity.json", "pill.onnx"]
    assert (path.read_bytes(), path.with_name("parity.json").read_bytes()) == earlier
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(WriteError):
        to_onnx(run)
    assert files(path.parent) == []


@pytest.mark.usefixtures("ready_graph", "few_pictures")
def test_a_full_folder_of_temporary_files_is_named_and_no_other_out_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save

    def full(image: Image.Image, file: Any, *given: Any, **options: Any) -> None:
        if not isinstance(file, Path):
            return save(image, file, *given, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(Image.Image, "save", full)
    line = error(4, command, "--run", run.path)
    assert re.search(
        r"pill\.onnx: could not be written: .*/tmp/vtad-proof-\w+/0000\.png: No space left on device; make", line
    )
    assert "--out" not in line
    assert files(run.path / "export") == []


@pytest.mark.usefixtures("ready_graph", "few_pictures")
def test_what_the_proof_needs_is_asked_for_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    line = error(2, command, "--run", run.path, "--data", tmp_path / "nowhere")
    assert "was trained from, got nothing there" in line
    assert not (run.path / "export").exists()


def test_a_damaged_artefact_is_refused_by_the_runtime(exported: Export, tmp_path: Path) -> None:
    whole = exported.path.read_bytes()
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="expected an ONNX model"):
        OnnxSession(torn)


def test_every_image_of_the_proof_is_a_file_whose_pixels_are_the_trainings(trained: Run) -> None:
    found, spec = samples(trained), trained.card().input
    with image_files(found) as paths:
        assert list(paths[: len(found.good)]) == list(found.files)
        assert len(paths) == len(found.images) == 4 + 16
        for path, pixels in zip(paths, [*found.good, *found.defective], strict=True):
            assert np.array_equal(decoded(path, spec, pixels), pixels)
    other = found.good[0].copy()
    other[0, 0, 0] ^= 1
    with pytest.raises(ParityError, match="the runtime's pixels are not those of the training"):
        decoded(found.files[0], spec, other)


@pytest.mark.usefixtures("ready_graph", "few_pictures")
@pytest.mark.parametrize("fault", ["pixels", "verdict"])
def test_a_runtime_that_sees_or_says_otherwise_fails_the_proof(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from vtad_export.proof import material
    from vtad_runtime.verdict import detector

    if fault == "pixels":
        monkeypatch.setattr(material, "read_fitted", lambda path, spec: fit_image(read_rgb(path)[:, ::-1], spec))
        expected = "the runtime's pixels are not those of the training"
    else:
        monkeypatch.setattr(detector, "decide", lambda *_, **__: Verdict.NG)
        expected = "vtad_runtime says NG of the file, torch otherwise"
    assert expected in error(1, command, "--run", run.path)
    assert files(run.path / "export") == []


def test_what_is_only_looked_at_may_be_off_as_far_as_rounding_moves_it(run: Run, tmp_path: Path) -> None:
    """In a run whose reconstruction leaves 0..1 by far, so that the last bit of a weight shows."""
    tensors = load_file(run.weights)
    tensors["model.pixels.weight"] *= 1e4
    save_tensors(run.weights, tensors)
    run.write_card(dataclasses.replace(run.card(), weights_sha256=sha256(run.weights)))
    made = to_onnx(run, tmp_path / "a.onnx")
    errors, limits = made.parity.max_error, made.parity.tolerance
    assert errors["reconstruction"] > TOLERANCE["reconstruction"]
    assert all(errors[name] <= limits[name] for name in errors)
    assert all(limits[name] == TOLERANCE[name] for name in ("score", "heatmap", "density_map"))
    with pytest.raises(ParityError, match=r"reconstruction .* \(at most 1e-05\)"):
        to_onnx(run, tmp_path / "b.onnx", tolerance={"reconstruction": 1e-5 * (1 - 1e-9)})  # what was asked for holds
