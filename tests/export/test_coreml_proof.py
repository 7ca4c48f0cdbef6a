"""The proof of a Core ML package: it accepts a right one, and refuses every wrong one."""

from __future__ import annotations

import dataclasses
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

from coreml_surgery import DAMAGES, Damage, argument, constant, operations, save
from shared_conversions import Conversions, Traced
from tiny_run import tiny

from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector, Judgement
from vtad.models.score_fusion import ScorerMaps
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad.training import train
from vtad_export.coreml_format.choices import Layout
from vtad_export.coreml_format.conversion import convert, write_package
from vtad_export.coreml_format.graph import EngineDetector, prepared, trace
from vtad_export.coreml_format.lint.generations import PRODUCT_LIMIT
from vtad_export.coreml_format.lint.rules import LOST
from vtad_export.coreml_format.mil import FLOAT16_LIMIT, REFERENCE, Executor, rounded
from vtad_export.coreml_format.mlpackage import (
    Constant,
    Operation,
    PackageError,
    Program,
    Value,
    read_program,
    specification,
    weight_file,
)
from vtad_export.coreml_format.reference_proof import ReferenceProof, prove_package, prove_verdict
from vtad_export.coreml_format.same_program import difference
from vtad_export.proof.errors import ParityError, RoundingError
from vtad_export.proof.material import Samples, samples
from vtad_export.proof.parity import Flip, accept, compare
from vtad_export.proof.quality import Measured, Quality
from vtad_export.proof.tolerance import TOLERANCE, Limits, limits
from vtad_runtime.contract.card import Card
from vtad_runtime.contract.threshold.conformal import spread

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Packages:
    """A tiny detector as both packages, with what they are proven on."""

    detector: Detector
    card: Card
    sample: Samples
    arranged: EngineDetector
    full: Path
    half: Path

    def prove(self, path: Path, full: Path | None = None) -> ReferenceProof:
        return prove_package(path, full or path, self.detector, self.sample, self.card.calibration, self.arranged)

    def execute(self, path: Path) -> None:
        """The proof of a float32 package without its comparison of constants."""
        found = compare(self.detector, Executor.load(path), self.sample, self.card.calibration, TOLERANCE)
        accept(found, self.sample, format="coreml", precision="fp32", tolerance=TOLERANCE)


def make_packages(run: Run, layout: Layout, conversions: Conversions, folder: Path) -> Packages:
    card, detector = run.card(), load_detector(run)
    found = samples(run)
    arranged = prepared(detector, layout)
    full, half = folder / "full.mlpackage", folder / "half.mlpackage"
    write_package(conversions.convert(Traced(arranged), "fp32", "iOS16"), card, full)
    write_package(conversions.convert(Traced(arranged), "fp16", "iOS16"), card, half)
    return Packages(detector, card, Samples(found.good, found.defective[:8]), arranged, full, half)


