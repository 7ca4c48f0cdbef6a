"""The whole way as a user types it, with bare defaults: demo images, train, evaluate, export, judge a folder.

Pictures and options are those of the fixture `trained`: so are the weights, and the graph of these is traced once a session.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import done, flags, invoke

from vtad.calibration import map_fusion
from vtad.calibration.record import CalibrationRecord
from vtad.commands.data import data as vtad_data
from vtad.commands.evaluate import evaluate as vtad_eval
from vtad.commands.train import train as vtad_train
from vtad.data.batches import batches
from vtad.inspection import input_spec
from vtad.models.trained import load_detector
from vtad.run_folder import Run, newest_run
from vtad_export.commands.export import export as vtad_export
from vtad_runtime.commands.run import run as vtad_run
from vtad_runtime.contract.fit import fit_image
from vtad_runtime.contract.image import read_rgb
from vtad_runtime.contract.threshold.conformal import spread

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, traced_once: None) -> Path:
    """A working folder in which the commands were typed; a second run made the first one old."""
    here = tmp_path_factory.mktemp("typed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.delenv("VTAD_DATA", raising=False)
        done(vtad_data, "demo", "--category", "pill", "--size", 64, "--train", 16, "--good", 4, "--defects", 1)
        done(vtad_data, "check", "--category", "pill")
        patch.setattr(map_fusion, "ENOUGH", 1)
        done(vtad_train, "--category", "pill", *flags(epochs=1))
        said = done(vtad_train, "--category", "pill", *flags())
        (here / "said").write_text(said)
        assert "run: runs/pill/0002, the newest" in done(vtad_eval)
        assert "run: runs/pill/0002, the newest" in done(vtad_export)
        result = invoke(vtad_run, "--folder", "data/pill/test")
        assert result.exit_code in (0, 1), result.output
        assert "model: runs/pill/0002/export/pill.onnx, the newest export" in result.stdout
        (here / "exit_code").write_text(str(result.exit_code))
    return here


def judged(here: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (here / "results" / "0001" / "results.jsonl").read_text().splitlines()]


def test_each_command_finds_what_the_one_before_it_made(typed: Path) -> None:
    run = Run(typed / "runs" / "pill" / "0002")
    assert run == newest_run(typed / "runs")
    assert sorted(p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()) == [
        "calibration.json",
        "card.json",
        "config.json",
        "export/parity.json",
        "export/pill.onnx",
        "metrics.json",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
    ]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "test/crack/000.png" in page  # by vtad-eval
    assert "Judges 4 good pictures" in page  # by vtad-export
    rows = judged(typed)
    assert len(rows) == 9
    assert len(list((typed / "results" / "0001" / "heatmaps").rglob("*.jpg"))) == 9
    assert (typed / "exit_code").read_text() == ("1" if any(r["verdict"] == "NG" for r in rows) else "0")


def test_training_names_the_oddest_good_pictures_and_shows_the_trade_off(typed: Path) -> None:
    run, said = Run(typed / "runs" / "pill" / "0002"), (typed / "said").read_text().splitlines()
    record = CalibrationRecord.read(run)
    assert record is not None
    assert sorted(g.score for g in record.good) == list(run.card().calibration.scores)
    assert all((typed / "data" / "pill" / g.file).is_file() for g in record.good)
    (oddest,) = (line for line in said if line.startswith("the oddest good pictures: "))
    assert record.good[0].file in oddest
    (chosen,) = (line for line in said if line.startswith("* "))
    alarms = sum(g.score > run.card().calibration.threshold for g in record.good)
    assert f"{alarms} of 16, " in chosen
    assert f" of {len(record.synthetic)}, " in chosen


def test_the_edge_says_what_torch_says(typed: Path) -> None:
    run = Run(typed / "runs" / "pill" / "0002")
    detector, card, rows = load_detector(run), run.card(), judged(typed)
    spec = input_spec(run.config())
    images = np.stack([fit_image(read_rgb(typed / row["file"]), spec)[0] for row in rows])
    with torch.inference_mode():
        scores = torch.cat([detector(b).score for b in batches(images, torch.device("cpu"))]).tolist()
    unit = spread(card.calibration.scores)
    for row, score in zip(rows, scores, strict=True):
        assert abs(row["score"] - score) <= 1e-4 * unit * max(1, abs(score))
        assert row["verdict"] == ("NG" if score > card.calibration.threshold else "OK")
        assert row["p_value"] == pytest.approx(card.calibration.p_value(score), rel=1e-5)
        assert row["threshold"] == pytest.approx(card.calibration.threshold, rel=1e-5)


def test_the_rates_of_the_evaluation_are_those_of_the_verdicts(typed: Path) -> None:
    metrics = json.loads((typed / "runs" / "pill" / "0002" / "metrics.json").read_text())
    rows = judged(typed)
    good = [row["verdict"] for row in rows if "/good/" in row["file"]]
    bad = [row["verdict"] for row in rows if "/good/" not in row["file"]]
    assert metrics["scores"]["false_alarm_rate"] == pytest.approx(good.count("NG") / 4)
    assert metrics["scores"]["miss_rate"] == pytest.approx(bad.count("OK") / 5)
    regions = [bool(row["regions"]) for row in rows if "/good/" in row["file"]]
    assert metrics["good_with_region"] == pytest.approx(sum(regions) / 4)


def test_the_exported_card_carries_the_whole_history(typed: Path) -> None:
    from vtad_runtime import Detector

    run = Run(typed / "runs" / "pill" / "0002")
    card = Detector(run.path / "export" / "pill.onnx").card
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics.pop("data") == str(typed / "data" / "pill")  # where pictures lie stays on this machine
    assert card.results == metrics
    assert card.identity.config["epochs"] == 2
    assert card.parity is not None
    assert card.weights_sha256 == run.card().weights_sha256
