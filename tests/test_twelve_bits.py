"""A camera of 12 bits that saves files of 16: trained, exported and run as if its pictures were of 8 bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_run import done, error, flags, invoke

from vtad.calibration import map_fusion
from vtad.commands.evaluate import evaluate
from vtad.commands.train import train
from vtad.run_folder import Run, open_run
from vtad_export.commands.export import export
from vtad_export.proof.exporter import Export
from vtad_runtime import Detector
from vtad_runtime.commands.run import run as vtad_run
from vtad_runtime.contract.image import read_rgb


@pytest.fixture
def of_12_bits(pills: Path, tmp_path: Path) -> Path:
    """The data folder `pills` as a camera of 12 bits takes it: x / 4095 * 255, rounded, are the pixels of `pills`."""
    data = Path(shutil.copytree(pills, tmp_path / "data"))
    for part in ("train", "test"):
        for file in (data / "pill" / part).rglob("*.png"):
            assert cv2.imwrite(str(file), np.rint(read_rgb(file)[:, :, ::-1] * (4095 / 255)).astype(np.uint16))
    return data


@pytest.mark.usefixtures("ready_graph")
def test_a_set_of_12_bits_scores_as_the_same_of_8_bits(
    of_12_bits: Path, pills: Path, trained: Run, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(map_fusion, "ENOUGH", 1)  # as `trained` was calibrated
    said = done(train, "--category", "pill", *flags())
    assert "note: in pictures of 16 bits 4095 is white (--bits 12)" in said
    run = open_run(Path("runs/pill/0001"))
    card, of_8_bits = run.card(), trained.card()
    assert (card.input.full_scale, of_8_bits.input.full_scale) == (4095, 65535)
    assert (run.config().bits, trained.config().bits) == (12, 16)
    assert card.calibration.scores == pytest.approx(of_8_bits.calibration.scores, rel=1e-4)

    done(evaluate, "--run", run.path)
    done(export, "--run", run.path)  # each picture of its proof comes from its file
    assert invoke(vtad_run, "--folder", "data/pill/test", "--save", "none").exit_code in (0, 1)
    rows = [json.loads(line) for line in Path("results/0001/results.jsonl").read_text().splitlines()]
    detector = Detector(exported.path)
    expected = {
        file: detector.file(pills / Path(file).relative_to("data")).score for file in (row["file"] for row in rows)
    }
    assert len(expected) == 9
    assert {row["file"]: row["score"] for row in rows} == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("of_12_bits")
def test_values_above_the_bits_asked_for_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = error(2, train, "--category", "pill", "--bits", "10", *flags())
    assert "expected values up to 1023 (--bits 10), got" in line
    assert line.endswith("give --bits 12")
    assert not Path("runs").exists()