@pytest.fixture(scope="module")
def packages(trained: Run, conversions: Conversions, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """In the trained layout, whose tensors are the checkpoint's own."""
    return make_packages(trained, "standard", conversions, tmp_path_factory.mktemp("standard"))


@pytest.fixture(scope="module")
def laid_out(trained: Run, conversions: Conversions, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """In the layout for the Neural Engine, the default."""
    return make_packages(trained, "ane", conversions, tmp_path_factory.mktemp("ane"))


def copy(package: Path, folder: Path) -> Path:
    return Path(shutil.copytree(package, folder / package.name))


def test_a_float32_package_agrees_with_torch_to_its_last_digits(packages: Packages) -> None:
    proof = packages.prove(packages.full)
    assert proof.parity.tolerance == TOLERANCE
    assert all(proof.parity.max_error[name] <= TOLERANCE[name] for name in Judgement._fields)
    assert (proof.parity.format, proof.parity.precision, proof.parity.verdict_flips) == ("coreml", "fp32", 0)
    assert proof.method == REFERENCE == "reference execution, not device proof"


def test_a_float16_package_drifts_within_its_budget_and_far_from_overflow(packages: Packages) -> None:
    proof = packages.prove(packages.half, packages.full)
    allowed = limits("fp16", packages.detector, packages.card.calibration, 1)
    assert all(0 < proof.parity.max_error[name] <= limit for name, limit in allowed.items())
    assert proof.parity.precision == "fp16"
    assert proof.parity.verdict_flips == len(proof.flipped) == 0
    assert 0 < proof.largest_float16 < FLOAT16_LIMIT


def test_the_constants_of_the_package_are_the_checkpoints_bit_for_bit(packages: Packages) -> None:
    proof = packages.prove(packages.full)
    assert proof.constants_equal >= 40
    learned = {name for name, p in packages.detector.named_parameters() if p.requires_grad}
    assert {n for n in proof.constants_derived if n in learned} <= {
        "model.context_density.offset",
        "model.context_density.log_spread",
        "model.context_density.log_sigma",
    }


def test_a_tensor_that_the_layout_changed_is_not_said_to_equal_the_checkpoints(laid_out: Packages) -> None:
    proof = laid_out.prove(laid_out.full)
    assert (
        "model.encoder.0.attention.qkv.weight" in proof.constants_derived
    )  # three projections, and the norm before them
    tensors = dict(laid_out.detector.named_parameters()) | dict(laid_out.detector.named_buffers())
    numbers = [name for name, t in tensors.items() if t.is_floating_point()]
    assert proof.constants_equal == len(numbers) - len(proof.constants_derived)


@pytest.mark.parametrize("layout", ["packages", "laid_out"])
def test_no_tensor_of_a_pruned_scorer_is_said_to_be_folded(layout: str, request: pytest.FixtureRequest) -> None:
    made: Packages = request.getfixturevalue(layout)
    assert isinstance(made.detector.model, Autoencoder)
    derived = made.prove(made.full).constants_derived
    pruned = set(ScorerMaps._fields) - set(made.detector.model.active)
    assert pruned  # or nothing was shown
    assert not [name for name in derived for scorer in pruned if f".{scorer}." in name]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_damaged_package_is_refused(packages: Packages, tmp_path: Path, damage: Damage, precision: str) -> None:
    wrong = copy(packages.full if precision == "fp32" else packages.half, tmp_path)
    damage(wrong)
    with pytest.raises((ParityError, PackageError)):
        packages.prove(wrong, None if precision == "fp32" else packages.full)


def test_the_default_layout_is_proven(laid_out: Packages) -> None:
    assert laid_out.prove(laid_out.full).parity.verdict_flips == 0
    proof = laid_out.prove(laid_out.half, laid_out.full)
    assert proof.parity.verdict_flips == len(proof.flipped) == 0
    assert proof.constants_equal >= 40


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_damaged_package_of_the_default_layout_is_refused(laid_out: Packages, tmp_path: Path, damage: Damage) -> None:
    (tmp_path / "executed").mkdir()
    executed = copy(laid_out.full, tmp_path / "executed")
    damage(executed)
    with pytest.raises((ParityError, PackageError)):  # execution alone, without the comparison of constants
        laid_out.execute(executed)
    wrong = copy(laid_out.half, tmp_path)
    damage(wrong)
    with pytest.raises((ParityError, PackageError)):
        laid_out.prove(wrong, laid_out.full)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_execution_alone_sees_the_damage(packages: Packages, tmp_path: Path, damage: Damage) -> None:
    wrong = copy(packages.full, tmp_path)
    damage(wrong)
    with pytest.raises((ParityError, PackageError)):
        packages.execute(wrong)


def test_a_package_of_a_detector_with_one_register_fewer_is_refused(packages: Packages) -> None:
    detector = deepcopy(packages.detector)
    registers: Any = detector.model.registers
    one_more = torch.randn(registers.tokens[:, :1].shape, generator=torch.Generator().manual_seed(0))
    registers.tokens = torch.nn.Parameter(torch.cat([registers.tokens, one_more], dim=1))
    more = dataclasses.replace(packages, detector=detector, arranged=prepared(detector))
    with pytest.raises(ParityError, match=r"registers\.tokens"):
        more.prove(more.full)
    found = compare(detector, Executor.load(more.full), more.sample, more.card.calibration, TOLERANCE)
    assert any(found.max_error[name] > TOLERANCE[name] for name in TOLERANCE)


def test_every_verdict_that_flips_is_counted_and_named_and_more_than_allowed_are_refused(packages: Packages) -> None:
    scores = packages.card.calibration.scores
    with torch.inference_mode():
        pixels = torch.from_numpy(np.ascontiguousarray(packages.sample.defective[:1].transpose(0, 3, 1, 2)))
        score = float(packages.detector(pixels).score)
    allowed = limits("fp16", packages.detector, packages.card.calibration, 1)
    hair = 0.1 * allowed["score"] * spread(scores)
    calibration = dataclasses.replace(packages.card.calibration, threshold=score - hair)

    def lower(given: Any) -> Any:
        with torch.inference_mode():
            out = {k: v.numpy() for k, v in packages.detector(torch.from_numpy(given))._asdict().items()}
        return {**out, "score": out["score"] - np.float32(2 * hair)}

    found = compare(packages.detector, lower, packages.sample, calibration, allowed)
    assert found.flipped
    assert "synthetic defect 1 (" in str(found.flipped[0])
    entry: Any = {"format": "coreml", "precision": "fp16"}
    accepted = accept(found, packages.sample, **entry, tolerance=Limits(allowed, len(found.flipped)))
    assert accepted.verdict_flips == len(found.flipped)
    with pytest.raises(ParityError, match="verdicts differ"):
        accept(found, packages.sample, **entry, tolerance=Limits(allowed, len(found.flipped) - 1))


def test_a_float16_package_that_only_flips_a_verdict_says_so_and_the_command_can_make_float32(
    packages: Packages,
) -> None:
    same = Measured(None, None)
    quality = Quality(images=1, of=1, before=same, after=same, flipped=(Flip("dent/3.png", 2.5, 2.4),))
    given = packages.detector, packages.sample.first(1), packages.card.calibration, packages.arranged
    with pytest.raises(RoundingError, match=r"dent/3\.png \(2\.5 in torch, 2\.4\).* export with --precision fp32"):
        prove_package(packages.half, packages.full, *given, judge=lambda _: quality)


def test_values_that_overflow_float16_are_refused(packages: Packages, tmp_path: Path) -> None:
    wrong = copy(packages.half, tmp_path)
    spec = specification(wrong)
    op = next(op for op in operations(spec) if op.type == "layer_norm")
    name = op.inputs["gamma"].arguments[0].name
    offset = constant(spec, name).blobFileValue.offset
    blob = bytearray(weight_file(wrong).read_bytes())
    start = int.from_bytes(blob[offset + 16 : offset + 24], "little")
    blob[start : start + 2] = np.float16(60000).tobytes()
    weight_file(wrong).write_bytes(blob)
    executor = Executor.load(wrong)
    executor(packages.sample.good[:1].transpose(0, 3, 1, 2))
    assert executor.peak.value > FLOAT16_LIMIT
    with pytest.raises(ParityError):
        packages.prove(wrong, packages.full)


def test_what_overflows_on_test_images_alone_is_refused_and_float32_is_named(packages: Packages) -> None:
    same = Measured(None, None)

    def judge(execute: Any) -> Quality:
        execute.peak.see("late", np.array([np.inf]), FLOAT16_LIMIT)
        return Quality(images=1, of=1, before=same, after=same, flipped=())

    given = packages.detector, packages.sample.first(1), packages.card.calibration, packages.arranged
    with pytest.raises(RoundingError, match=r"float16 overflows at late: inf of 65504; export with --precision fp32"):
        prove_package(packages.half, packages.full, *given, judge=judge)


@pytest.mark.parametrize(("kind", "limit"), [("matmul", PRODUCT_LIMIT), ("mul", FLOAT16_LIMIT)])
def test_sums_of_products_may_be_half_as_large_as_other_float16_numbers(kind: str, limit: float) -> None:
    x, y = (Value(name, np.float16, (1, 1, 1, 1)) for name in "xy")
    two: dict[str, Constant] = {"w": np.full((1, 1, 1, 1), 2, np.float16)}
    program = Program((x,), two, (Operation(kind, {"x": ("x",), "y": ("w",)}, (y,)),), ("y",), "CoreML6")
    executor = Executor(program)
    executor.run(np.full((1, 1, 1, 1), 16384, np.float32))
    assert (executor.peak.value, executor.peak.limit) == (32768, limit)


def test_a_verdict_that_is_rounded_otherwise_than_its_explain_is_refused() -> None:
    image = (Value("image", np.float32, (1, 3, 4, 4)),)
    held: dict[str, Constant] = {"k": np.array(2, np.float32), "fp16": "fp16", "fp32": "fp32"}

    def value(name: str, dtype: Any, *shape: int) -> Value:
        return Value(name, dtype, shape)

    mul = Operation("mul", {"x": ("image",), "y": ("k",)}, (value("heatmap", np.float32, 1, 3, 4, 4),))
    mean = Operation("reduce_mean", {"x": ("heatmap",)}, (value("score", np.float32, 1),))
    explain = Program(image, held, (mul, mean), ("score", "heatmap"), "CoreML6")
    assert prove_verdict(explain, explain).operations == 2
    half = Operation("cast", {"x": ("heatmap",), "dtype": ("fp16",)}, (value("half", np.float16, 1, 3, 4, 4),))
    back = Operation("cast", {"x": ("half",), "dtype": ("fp32",)}, (value("whole", np.float32, 1, 3, 4, 4),))
    rounded_mean = dataclasses.replace(mean, arguments={"x": ("whole",)})
    wide = dataclasses.replace(mean, outputs=(value("score", np.float16, 1),))
    for operations_of in ((mul, half, back, rounded_mean), (mul, wide)):
        wrong = Program(image, held, operations_of, ("score", "heatmap"), "CoreML6")
        assert difference(wrong, explain) is None
        with pytest.raises(ParityError, match="the function verdict is not a part of explain"):
            prove_verdict(wrong, explain)
    other = Program(image, held | {"k": np.array(2, np.float16)}, (mul, mean), ("score", "heatmap"), "CoreML6")
    with pytest.raises(ParityError, match="k is not k"):
        prove_verdict(other, explain)


def test_float16_is_rounded_as_ieee_754_does() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=5000) * 10.0 ** rng.integers(-9, 6, 5000)).astype(np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded(values), values.astype(np.float16).astype(np.float32))


