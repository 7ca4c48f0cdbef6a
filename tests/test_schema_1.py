"""Files of schema 1: a run and its exports, made before the card had a score rule, judge as they did then.

tests/data/schema1: a run of the preset paper at 32 px, its ONNX and Core ML exports, two pictures, and what vtad_runtime of that
time said of them. The nodes of the ONNX graph lost their names and comments, to be small.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vtad.run_folder import RunError, open_run
from vtad_export import to_onnx
from vtad_export.commands.export import export
from vtad_runtime import Detector
from vtad_runtime.commands.calibrate import calibrate
from vtad_runtime.commands.doctor import doctor
from vtad_runtime.commands.replay import replay
from vtad_runtime.commands.run import run
from vtad_runtime.verdict import engine_choice

STORED = Path(__file__).parent / "data" / "schema1"
RECORDED = json.loads((STORED / "recorded.json").read_text())
MODEL = STORED / "run" / "export" / "pill.onnx"


@pytest.mark.parametrize("name", RECORDED)
def test_a_model_of_schema_1_judges_as_it_did(name: str) -> None:
    expected, found = RECORDED[name], Detector(MODEL).file(STORED / name)
    assert found.score == pytest.approx(expected["score"], rel=1e-5)
    assert (found.p_value, found.verdict, len(found.regions)) == (
        expected["p_value"],
        expected["verdict"],
        expected["regions"],
    )
    assert [found.density_map.min(), found.density_map.max()] == pytest.approx(expected["density_map"], rel=1e-4)
    assert [found.ssim_map.min(), found.ssim_map.max()] == pytest.approx(expected["ssim_map"], rel=1e-4)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stored pictures in it, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").mkdir()
    for name in RECORDED:
        shutil.copy(STORED / name, tmp_path / "parts" / name)
    return tmp_path


def test_a_run_by_a_model_of_schema_1_is_replayed(line: Path) -> None:
    made = CliRunner().invoke(run, ["--model", str(MODEL), "--folder", "parts", "--out", "results"])
    assert made.exit_code == 1, made.output  # the square is NG
    (results,) = (line / "results").iterdir()
    again = CliRunner().invoke(replay, [str(results), "--model", str(MODEL)])
    assert again.exit_code == 0, again.output


def test_a_model_of_schema_1_is_calibrated_into_a_valid_file(line: Path) -> None:
    good = line / "good"
    good.mkdir()
    for number, turned in enumerate((None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)):
        with Image.open(STORED / "good.png") as image:
            (image if turned is None else image.transpose(turned)).save(good / f"{number}.png")
    made = CliRunner().invoke(calibrate, ["--good", "good", "--model", str(MODEL), "--out", "new.onnx"])
    assert made.exit_code == 0, made.output
    new, old = Detector("new.onnx"), Detector(MODEL)
    assert new.card.calibration.images == 3
    assert any(score == pytest.approx(RECORDED["good.png"]["score"]) for score in new.card.calibration.scores)
    assert new.file(STORED / "square.png").score == old.file(STORED / "square.png").score


def test_vtad_doctor_runs_a_model_of_schema_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "others", lambda: ())  # each would be tried in a process of its own
    result = CliRunner().invoke(doctor, ["--model", str(MODEL)])
    assert "self-test" in result.output
    (row,) = (text for text in result.output.splitlines() if "self-test" in text)
    assert "FAIL" not in row.upper(), result.output


@pytest.mark.parametrize("name", ["", "card.json", "export/pill.onnx", "export/pill.mlpackage"])
def test_vtad_export_shows_a_card_of_schema_1(name: str) -> None:
    if name.endswith("mlpackage"):
        pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    result = CliRunner().invoke(export, ["--show", str(STORED / "run" / name)])
    assert result.exit_code == 0, result.output
    assert "density_map" in result.output
    assert "nll_map" not in result.output


@pytest.mark.slow
def test_a_package_of_schema_1_runs_on_a_mac_and_is_exported_again_for_the_device_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    from fake_coreml import fake_mac

    from vtad_export.coreml_format.device.check import device_check
    from vtad_export.coreml_format.mil import Executor

    package = MODEL.with_suffix(".mlpackage")
    executor = Executor.load(package)

    def predict(_: Path, rgb: np.ndarray[Any, Any]) -> dict[str, Any]:
        return dict(executor(np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])))

    fake_mac(monkeypatch, predict, tmp_path)
    for name, expected in RECORDED.items():
        found = Detector(package).file(STORED / name)
        assert found.score == pytest.approx(expected["score"], abs=0.05)  # float16
        assert found.verdict == expected["verdict"]
    with pytest.raises(RunError, match="expected reference pictures in the package, got none; export the run again"):
        device_check(package)


@pytest.mark.slow
def test_a_run_of_schema_1_is_exported_again_with_the_same_scores(pills: Path, tmp_path: Path) -> None:
    run = open_run(Path(shutil.copytree(STORED / "run", tmp_path / "run")))
    made = to_onnx(run, tmp_path / "new.onnx", data=pills)
    assert run.config().preset == "paper"  # which no other test exports
    assert made.card.parity is not None
    assert made.card.parity.verdict_flips == 0
    for name in RECORDED:
        old, new = (Detector(path).file(STORED / name) for path in (MODEL, made.path))
        assert new.verdict == old.verdict
        assert new.score == pytest.approx(old.score, rel=1e-5)  # the graph is arranged otherwise today
    assert json.loads(made.card.to_json())["schema"] == 3
