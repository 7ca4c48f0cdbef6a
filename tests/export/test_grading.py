"""Pictures of the proof near the threshold: how they are found, and what is said of verdicts there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vtad.models.detector import Detector
from vtad.report.card_words import card_text
from vtad.run_folder import Run
from vtad_export.proof.certificate import measured_lines
from vtad_export.proof.errors import ParityError, RoundingError
from vtad_export.proof.exporter import Export
from vtad_export.proof.grading import ENOUGH, WITHIN, graded, shortage
from vtad_export.proof.material import Material, Samples, load_material
from vtad_export.proof.parity import Comparison, accept, compare
from vtad_export.proof.table import Row, table
from vtad_export.proof.tolerance import DRIFT, limits
from vtad_runtime.contract.card import Calibration, Parity
from vtad_runtime.contract.threshold.conformal import LEAST_MARGIN, MARGIN, spread


@pytest.fixture(scope="module")
def material(trained: Run) -> Material:
    return load_material(trained)


def outputs(detector: Detector, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    with torch.inference_mode():
        return {k: v.numpy() for k, v in detector(torch.from_numpy(pixels))._asdict().items()}


def spreads_from_the_threshold(material: Material) -> NDArray[np.float64]:
    pixels = np.stack([g.pixels for g in material.sample.graded]).transpose(0, 3, 1, 2)
    calibration = material.card.calibration
    scores = outputs(material.detector, np.ascontiguousarray(pixels))["score"].astype(np.float64)
    return (scores - calibration.threshold) / spread(calibration.scores)


def test_defects_and_good_pictures_are_graded_until_they_straddle_the_threshold(material: Material) -> None:
    calibration = material.card.calibration
    distances = spreads_from_the_threshold(material)
    assert min((distances < 0).sum(), (distances > 0).sum()) >= ENOUGH
    assert (np.abs(distances) <= WITHIN * calibration.threshold / spread(calibration.scores)).all()
    assert (np.abs(distances) >= 0.9 * LEAST_MARGIN).all()  # float32 flips none
    names = [g.name for g in material.sample.graded]
    assert {name.startswith("synthetic defect") for name in names} == {True, False}
    assert all(", strength " in name for name in names)
    assert material.sample.name(material.sample.ungraded) == names[0]
    assert len(material.sample.images) == material.sample.ungraded + len(names)


def test_the_same_run_has_the_same_pictures(material: Material, trained: Run) -> None:
    again = load_material(trained).sample.graded
    assert [g.name for g in again] == [g.name for g in material.sample.graded]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(again, material.sample.graded, strict=True))


def test_what_does_not_reach_the_threshold_at_any_strength_is_left_out_and_it_is_said(material: Material) -> None:
    few = material.sample.first(2)
    calibration = dataclasses.replace(material.card.calibration, threshold=1e6)
    assert graded(material.detector, calibration, few.good, few.defective, ["a", "b", "c", "d"]) == ()
    assert shortage(material.sample.graded) is None
    assert material.sample.note is None
    assert "only 2 images just below the threshold and 1 just above" in str(shortage(material.sample.graded[:3]))


def test_a_shortage_is_on_the_certificate(run: Run) -> None:
    card = run.path / "card.json"
    raw = json.loads(card.read_text())
    raw["calibration"]["threshold"] = 0.9 * raw["calibration"]["scores"][0]  # even good pictures score above it
    card.write_text(json.dumps(raw))
    note = load_material(run).sample.note
    assert note is not None
    assert "with this model, no more of the 8 defects and 8 good images come within 10% of it" in note


def found_by(material: Material, sample: Samples, calibration: Calibration, off_by: float) -> Comparison:
    """What the proof finds where every score is off by so many spreads of the calibration scores."""
    error = np.float32(off_by * spread(calibration.scores))

    def execute(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        found = outputs(material.detector, pixels)
        return {**found, "score": found["score"] + error}

    return compare(material.detector, execute, sample, calibration, limits("fp16", material.detector, calibration, 8))


def prove(material: Material, sample: Samples, calibration: Calibration, off_by: float) -> Parity:
    found = found_by(material, sample, calibration, off_by)
    allowed = limits("fp16", material.detector, calibration, 8)
    return accept(found, sample, format="coreml", precision="fp16", tolerance=allowed)


def test_a_verdict_that_an_allowed_error_flips_near_the_threshold_is_named_and_no_reason_to_refuse(
    material: Material, exported: Export, tmp_path: Path
) -> None:
    only = dataclasses.replace(material.sample.first(1), graded=material.sample.graded)
    calibration = material.card.calibration
    found = found_by(material, only, calibration, 0.9 * MARGIN)
    flips = int(((distances := spreads_from_the_threshold(material)) < 0).sum() - (distances < -0.9 * MARGIN).sum())
    assert flips > 0
    assert [flip.near for flip in found.flipped] == [True] * flips
    parity = prove(material, only, calibration, 0.9 * MARGIN)
    assert parity.near is not None
    assert (parity.verdict_flips, parity.near.flips) == (0, flips)
    assert parity.near.max_error == pytest.approx(0.9 * MARGIN, rel=0.2)
    assert parity.near.nearest == pytest.approx(np.abs(distances).min(), rel=0.1)
    card = dataclasses.replace(exported.card, parity=parity)
    made = dataclasses.replace(exported, card=card, flipped=found.flipped)
    assert f"near threshold  {flips} flips among {parity.near.below} images just below" in card_text(tmp_path, card)
    assert [line for line in measured_lines(made) if found.flipped[0].image in line]
    row = Row("coreml", "fp16", 1.0, "proven", made)
    assert f"{flips} of {len(material.sample.graded)}" in table([row], tmp_path).splitlines()[-1]


def test_near_the_threshold_no_error_beyond_its_limit_passes(material: Material) -> None:
    only = dataclasses.replace(material.sample.first(1), graded=material.sample.graded)
    with pytest.raises(
        ParityError, match=r"score .*\(at most 0\.15\).*--precision fp32, or allow it: --tolerance score="
    ):
        prove(material, only, material.card.calibration, 1.2 * DRIFT["fp16"].score)


@pytest.mark.parametrize(
    ("format", "precision", "rounding"),
    [("coreai", "fp16", True), ("coreml", "int8", True), ("coreml", "fp32", False), ("onnx", "int8", False)],
)
def test_an_overflow_where_float16_computes_is_a_matter_of_the_precision_and_float32_is_named(
    material: Material, format: str, precision: str, rounding: bool
) -> None:
    few, calibration = material.sample.first(1), material.card.calibration
    allowed = limits(precision, material.detector, calibration, 2)
    entry: Any = {"format": format, "precision": precision, "tolerance": allowed}

    def refusal(change: Any) -> ParityError:
        def execute(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
            found = outputs(material.detector, pixels)
            return {**found, "heatmap": change(found["heatmap"])}

        with pytest.raises(ParityError) as raised:
            accept(compare(material.detector, execute, few, calibration, allowed), few, **entry)
        return raised.value

    infinite = refusal(lambda x: np.full_like(x, np.inf))
    assert isinstance(infinite, RoundingError) == rounding
    assert ("float16 overflows: export with --precision fp32" in str(infinite)) == rounding
    assert not isinstance(refusal(lambda x: x[:, 1:]), RoundingError)  # of another shape: no precision mends that