def test_subnormal_numbers_can_be_taken_for_0_in_sums_of_products_as_on_the_m1() -> None:
    x, y = (Value(name, np.float16, (1, 1, 2, 2)) for name in "xy")
    small: dict[str, Constant] = {"w": np.full((1, 1, 2, 2), 3e-5, np.float16)}
    given = np.full((1, 1, 2, 2), 100, np.float32)

    def nothing(kind: str, flushed: bool) -> bool:
        program = Program((x,), small, (Operation(kind, {"x": ("x",), "y": ("w",)}, (y,)),), ("y",), "CoreML6")
        return not Executor(program, flushed).run(given)["y"].any()

    assert nothing("matmul", flushed=True)
    assert not nothing("matmul", flushed=False)
    assert not nothing("mul", flushed=True)


def test_a_package_is_held_to_its_budget_with_subnormal_numbers_taken_for_0_too(
    laid_out: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = laid_out.prove(laid_out.half, laid_out.full)
    allowed = limits("fp16", laid_out.detector, laid_out.card.calibration, 1)
    assert 0 < proof.flushed_error["score"] <= allowed["score"]
    assert all(0 < s.share <= 1 and s.of_norm < LOST for s in proof.subnormal)
    monkeypatch.setattr("vtad_export.coreml_format.mil.SMALLEST_NORMAL", 0.05)
    with pytest.raises(RoundingError, match=r"^with subnormal numbers taken for 0, .*export with --precision fp32"):
        laid_out.prove(laid_out.half, laid_out.full)


def test_an_unknown_operation_is_an_error_that_names_it(packages: Packages, tmp_path: Path) -> None:
    wrong = copy(packages.full, tmp_path)
    spec = specification(wrong)
    next(op for op in operations(spec) if op.type == "gelu").type = "mish"
    save(spec, wrong)
    with pytest.raises(PackageError, match="does not know the operation mish"):
        Executor.load(wrong)


def test_a_shape_that_varies_is_refused(packages: Packages, tmp_path: Path) -> None:
    wrong = copy(packages.full, tmp_path)
    spec = specification(wrong)
    gelu = next(op for op in operations(spec) if op.type == "gelu")
    gelu.outputs[0].type.tensorType.dimensions[1].unknown.variadic = False
    save(spec, wrong)
    with pytest.raises(PackageError, match=r"gelu: expected a static shape"):
        read_program(wrong)


def test_a_shape_that_is_not_as_declared_is_an_error_that_names_the_operation(
    packages: Packages, tmp_path: Path
) -> None:
    wrong = copy(packages.full, tmp_path)
    spec = specification(wrong)
    gelu = next(op for op in operations(spec) if op.type == "gelu")
    gelu.outputs[0].type.tensorType.dimensions[1].constant.size += 1
    save(spec, wrong)
    with pytest.raises(PackageError, match=r"gelu gelu: declared shape .* computed"):
        Executor.load(wrong)(packages.sample.good[:1].transpose(0, 3, 1, 2))


def test_a_precision_that_changes_without_a_cast_is_an_error(packages: Packages, tmp_path: Path) -> None:
    wrong = copy(packages.half, tmp_path)
    spec = specification(wrong)
    gelu = next(op for op in operations(spec) if op.type == "gelu")
    gelu.outputs[0].type.tensorType.dataType = 11
    save(spec, wrong)
    with pytest.raises(PackageError, match=r"gelu .*: declared float32, takes float16"):
        Executor.load(wrong)


def test_an_option_that_is_not_implemented_is_an_error_that_names_it(packages: Packages, tmp_path: Path) -> None:
    wrong = copy(packages.full, tmp_path)
    spec = specification(wrong)
    mode = argument(spec, "gelu", "mode").immediateValue.tensor.strings.values
    mode[0] = "SIGMOID_APPROXIMATION"
    save(spec, wrong)
    with pytest.raises(PackageError, match=r"gelu gelu: .*SIGMOID_APPROXIMATION"):
        Executor.load(wrong)(packages.sample.good[:1].transpose(0, 3, 1, 2))


def test_the_float16_program_is_the_float32_program_rounded(packages: Packages) -> None:
    half, full = read_program(packages.half), read_program(packages.full)
    assert difference(half, full) is None
    assert difference(full, full) is None
    assert {v.dtype for op in full.operations for v in op.outputs} <= {np.float32, np.int32}


@pytest.mark.parametrize(("written", "same"), [(6e-8, True), (0.0, True), (-6e-8, False), (2e-7, False)])
def test_a_number_that_would_vanish_in_float16_may_be_the_least_one(
    packages: Packages, written: float, same: bool
) -> None:
    half, full = read_program(packages.half), read_program(packages.full)
    name = next(
        name
        for name, value in half.constants.items()
        if isinstance(value, np.ndarray)
        and value.dtype == np.float16
        and value.ndim == 1
        and name.removesuffix("_to_fp16") in full.constants
    )
    for program, key, value in ((half, name, written), (full, name.removesuffix("_to_fp16"), 1e-12)):
        constant = program.constants[key]
        assert isinstance(constant, np.ndarray)
        program.constants[key] = np.concatenate([[value], constant[1:]]).astype(constant.dtype)
    assert (difference(half, full) is None) == same


def test_what_would_cancel_stays_float32_and_the_network_is_float16(packages: Packages) -> None:
    half = read_program(packages.half)
    dtypes = {op.outputs[0].name: op.outputs[0].dtype for op in half.operations}
    for kind in ("real_div", "exp", "log", "reduce_log_sum_exp", "reduce_mean", "avg_pool", "topk"):
        found = {op.outputs[0].dtype for op in half.operations if op.kind == kind}
        assert found <= {np.float32}, kind
    for kind in ("layer_norm", "gelu", "concat"):
        assert {op.outputs[0].dtype for op in half.operations if op.kind == kind} == {np.float16}, kind
    assert {half.declared()[name].dtype for name in half.outputs} == {np.float32}
    assert sum(d is np.float16 for d in dtypes.values()) > 30


def test_constants_read_from_the_bytes_equal_those_that_coremltools_reads(packages: Packages) -> None:
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = specification(packages.half)
    weights = weight_file(packages.half).parent
    theirs = load(spec, spec.specificationVersion, str(weights))
    ours = read_program(packages.half).constants
    seen = 0
    for op in theirs.functions["main"].operations:
        if op.op_type == "const" and isinstance(op.outputs[0].val, np.ndarray):
            np.testing.assert_array_equal(op.outputs[0].val, ours[op.outputs[0].name])
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])  # int8 constants are written in two ways
def test_int8_weights_are_read_executed_and_held_to_half_a_step(
    laid_out: Packages, conversions: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any
) -> None:
    monkeypatch.setattr("vtad_export.coreml_format.conversion.SMALLEST", 200)  # the tiny transformer's are small
    model = conversions.compress(conversions.convert(Traced(laid_out.arranged), "fp16", target), "int8")
    write_package(model, laid_out.card, tmp_path / "int8.mlpackage")
    eight, full = read_program(tmp_path / "int8.mlpackage"), read_program(laid_out.full)
    assert len(eight.steps) >= 4
    assert difference(eight, full) is None
    got = Executor(eight)(laid_out.sample.good[:2].transpose(0, 3, 1, 2))
    expected = Executor(full)(laid_out.sample.good[:2].transpose(0, 3, 1, 2))
    assert 0 < np.abs(got["reconstruction"] - expected["reconstruction"]).max() < 0.05
    name = next(iter(eight.steps))
    held: Any = eight.constants[name]
    held.flat[0] += 2 * eight.steps[name].flat[0]  # one may lead from half a step below to half a step above
    assert difference(eight, full) is not None


