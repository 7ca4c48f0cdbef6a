"""Evaluation of a run: the same numbers on disk, on the card and in the table."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from tiny_run import disk_fills_up, done, error, tiny

from vtad.calibration.map_fusion import raw_maps, scores_and_peaks
from vtad.commands.evaluate import evaluate as command
from vtad.data.images import ImageCache, fingerprint
from vtad.data.layout import DataError, find_category
from vtad.evaluation import at_source
from vtad.evaluation import evaluate as evaluation
from vtad.evaluation.evaluate import evaluate
from vtad.evaluation.table import table
from vtad.fitting.device import pick_device
from vtad.inspection import input_spec
from vtad.metrics import RankedPixels
from vtad.models.trained import load_detector
from vtad.run_folder import Run, newest_run
from vtad.training import train

MakeCategory = Callable[..., Path]


@pytest.fixture
def own_pills(pills: Path, tmp_path: Path) -> Path:
    """A copy of `pills` to change."""
    return Path(shutil.copytree(pills, tmp_path / "data"))


def test_metrics_json_and_the_card_hold_what_is_returned(run: Run, pills: Path) -> None:
    before = run.card()
    found = evaluate(run)
    saved = json.loads((run.path / "metrics.json").read_text())
    card = run.card()
    assert saved == json.loads(json.dumps(found.to_dict()))
    assert card.results == {key: value for key, value in saved.items() if key != "data"}
    assert dataclasses.replace(card, results=None) == before
    assert saved["data_fingerprint"] == fingerprint([t.path for t in find_category(pills, "pill").test])
    assert (found.scores.good, found.scores.defective, found.without_mask) == (4, 5, 0)
    assert set(found.scores.kinds) == {"crack", "contamination", "chip", "wrong_colour", "scratch"}
    assert "paper_pro" not in saved


def test_scores_are_those_of_the_detector_on_the_pixel_path(run: Run, pills: Path) -> None:
    found, config = evaluate(run), run.config()
    test = find_category(pills, "pill").test
    with ImageCache([t.path for t in test], input_spec(config)) as images:
        detector = load_detector(run)
        scores, _ = scores_and_peaks(detector, raw_maps(detector, images[:], pick_device("cpu")))
    bad = np.array([t.kind != "good" for t in test])
    rejected = np.array(scores) > run.card().calibration.threshold
    assert found.scores.image.auroc == pytest.approx(roc_auc_score(bad, scores))
    assert found.scores.false_alarm_rate == pytest.approx(rejected[~bad].mean())
    assert found.scores.miss_rate == pytest.approx(1 - rejected[bad].mean())
    assert found.scores.threshold == run.card().calibration.threshold


def test_defective_images_without_a_mask_count_as_images_only(run: Run, own_pills: Path) -> None:
    whole = evaluate(run, data=own_pills)
    shutil.rmtree(own_pills / "pill" / "ground_truth" / "crack")
    part = evaluate(run, data=own_pills)
    assert (part.without_mask, part.scores) == (1, whole.scores)
    assert (part.heatmap.images, whole.heatmap.images) == (8, 9)
    assert part.heatmap.regions < whole.heatmap.regions
    assert "1 defective images have no mask" in table(part)
    shutil.rmtree(own_pills / "pill" / "ground_truth")
    none = evaluate(run, data=own_pills)
    assert (none.without_mask, none.scores) == (5, whole.scores)
    assert (none.heatmap.auroc, none.heatmap.aupro) == (None, None)
    assert json.loads((run.path / "metrics.json").read_text())["heatmap"]["aupro"] is None
    assert "-" in table(none)


def test_only_good_or_only_defective_test_images_leave_undefined_what_is_undefined(run: Run, own_pills: Path) -> None:
    shutil.rmtree(own_pills / "pill" / "test" / "good")
    bad = evaluate(run, data=own_pills)
    assert (bad.scores.good, bad.scores.image.auroc, bad.good_with_region) == (0, None, None)
    assert bad.heatmap.auroc is not None
    for kind in bad.scores.kinds:
        shutil.rmtree(own_pills / "pill" / "test" / kind)
    shutil.copytree(own_pills / "pill" / "train" / "good", own_pills / "pill" / "test" / "good")
    good = evaluate(run, data=own_pills)
    assert (good.scores.defective, good.scores.miss_rate, good.heatmap.aupro) == (0, None, None)
    assert "missed -" in table(good)


def test_a_mask_of_another_size_is_one_line_with_both_sizes(run: Run, own_pills: Path) -> None:
    mask = own_pills / "pill" / "ground_truth" / "chip" / "000_mask.png"
    Image.new("L", (60, 64), 255).save(mask)
    line = error(2, command, "--run", run.path, "--data", own_pills)
    assert f"{mask}: expected a mask of 64x64 pixels like 000.png, got 60x64" in line
    assert not (run.path / "metrics.json").exists()


@pytest.mark.parametrize("damage", ["picture", "mask"])
def test_an_unreadable_test_image_or_mask_is_named(run: Run, own_pills: Path, damage: str) -> None:
    folder, name = ("test", "000.png") if damage == "picture" else ("ground_truth", "000_mask.png")
    path = own_pills / "pill" / folder / "scratch" / name
    path.write_bytes(path.read_bytes()[:150])
    assert str(path) in error(2, command, "--run", run.path, "--data", own_pills)
    assert run.card().results is None


def test_without_test_images_nothing_is_written(run: Run, own_pills: Path) -> None:
    shutil.rmtree(own_pills / "pill" / "test")
    with pytest.raises(DataError, match="expected test images in folders good/ and one for each defect type, got none"):
        evaluate(run, data=own_pills)
    assert not (run.path / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["letterbox", "centre_crop", "stretch"])
def test_every_fit_trains_and_meets_masks_at_source_size(make_category: MakeCategory, tmp_path: Path, fit: Any) -> None:
    data = make_category(train=16)
    run = train(tiny(category="part", data=str(data), out=str(tmp_path / "runs"), fit=fit, image_width=48))
    found = evaluate(run)
    assert run.card().input.fit == fit
    assert found.heatmap.regions == 2
    assert found.heatmap.auroc is not None


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "centre_crop"])
def test_maps_lie_where_the_source_image_is(
    run: Run, own_pills: Path, monkeypatch: pytest.MonkeyPatch, fit: str
) -> None:
    """A heatmap that is the picture itself finds exactly what is white in pictures of another shape."""
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**config, "fit": fit}))
    test, truth = own_pills / "pill" / "test", own_pills / "pill" / "ground_truth"
    white = np.zeros((64, 96), np.uint8)
    white[4:20, 50:70] = 255
    for kind in ("chip", "contamination", "scratch", "wrong_colour"):
        shutil.rmtree(test / kind)
    Image.fromarray(white).save(test / "crack" / "000.png")
    Image.fromarray(white).save(truth / "crack" / "000_mask.png")
    for path in (test / "good").iterdir():
        Image.new("RGB", (96, 64)).save(path)

    def seeing_white(*args: Any) -> Any:
        detector = load_detector(*args)
        judge = detector.forward
        red = ("heatmap", "density_map")
        monkeypatch.setattr(detector, "forward", lambda x: judge(x)._replace(**dict.fromkeys(red, x[:, 0].float())))
        return detector

    monkeypatch.setattr(evaluation, "load_detector", seeing_white)
    found = evaluate(run, data=own_pills)
    assert found.heatmap.auroc == pytest.approx(1, abs=1e-3)
    assert found.heatmap.aupro == pytest.approx(1, abs=1e-2)


def test_large_images_are_compared_at_a_bounded_size_where_no_defect_is_lost(
    run: Run, own_pills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[NDArray[np.bool_]] = []
    ranked = RankedPixels.of

    def remember(masks: Any, maps: Any) -> Any:
        sizes.extend(masks)
        return ranked(masks, maps)

    monkeypatch.setattr(at_source, "LONGEST_SIDE", 16)
    monkeypatch.setattr(RankedPixels, "of", remember)
    mask = np.zeros((64, 64), np.uint8)
    mask[9, 33] = 255  # a single pixel
    Image.fromarray(mask).save(own_pills / "pill" / "ground_truth" / "crack" / "000_mask.png")
    evaluate(run, data=own_pills)
    assert {m.shape for m in sizes} == {(16, 16)}
    assert any(m.sum() == 1 and m[2, 8] for m in sizes)


def test_the_command_prints_a_table_and_takes_the_newest_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = done(command)
    assert text.startswith("run: runs/pill/0001, the newest\n")
    for word in ("AUROC", "AUPRO (to FPR 0.3)", "SSIM alone", "density", "wrong_colour", "false alarms"):
        assert word in text
    assert text.split()[-2:] == ["runs/pill/0001/metrics.json", "runs/pill/0001/report.html"]


def test_evaluating_an_old_run_does_not_make_it_the_newest(run: Run) -> None:
    newer = Path(shutil.copytree(run.path, run.path.with_name("0002")))
    for path in (run.path / "model.safetensors", run.path / "config.json"):
        os.utime(path, (1, 1))
    evaluate(run)
    assert newest_run(run.path.parents[1]) == Run(newer)


def test_a_run_without_its_weights_is_never_the_newest(run: Run) -> None:
    newer = Path(shutil.copytree(run.path, run.path.with_name("0002")))
    (newer / "model.safetensors").unlink()
    assert newest_run(run.path.parents[1]) == run


def test_a_full_disk_is_exit_code_4_and_the_earlier_metrics_stay(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(run)
    earlier = {p.name: p.read_bytes() for p in run.path.iterdir()}
    disk_fills_up(monkeypatch, evaluation, "write_text")
    assert "metrics.json: could not be written" in error(4, command, "--run", run.path)
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == earlier
