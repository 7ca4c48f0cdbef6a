"""The example in plain Python and the ORT format for phones give vtad-run's scores."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from documents import ROOT
from PIL import Image

from vtad_export.proof.exporter import Export
from vtad_runtime import Detector
from vtad_runtime.contract.card import ONNX_KEY, REFERENCES_KEY, Card
from vtad_runtime.contract.references import References, largest_error
from vtad_runtime.verdict.verdict import decide

JUDGE = ROOT / "examples" / "python" / "judge.py"
pytestmark = pytest.mark.slow  # the trained model


def pictures(pills: Path, folder: Path) -> list[Path]:
    """Good and defective parts, and sizes of which one axis or both grow or shrink by no whole factor."""
    found = sorted((pills / "pill" / "test").glob("*/*.png"))[:3]
    for width, height in ((97, 83), (20, 75), (64, 20), (17, 25)):
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        found.append(folder / f"{width}x{height}.png")
        Image.fromarray(noise).save(found[-1])
    found.append(folder / "part.jpg")
    Image.open(found[0]).save(found[-1], quality=90)
    return found


def test_ten_lines_of_plain_python_give_the_verdicts_and_scores_of_the_runtime(
    exported: Export, pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pictures(pills, tmp_path)
    monkeypatch.setattr("sys.argv", [str(JUDGE), str(exported.path), *map(str, files)])
    runpy.run_path(str(JUDGE))
    detector = Detector(exported.path, review=0)
    seen = []
    for line, file in zip(capsys.readouterr().out.splitlines(), files, strict=True):
        name, verdict, score = line.rsplit(" ", 2)
        expected = detector(file)
        assert (name, verdict) == (str(file), expected.verdict)
        assert float(score) == pytest.approx(expected.score, rel=1e-5), file
        seen.append(verdict)
    assert set(seen) == {"OK", "NG"}


@pytest.mark.parametrize("broken", ["score", "heatmap"])
def test_a_score_or_heatmap_that_is_not_finite_is_an_error(
    exported: Export, pills: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    honest = onnxruntime.InferenceSession

    class Broken:
        def __init__(self, path: str) -> None:
            self.session = honest(path)
            self.get_modelmeta = self.session.get_modelmeta

        def run(self, names: list[str], given: dict[str, Any]) -> list[Any]:
            return [
                v * np.nan if n == broken else v for n, v in zip(names, self.session.run(names, given), strict=True)
            ]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Broken)
    file = next((pills / "pill/test/good").iterdir())
    monkeypatch.setattr("sys.argv", [str(JUDGE), str(exported.path), str(file)])
    runpy.run_path(str(JUDGE))
    assert capsys.readouterr().out.startswith(f"{file} ERROR ")


def test_in_ort_format_the_model_keeps_its_card_its_reference_pictures_and_its_scores(
    exported: Export, tmp_path: Path
) -> None:
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    convert_onnx_models_to_ort(exported.path, output_dir=tmp_path, optimization_styles=[OptimizationStyle.Fixed])
    (file,) = tmp_path.glob("*.ort")
    session = onnxruntime.InferenceSession(str(file))
    metadata = session.get_modelmeta().custom_metadata_map
    card = Card.from_json(metadata[ONNX_KEY])
    assert card == exported.card
    references = References.from_text(metadata[REFERENCES_KEY], card, str(file))
    (got,) = session.run(["score"], {card.input.name: references.pixels})
    assert (
        largest_error("score", references.expected["score"], got, card.calibration)
        <= exported.parity.tolerance["score"]
    )
    assert {decide(card.calibration, score) for score in got.tolist()} == {"OK", "NG"}
