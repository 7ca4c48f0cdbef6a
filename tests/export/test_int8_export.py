"""Int8: which weights are rounded, what it may cost, and where it shows."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from shared_exports import traces
from tiny_run import done, error

import vtad_export.onnx_format.exporter as exporter
from vtad.data.layout import find_category
from vtad.report.card_words import card_text, error_lines
from vtad.run_folder import Run
from vtad_export import to_onnx
from vtad_export.commands.export import export as command
from vtad_export.onnx_format import int8
from vtad_export.onnx_format.exporter import OnnxExport
from vtad_export.onnx_format.int8 import learned_products
from vtad_export.proof.certificate import quality_lines
from vtad_export.proof.errors import ParityError, RoundingError
from vtad_export.proof.exporter import Export
from vtad_export.proof.material import Execute, Material, load_material
from vtad_export.proof.parity import Flip, accept, compare
from vtad_export.proof.quality import Measured, Quality, measured
from vtad_export.proof.tolerance import allowed_flips, limits
from vtad_runtime.contract.card import Card, Parity
from vtad_runtime.contract.disk.files import PART
from vtad_runtime.contract.references import largest_error
from vtad_runtime.contract.threshold.conformal import spread
from vtad_runtime.engine.model import OUTPUTS
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.engine.opening import newest_model

pytestmark = pytest.mark.usefixtures("ready")


@pytest.fixture(scope="module")
def material(trained: Run) -> Material:
    return load_material(trained)


@pytest.fixture(scope="module")
def made(trained: Run, material: Material, ready_graph_in: Any, tmp_path_factory: pytest.TempPathFactory) -> OnnxExport:
    """The int8 export of the tiny run, in a folder of its own."""
    path = tmp_path_factory.mktemp("int8") / "pill-int8.onnx"
    with pytest.MonkeyPatch.context() as patch:
        ready_graph_in(patch)
        return to_onnx(trained, path, precision="int8", max_flips=41, material=material)


def int8_kinds(path: Path) -> list[str]:
    return [n.op_type for n in onnx.load(path).graph.node if "Integer" in n.op_type]


def test_every_product_by_a_learned_matrix_is_int8_and_nothing_else(made: OnnxExport, exported: Export) -> None:
    before = onnx.load(exported.path)
    learned = learned_products(before)
    assert learned
    assert int8_kinds(made.path) == ["MatMulInteger"] * len(learned)
    assert not int8_kinds(exported.path)

    def others(path: Path) -> list[str]:
        return sorted(n.name for n in onnx.load(path).graph.node if n.op_type in ("MatMul", "Conv"))

    assert others(made.path) == [name for name in others(exported.path) if name not in learned]
    convolutions = {n.input[1] for n in before.graph.node if n.op_type == "Conv"}
    kept = {t.name for t in onnx.load(made.path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert convolutions & {t.name for t in before.graph.initializer} <= kept


def test_what_a_process_that_is_killed_leaves_of_the_way_is_swept_later(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        left.extend(path.name for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    left: list[str] = []
    monkeypatch.setattr(int8, "quantize_dynamic", killed)
    with pytest.raises(KeyboardInterrupt):
        int8.int8_matmuls(onnx.load(exported.path), tmp_path / "beside")
    assert len(left) == 1
    assert PART.fullmatch(left[0])
    assert list(tmp_path.iterdir()) == []


def test_it_is_vtads_file_although_quantization_signs_it_as_its_own(made: OnnxExport, trained: Run) -> None:
    assert onnx.load(made.path).producer_name == "vtad"
    assert traces(made.path.parent, trained.path) == []


def test_it_drifts_within_what_is_stated(made: OnnxExport, material: Material) -> None:
    parity = made.card.parity
    assert parity is not None
    stated = limits("int8", material.detector, material.card.calibration, 1)
    assert (parity.precision, parity.tolerance) == ("int8", stated)
    assert all(0 < parity.max_error[name] <= limit for name, limit in stated.items())


def weighted(material: Material, ssim: float, density: float) -> Material:
    """The same with other weights of the maps in the heatmap."""
    detector = copy.deepcopy(material.detector)
    detector.ssim_weight.fill_(ssim)
    detector.density_weight.fill_(density)
    return dataclasses.replace(material, detector=detector)


def off(execute: Execute, name: str, by: float) -> Execute:
    """An artefact whose output `name` is off by so much."""
    return lambda pixels: {**(found := execute(pixels)), name: found[name] + np.float32(by)}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(("ssim", "density"), [(0.0, 1.0), (0.25, 0.5), (1.0, 0.0)])
def test_a_map_is_held_to_what_it_moves_the_heatmap_by_and_a_map_without_weight_is_only_reported(
    material: Material, precision: str, ssim: float, density: float
) -> None:
    changed = weighted(material, ssim, density)
    calibration = material.card.calibration
    allowed = limits(precision, changed.detector, calibration, 8)
    few = changed.sample.first(2)
    for name, weight in (("ssim_map", ssim), ("density_map", density)):
        if weight:
            assert allowed[name] * weight == pytest.approx(allowed["heatmap"])
        for by in (0.9, 1.1):
            error = by * allowed["heatmap"] / (weight or 0.1)
            found = compare(changed.detector, off(in_torch(changed), name, error), few, calibration, allowed)
            if weight and by > 1:
                with pytest.raises(
                    RoundingError, match=rf"{name} .*--precision fp32, or allow it: --tolerance {name}="
                ):
                    accept(found, few, format="onnx", precision=precision, tolerance=allowed)
            else:
                parity = accept(found, few, format="onnx", precision=precision, tolerance=allowed)
                (line,) = (x for x in error_lines(parity) if x.startswith(name))
                assert f"largest error {found.max_error[name]:.1e}" in line
                assert ("no limit" in line) == (weight == 0)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_a_map_without_weight_is_of_numbers_all_the_same(material: Material, fault: float) -> None:
    plain, few = weighted(material, 0, 1), material.sample.first(1)
    allowed = limits("int8", plain.detector, material.card.calibration, 8)
    broken = off(in_torch(plain), "ssim_map", fault)
    found = compare(plain.detector, broken, few, material.card.calibration, allowed)
    with pytest.raises(ParityError, match="ssim_map inf; install"):
        accept(found, few, format="onnx", precision="int8", tolerance=allowed)


@pytest.mark.parametrize("score", [0.5, 4.0, 40.0])
def test_at_the_threshold_an_error_of_the_score_counts_in_full_and_relative_to_it_only_beyond(
    material: Material, score: float
) -> None:
    calibration = dataclasses.replace(material.card.calibration, scores=(1.0, 2.0, 3.0, 4.0), threshold=4.0)
    expected, got = np.array([score], np.float32), np.array([score + 0.1], np.float32)
    spreads = 0.1 / spread(calibration.scores)
    found = largest_error("score", expected, got, calibration)
    assert found == pytest.approx(spreads if score <= 4 else spreads / 10, rel=1e-4)


def test_a_pictures_numbers_do_not_depend_on_its_neighbours(made: OnnxExport, material: Material) -> None:
    """Activations are rounded by the range of all that the graph is given; so it takes one picture, and the runtime knows."""
    images = np.concatenate([material.sample.good[:2], material.sample.defective[:3]])
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    session = OnnxSession(made.path)
    together = session.run(pixels)
    for i in range(len(pixels)):
        alone = session.run(pixels[i : i + 1])
        for name in OUTPUTS:
            np.testing.assert_array_equal(getattr(together, name)[i], getattr(alone, name)[0], err_msg=name)
    assert {o.shape[0] for o in session.card.outputs} == {1}
    for value in (*(model := onnx.load(made.path)).graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == 1, value.name


def test_the_test_images_tell_auroc_and_aupro_before_and_after(made: OnnxExport, material: Material) -> None:
    assert made.quality is not None
    assert made.quality.images == len(material.sample.tests) == 9
    report = json.loads(made.path.with_name("parity-int8.json").read_text())
    for side, values in (("before", made.quality.before), ("after", made.quality.after)):
        assert values.image_auroc is not None
        assert values.aupro is not None
        assert report["quality"][side] == dataclasses.asdict(values)


def test_test_images_count_among_those_whose_verdicts_may_flip(made: OnnxExport) -> None:
    parity = made.parity
    assert parity.images_test == 9
    images = parity.images_good + parity.images_defective + 9
    assert f"verdict flips   {parity.verdict_flips} of {images}" in error_lines(parity)
    assert "and 9 test images" in card_text(made.path, made.card)
    raw = json.loads(made.card.to_json())
    del raw["parity"]["images_test"]  # as earlier versions wrote it
    old = Card.from_json(json.dumps(raw)).parity
    assert old is not None
    assert old == dataclasses.replace(parity, images_test=0)
    assert "test images" not in "".join(error_lines(old))


def test_a_program_that_sees_nothing_is_measured_as_such(material: Material) -> None:
    def blind(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        height, width = pixels.shape[2:]
        return {"score": np.zeros(1, np.float32), "heatmap": np.zeros((1, height, width), np.float32)}

    found = measured(material.sample.tests, material.card, material.detector, blind, 9)
    assert found.after.image_auroc == 0.5
    assert found.before.aupro != found.after.aupro
    high = {f.image for f in found.flipped}
    assert all(f.expected > material.card.calibration.threshold and f.got == 0 for f in found.flipped)
    assert high <= {f"{t.kind}/{t.path.name}" for t in material.sample.tests}


def in_torch(material: Material) -> Execute:
    """The detector itself, as if it were an artefact."""

    def execute(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {k: v.numpy() for k, v in material.detector(torch.from_numpy(pixels))._asdict().items()}

    return execute


@pytest.mark.parametrize("output", ["score", "heatmap"])
def test_what_is_no_number_on_a_test_image_is_refused_even_of_a_good_one(material: Material, output: str) -> None:
    good = [t for t in material.sample.tests if t.kind == "good"][:1]

    def broken(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        found = in_torch(material)(pixels)
        return {**found, output: np.full_like(found[output], np.nan)}

    with pytest.raises(RoundingError, match=r"^good/.*: expected a score .* export with --precision fp32"):
        measured(good, material.card, material.detector, broken, 1)


def test_at_most_so_many_test_images_are_judged_of_every_kind(material: Material) -> None:
    found = measured(material.sample.tests, material.card, material.detector, in_torch(material), 4)
    assert (found.images, found.of, found.flipped) == (4, 9, ())
    assert found.before == found.after


def test_a_part_of_the_test_images_is_said_to_be_one() -> None:
    half = Measured(0.5, None)
    assert "4 of 9 test images" in quality_lines(Quality(4, 9, half, half, ()), "torch", "here")[0]
    assert (
        "9 test images: image AUROC 0.5000 by torch" in quality_lines(Quality(9, 9, half, half, ()), "torch", "here")[0]
    )


@pytest.mark.usefixtures("few_pictures")
def test_a_flip_on_test_images_counts_for_core_ml_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    from vtad_export.coreml_format import exporter as coreml

    def flipping(*arguments: Any) -> Quality:
        return dataclasses.replace(measured(*arguments), flipped=(Flip("dent/3.png", 2.5, 2.4),))

    monkeypatch.setattr("vtad_export.coreml_format.conversion.SMALLEST", 200)
    monkeypatch.setattr(coreml, "measured", flipping)
    given = ("--run", run.path, "--format", "coreml", "--precision", "int8", "--tolerance", "score=9", "--max-flips")
    assert "dent/3.png (2.5 in torch, 2.4)" in error(1, command, *given, 0)
    assert "dent/3.png: score 2.5 in torch, 2.4 here" in done(command, *given, 9)
    report = json.loads((run.path / "export" / "parity-coreml-int8.json").read_text())
    assert {"image": "dent/3.png", "expected": 2.5, "got": 2.4, "near": False} in report["flipped"]
    assert report["quality"]["images"] == 9


@pytest.mark.parametrize(
    ("precision", "chosen", "images", "allowed"),
    [("int8", None, 64, 1), ("int8", None, 204, 3), ("int8", 0, 204, 0), ("fp32", None, 64, 0), ("fp16", None, 64, 0)],
)
def test_one_verdict_in_a_hundred_may_flip_in_int8_and_none_elsewhere(
    precision: str, chosen: int | None, images: int, allowed: int
) -> None:
    assert allowed_flips(precision, chosen, images) == allowed


def test_a_model_without_weights_to_round_is_not_called_int8(
    run: Run, monkeypatch: pytest.MonkeyPatch, trained: Run, tmp_path: Path
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    from vtad_export import to_coreml

    monkeypatch.setattr("vtad_export.coreml_format.conversion.SMALLEST", 10**6)
    line = error(2, command, "--run", run.path, "--format", "coreml", "--precision", "int8")
    assert "expected weights of the transformer of 1000000 numbers or more, got none: export in fp16" in line
    assert list((run.path / "export").iterdir()) == []
    monkeypatch.setattr("vtad_export.coreml_format.exporter.compressed", lambda model, *_: model)
    with pytest.raises(ParityError, match="expected weights stored as int8, got none"):
        to_coreml(trained, tmp_path / "pill.mlpackage", precision="int8")
    assert list(tmp_path.glob("*.mlpackage")) == []


def shifted(monkeypatch: pytest.MonkeyPatch, material: Material) -> None:
    """An executor whose scores all lie just below the threshold, within a tolerance of anything."""
    from vtad_export.onnx_format.graph import executor as honest

    threshold = material.card.calibration.threshold

    def low(path: Path) -> Any:
        execute = honest(path)
        return lambda pixels: {**execute(pixels), "score": np.full(len(pixels), threshold - 1e-3, np.float32)}

    monkeypatch.setattr(exporter, "executor", low)


def test_flips_beyond_the_limit_refuse_the_export_and_name_the_images(
    run: Run, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted(monkeypatch, material)
    line = error(
        1, command, "--run", run.path, "--precision", "int8", "--max-flips", 0, "--tolerance", "score=1e6"
    )  # fmt: skip
    assert "verdicts differ" in line
    assert " in torch, " in line
    assert list((run.path / "export").iterdir()) == []


@pytest.mark.usefixtures("few_pictures")
def test_flips_within_the_limit_are_listed_with_both_scores(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:

    def one_flip(*arguments: Any) -> Any:
        found = compare(*arguments)
        return dataclasses.replace(found, flipped=(*found.flipped, Flip("part 7.png", 2.5, 2.4)))

    monkeypatch.setattr(exporter, "compare", one_flip)
    out = done(command, "--run", run.path, "--precision", "int8", "--max-flips", 45)
    assert "part 7.png: score 2.5 in torch, 2.4 here" in out
    report = json.loads((run.path / "export" / "parity-int8.json").read_text())
    assert {"image": "part 7.png", "expected": 2.5, "got": 2.4, "near": False} in report["flipped"]


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("layout", ["ane", "standard"])
def test_core_ml_stores_the_transformers_weights_as_int8_and_the_rest_as_they_were(
    run: Run, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    from vtad_export.coreml_format.mlpackage import read_program

    monkeypatch.setattr("vtad_export.coreml_format.conversion.SMALLEST", 200)  # the tiny transformer's are small
    out = done(
        command, "--run", run.path, "--format", "coreml", "--precision", "int8", "--layout", layout, "--max-flips", 40
    )  # fmt: skip
    package = run.path / "export" / "pill-int8.mlpackage"
    program = read_program(package)
    stored = "".join(program.steps)
    for part in ("embed", "encoder_0_attention", "encoder_0_mlp", "decoder_0_mlp", "pixels"):
        assert f"{part}_" in stored, part
    assert not [name for name in program.steps if "backbone" in name or name.startswith("b_")]
    assert "9 test images: image AUROC" in out
    assert find_category(Path(run.config().data), "pill").test
    assert f"vtad-run takes the ONNX fallback: {run.path / 'export' / 'pill.onnx'}" in out
    assert newest_model(run.path.parents[1]) == run.path / "export" / "pill.onnx"
    assert not package.with_suffix(".onnx").exists()  # none is named int8 that is not


def parity_of(path: Path) -> Parity:
    parity = OnnxSession(path).card.parity
    assert parity is not None
    return parity


@pytest.mark.usefixtures("few_pictures")
def test_no_onnx_beside_an_int8_package_is_named_int8_unless_it_is(
    run: Run, exported: Export, monkeypatch: pytest.MonkeyPatch, made: OnnxExport
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    monkeypatch.setattr("vtad_export.coreml_format.conversion.SMALLEST", 200)
    given = ("--run", run.path, "--format", "coreml", "--precision", "int8", "--max-flips", 40)
    folder = run.path / "export"
    folder.mkdir()
    shutil.copy2(exported.path, folder / "pill-int8.onnx")  # as vtad wrote it once
    done(command, *given)
    assert [p.name for p in folder.glob("*.onnx")] == ["pill.onnx"]
    assert parity_of(folder / "pill.onnx").precision == "fp32"
    shutil.copy2(made.path, folder / "pill-int8.onnx")
    assert f"vtad-run takes the ONNX fallback: {folder / 'pill-int8.onnx'}" in done(command, *given)
    assert parity_of(folder / "pill-int8.onnx").precision == "int8"
    assert newest_model(run.path.parents[1]) == folder / "pill-int8.onnx"


@pytest.mark.usefixtures("few_pictures")
def test_the_python_export_of_an_int8_package_has_a_fallback_of_a_true_name_too(
    run: Run, exported: Export, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    from vtad_export.coreml_format.exporter import to_coreml
    from vtad_export.onnx_format.fallback import fallback_for
    from vtad_runtime.engine.coreml_engine import onnx_fallback

    monkeypatch.setattr("vtad_export.coreml_format.conversion.SMALLEST", 200)
    folder = run.path / "export"
    folder.mkdir()
    shutil.copy2(exported.path, folder / "pill.onnx")
    made = to_coreml(run, folder / "half-int8.mlpackage", precision="int8", max_flips=40)
    assert made.fallback == onnx_fallback(made.path) == folder / "half.onnx"
    assert parity_of(made.fallback).precision == "fp32"
    for name, fallback in (("pill-int8", "pill"), ("other-int8", "other"), ("half", "half")):
        package = folder / f"{name}.mlpackage"
        with fallback_for(package, material) as found:
            assert found.parity.precision == "fp32"
        assert found.path == onnx_fallback(package) == folder / f"{fallback}.onnx"
        assert found.path.is_file()


@pytest.mark.parametrize("changed", ["calibration", "input"])
def test_a_model_of_another_threshold_or_other_pixels_is_no_fallback(
    exported: Export, tmp_path: Path, changed: str
) -> None:
    from vtad_export.onnx_format.fallback import open_fallback
    from vtad_runtime.engine.integrity import write_sealed

    card, model = exported.card, tmp_path / "pill.onnx"
    shutil.copy2(exported.path, model)
    assert open_fallback(model, card) is not None
    other: dict[str, Any] = {
        "calibration": dataclasses.replace(card.calibration, threshold=card.calibration.threshold + 0.1),
        "input": dataclasses.replace(card.input, roi=(0, 0, 32, 32)),
    }
    write_sealed(model, dataclasses.replace(card, **{changed: other[changed]}))
    assert open_fallback(model, card) is None


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(
    ("precision", "target", "values"), [("palettized6", "iOS16", 64), ("palettized4", "iOS18", 16)]
)
def test_core_ml_takes_each_weight_of_the_transformer_out_of_a_few_values_and_the_backbones_too_when_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, precision: str, target: str, values: int
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    from vtad_export.coreml_format.conversion import is_backbones
    from vtad_export.coreml_format.mlpackage import read_program
    from vtad_export.coreml_format.same_program import difference

    monkeypatch.setattr("vtad_export.coreml_format.conversion.SMALLEST", 200)  # the tiny transformer's are small
    given = ("--format", "coreml", "--precision", precision, "--target", target, "--max-flips", 40)
    out = done(command, "--run", run.path, *given, "--tolerance", "score=9", "--tolerance", "heatmap=9")
    assert "9 test images: image AUROC" in out
    assert f"vtad-run takes the ONNX fallback: {run.path / 'export' / 'pill.onnx'}" in out
    program = read_program(run.path / "export" / f"pill-{precision}.mlpackage")
    assert len(program.palettes) >= 5
    for name, palette in program.palettes.items():
        held = program.constants[name]
        assert isinstance(held, np.ndarray)
        assert len(palette) <= values
        assert np.isin(held, palette).all()
    name = next(iter(program.palettes))
    held = program.constants[name]
    assert isinstance(held, np.ndarray)
    before = dataclasses.replace(program, palettes={}, constants=program.constants | {name: held.astype(np.float32)})
    assert difference(program, before) is None
    other = held.copy()
    other.flat[0] = next(v for v in program.palettes[name] if v != held.flat[0])
    assert difference(dataclasses.replace(program, constants=program.constants | {name: other}), before) is not None
    assert is_backbones("p_model_features_backbone_blocks_1_project_conv_weight_to_fp16")
    assert not is_backbones("p_model_channels_embed_weight_to_fp16")