def test_int8_weights_may_be_off_by_every_rounding_on_their_way_and_no_more() -> None:
    """A number is rounded to float16, then to the nearest step, which is rounded too, and their product once more."""
    whole = np.random.default_rng(0).normal(0, 1e-3, (100_000, 32)).astype(np.float32)
    before = whole.astype(np.float16).astype(np.float32)
    step = np.abs(before).max(1, keepdims=True) / 127
    eight = np.round(before / step)
    stored = step.astype(np.float16).astype(np.float32)

    def holding(numbers: Any, steps: dict[str, Any]) -> Program:
        return Program((), {"w": numbers}, (), ("w",), "CoreML6", steps)

    def held(numbers: Any) -> str | None:
        product = (numbers * stored).astype(np.float16)
        return difference(holding(product, {"w": stored}), holding(whole, {}))

    assert held(eight) is None
    off = eight.copy()
    off[7, 3] += 1 if off[7, 3] * stored[7, 0] >= whole[7, 3] else -1
    assert held(off) is not None


def test_a_transposition_of_other_axes_is_another_program(laid_out: Packages, tmp_path: Path) -> None:
    backwards, other = (copy(laid_out.half, tmp_path / name) for name in ("backwards", "other"))
    for path in (backwards, other):
        spec = specification(path)
        perm = argument(spec, "transpose", "perm").immediateValue.tensor.ints.values
        perm[:] = [axis % 4 - 4 for axis in perm] if path == backwards else [3, 2, 1, 0]
        save(spec, path)
    full = read_program(laid_out.full)
    assert difference(read_program(backwards), full) is None  # the same axes, numbered from the back
    assert difference(read_program(other), full) is not None


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_other_presets_are_proven_too(name: str, pills: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"decoder_depth": 0, "patch_size": 8} if name == "paper" else {}
    run: Run = train(tiny(name, data=str(pills), out=str(tmp_path / "runs"), **changes))
    card, detector = run.card(), load_detector(run)
    found = samples(run)
    program = trace(prepared(detector))
    full, half = tmp_path / "full.mlpackage", tmp_path / "half.mlpackage"
    write_package(convert(program, "fp32", "iOS16"), card, full)
    write_package(convert(program, "fp16", "iOS18"), card, half)
    sample = Samples(found.good, found.defective[:4])
    proof = prove_package(full, full, detector, sample, card.calibration)
    assert proof.parity.verdict_flips == 0
    assert all(np.isfinite(v).all() for v in Executor.load(half)(sample.good.transpose(0, 3, 1, 2)).values())
