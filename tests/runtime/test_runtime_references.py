"""Reference pictures inside a model: read back as written, refused in one line where damaged; other scores are seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_model import make_card, references, with_references, write_model

from vtad_runtime import Detector
from vtad_runtime.contract.references import References, ReferencesError
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.verdict.reference_check import ReferenceCheck

CARD = make_card()


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    made = references()
    found = OnnxSession(with_references(tmp_path / "tiny.onnx", made.to_text())).references()
    assert found is not None
    assert (found.names, found.defective, found.weights_sha256) == (made.names, made.defective, made.weights_sha256)
    assert np.array_equal(found.pixels, made.pixels)
    assert found.expected.keys() == made.expected.keys()
    for name, values in made.expected.items():
        assert np.array_equal(found.expected[name], values), name
    assert found.expected["reconstruction"].shape == (2, 3, 2, 2)


def test_a_model_without_them_has_none(tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "tiny.onnx"))
    assert detector.references() is None
    assert detector.check_references() is None


def damaged(**changes: object) -> str:
    return json.dumps({**json.loads(references().to_text()), **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "does not parse"),
        (damaged(schema=9), "schema 9"),
        (damaged(weights_sha256="ef" * 32), "those of other weights"),
        (damaged(pictures=[]), "none"),
        (damaged(pictures=[{"name": "a"}]), "missing fields"),
        (references().to_text().replace("UklGR", "AAAAA"), "expected PNG, JPEG"),
        (references().to_text().replace('"score":', '"score":"', 1), "does not parse"),
        (references(pixels=references().pixels[:, :, :16]).to_text(), "good.png of 32x16 for an input of 32x32"),
        (references().to_text().replace('"heatmap":"', '"heatmap":"AAAA', 1), "buffer"),
        (references().to_text().replace('"heatmap":"', '"heatmap":"?', 1), "base64"),
    ],
)
def test_damage_is_one_line_that_names_the_file(text: str, said: str) -> None:
    with pytest.raises(
        ReferencesError, match=r"^tiny\.onnx: expected whole reference pictures inside, got .*; copy the file again$"
    ) as e:
        References.from_text(text, CARD, "tiny.onnx")
    assert said in str(e.value)


def test_an_engine_that_judges_as_torch_did_passes(tmp_path: Path) -> None:
    found = Detector(with_references(tmp_path / "tiny.onnx", references().to_text())).check_references()
    assert found is not None
    assert found.ok
    assert found.flips == 0
    assert str(found).startswith(
        "2 reference pictures judged as by torch at the export: no verdict differs, scores differ by at most"
    )


def test_a_score_that_is_farther_off_than_the_proof_allowed_fails(tmp_path: Path) -> None:
    def check(score_scale: float) -> ReferenceCheck:
        path = with_references(tmp_path / "tiny.onnx", references().to_text(), score_scale=score_scale)
        found = Detector(path).check_references()
        assert found is not None
        return found

    unit, allowed = float(np.std(CARD.calibration.scores)), 1e-3  # on the card
    nearly = check(1 + 0.9 * allowed * unit / 2.0)  # a score above the threshold, 2, counts relative to it
    assert nearly.ok
    assert nearly.largest == pytest.approx(0.9 * allowed, rel=1e-2)
    off = check(1 + 1.1 * allowed * unit / 2.0)
    assert not off.ok
    assert str(off).startswith("of 2 reference pictures bad.png: expected torch's score 6.2 (NG), got 6.20")
    assert "1.1e-03 of the spread of good scores apart, at most 1.0e-03; no verdict differs" in str(off)
    assert check(0.1).flips == 1
