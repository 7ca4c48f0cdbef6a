"""Golden samples: stored pictures prove model and machine, fresh pictures of the same parts prove the camera."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_model import GREY, make_card, write_model

from vtad_runtime.contract.card import Input
from vtad_runtime.line import golden_record
from vtad_runtime.line.golden import Golden, GoldenError, GoldenReport
from vtad_runtime.line.view import Fitted, changes, shift
from vtad_runtime.verdict.detector import Detector

SIZE = 128
Pixels = NDArray[np.uint8]


def surface(seed: int) -> Pixels:
    """A smooth texture within 30 grey levels of the good surface."""
    rng = np.random.default_rng(seed)
    coarse = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)), (0, 0), 2)
    grey = np.clip(GREY + 10 * coarse / coarse.std(), GREY - 30, GREY + 30)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def scratched(seed: int) -> Pixels:
    rgb = surface(seed)
    rgb[40:60, 50:54] = 255
    return rgb


def save(rgb: Pixels, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "golden"
    for seed in (1, 2):
        save(surface(seed), root / "good" / f"{seed}.png")
    save(scratched(3), root / "bad" / "3.png")
    return root


def model(path: Path, **graph: Any) -> Detector:
    return Detector(write_model(path, make_card(SIZE, SIZE), **graph))


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return model(tmp_path / "tiny.onnx")


@pytest.fixture
def recorded(folder: Path, detector: Detector) -> Golden:
    Golden(folder, detector).check()
    return Golden(folder, detector)


def only(report: GoldenReport) -> str:
    (line,) = report.lines
    assert "\n" not in line
    return line


def moved(rgb: Pixels, dx: int, dy: int) -> Pixels:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return np.asarray(cv2.warpAffine(rgb, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT), np.uint8)


def test_the_first_check_records_scores_model_and_statistics_and_later_ones_agree(
    folder: Path, detector: Detector
) -> None:
    first = Golden(folder, detector).check()
    assert first == GoldenReport(True, (f"recorded 2 good and 1 bad parts in {folder / 'golden.json'}",), "none")
    stored = json.loads((folder / "golden.json").read_text())
    assert stored["model"]["sha256"] == golden_record.sha256(detector.path)
    assert stored["model"]["weights_sha256"] == detector.card.weights_sha256
    assert stored["parts"].keys() == {"good/1.png", "good/2.png", "bad/3.png"}
    part = stored["parts"]["bad/3.png"]
    assert part["score"] == pytest.approx(detector.file(folder / "bad/3.png").score)
    assert part["verdict"] == "NG"
    assert part["view"]["brightness"] == pytest.approx(scratched(3).mean(), abs=0.5)
    before = (folder / "golden.json").read_bytes()
    again = Golden(folder, detector).check()
    assert again.ok
    assert again.cause == "none"
    assert only(again).startswith("3 golden parts judged as recorded 20")
    assert (folder / "golden.json").read_bytes() == before


def test_a_score_that_changed_is_seen_though_the_card_holds_no_calibration_scores(folder: Path, tmp_path: Path) -> None:
    card = make_card(SIZE, SIZE)
    none = dataclasses.replace(card, calibration=dataclasses.replace(card.calibration, scores=(), images=0))
    first = Detector(write_model(tmp_path / "none.onnx", none))
    assert Golden(folder, first).check().ok
    assert Golden(folder, first).check().ok
    report = Golden(folder, Detector(write_model(tmp_path / "none.onnx", none, score_scale=1.01))).check()
    assert not report.ok
    assert any("3 of 3 stored pictures have another score" in line for line in report.lines), report.lines


def test_another_model_is_a_model_change_named_by_its_hashes_and_the_worst_part(
    recorded: Golden, folder: Path, tmp_path: Path
) -> None:
    card = dataclasses.replace(make_card(SIZE, SIZE), weights_sha256="ef" * 32)
    other = Detector(write_model(tmp_path / "other.onnx", card, score_scale=1.1))
    report = Golden(folder, other).check()
    assert (report.ok, report.cause) == (False, "model")
    file, scores = report.lines
    assert golden_record.sha256(other.path)[:12] in file
    assert golden_record.sha256(tmp_path / "tiny.onnx")[:12] in file
    assert "weights sha256 cdcdcdcdcdcd -> efefefefefef" in file
    assert "delete" in file
    assert "3 of 3 stored pictures have another score, most bad/3.png: 6.2 -> 6.82" in scores


def test_a_recalibrated_model_is_told_from_one_with_other_weights(
    recorded: Golden, folder: Path, tmp_path: Path
) -> None:
    card = make_card(SIZE, SIZE)
    lower = dataclasses.replace(card, calibration=dataclasses.replace(card.calibration, threshold=1.9))
    report = Golden(folder, Detector(write_model(tmp_path / "new.onnx", lower))).check()
    assert (report.ok, report.cause) == (False, "model")
    assert "the same weights, threshold 2 -> 1.9" in only(report)


def test_another_score_of_the_same_model_and_picture_names_the_software_that_changed(
    recorded: Golden, folder: Path, detector: Detector
) -> None:
    file = folder / "golden.json"
    stored = json.loads(file.read_text())
    stored["parts"]["good/1.png"]["score"] += 0.01
    stored["software"]["onnxruntime"] = "0.1"
    file.write_text(json.dumps(stored))
    report = Golden(folder, detector).check()
    assert (report.ok, report.cause) == (False, "model")
    assert "1 of 3 stored pictures have another score, most good/1.png" in only(report)
    assert "the software changed: onnxruntime 0.1 -> " in only(report)
    stored["parts"]["good/1.png"]["score"] -= 0.01 - 1e-5  # less than a thousandth of the calibration spread
    file.write_text(json.dumps(stored))
    assert Golden(folder, detector).check().ok


def test_stored_pictures_that_were_swapped_lost_damaged_or_added_are_named(recorded: Golden, folder: Path) -> None:
    save(surface(9), folder / "good" / "1.png")
    (folder / "good" / "2.png").unlink()
    data = (folder / "bad" / "3.png").read_bytes()
    (folder / "bad" / "3.png").write_bytes(data[: len(data) // 2])
    save(surface(8), folder / "good" / "8.png")
    report = recorded.check()
    assert (report.ok, report.cause) == (False, "model")
    assert len(report.lines) == 4
    for part, said in (
        ("good/1.png", "picture file changed: sha256"),
        ("good/2.png", "nothing there"),
        ("good/8.png", "not in"),
        ("bad/3.png", "damaged file"),
    ):
        assert sum(part in line and said in line for line in report.lines) == 1, report.lines


def test_a_part_that_the_model_never_judged_right_is_not_ok_at_the_first_and_at_every_check(
    folder: Path, detector: Detector
) -> None:
    save(surface(4), folder / "bad" / "4.png")
    save(scratched(5), folder / "good" / "5.png")
    first, later = Golden(folder, detector).check(), Golden(folder, detector).check()
    for report in (first, later):
        assert (report.ok, report.cause) == (False, "none")
        assert any(line.startswith("bad/4.png: known bad, judged OK: score") for line in report.lines)
        assert any(line.startswith("good/5.png: known good, judged NG: score") for line in report.lines)


def test_a_frame_of_a_good_part_under_the_same_camera_is_ok(recorded: Golden) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (SIZE, SIZE, 3))
    frame = np.clip(moved(surface(2), 1, 0) * 1.03 + noise, 0, 255).astype(np.uint8)
    report = recorded.check(frame)
    assert (report.ok, report.cause) == (True, "none")
    assert report.lines[1] == "camera as recorded: 1 fresh picture compared"


def test_more_light_less_focus_and_a_moved_camera_are_named_with_numbers(recorded: Golden) -> None:
    blurred = cv2.GaussianBlur(moved(surface(2), 12, -3), (0, 0), 1)
    frame = np.clip(blurred * 1.18, 0, 255).astype(np.uint8)
    report = recorded.check(frame)
    assert (report.ok, report.cause) == (False, "camera")
    line = report.lines[0]
    assert line.startswith("camera changed (frame against good/2.png): brightness +18 %, focus -")
    assert "shifted by 12, -3 px" in line


def test_each_change_alone_is_named_and_no_other(recorded: Golden) -> None:
    rgb = surface(1)
    cases = {
        "brightness -20 %": rgb * 0.8,
        "shifted by -9, 14 px": moved(rgb, -9, 14),
        "red +10 %": rgb * [1.15, 1.0, 1.0],
        "focus -": cv2.GaussianBlur(rgb, (0, 0), 1.0),
        "another part, or a turned one (likeness": np.ascontiguousarray(rgb[::-1]),
        "size 128x128 -> 64x64": rgb[::2, ::2],
        "nothing to see in it": np.full_like(rgb, 3),
    }
    for expected, pixels in cases.items():
        report = recorded.check(np.clip(pixels, 0, 255).astype(np.uint8))
        assert (report.ok, report.cause) == (False, "camera")
        assert expected in report.lines[0]
        if expected.startswith(("brightness", "shifted", "red")):
            assert report.lines[0].partition(": ")[2].count(", ") == expected.count(", "), report.lines[0]


def test_fresh_pictures_are_compared_with_their_own_part_and_judged_as_known(recorded: Golden, folder: Path) -> None:
    save(surface(1), folder / "fresh/good/1.jpg")
    save(scratched(3), folder / "fresh/bad/any name.png")
    report = recorded.check()
    assert (report.ok, report.lines[1]) == (True, "camera as recorded: 2 fresh pictures compared")

    old = save(surface(3), folder / "fresh/bad/3.png")  # the scratch is gone: the camera does not show it any more
    hours_ago = time.time() - 3 * 3600
    os.utime(old, (hours_ago, hours_ago))
    report = recorded.check()
    assert (report.ok, report.cause) == (False, "camera")
    assert report.lines[0].startswith("camera changed (fresh/bad/3.png, taken 3 h ago against bad/3.png): ")
    assert "known bad but judged OK" in report.lines[0]


def test_a_defect_that_fades_to_less_than_half_its_distance_is_said_before_it_is_missed(
    recorded: Golden, folder: Path
) -> None:
    faded = surface(3)
    faded[40:60, 50:54] = GREY + 75  # 3 units: still NG at 2, of 6.2 before
    save(faded, folder / "fresh/bad/3.png")
    report = recorded.check()
    assert report.cause == "camera"
    assert "score 6.2 -> 3" in report.lines[0]


def test_a_changed_model_is_the_cause_even_when_the_camera_changed_too(
    recorded: Golden, folder: Path, tmp_path: Path
) -> None:
    other = model(tmp_path / "other.onnx", score_scale=1.1)
    report = Golden(folder, other).check((surface(1) * 0.7).astype(np.uint8))
    assert report.cause == "model"
    assert "brightness -30 %" in report.lines[-1]
    assert "score" not in report.lines[-1]  # scores of two models cannot be compared


def test_a_folder_without_known_parts_of_both_kinds_is_refused(tmp_path: Path, detector: Detector) -> None:
    save(surface(1), tmp_path / "golden/good/1.png")
    for root, said in ((tmp_path / "golden", "got 1 in good/ and 0 in bad/"), (tmp_path / "none", "0 in good/")):
        with pytest.raises(GoldenError, match=said):
            Golden(root, detector)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 9}', '{"schema": 1}', '{"schema": 1, "parts": 3}'])
def test_a_damaged_record_is_one_line_that_says_how_to_go_on(folder: Path, detector: Detector, text: str) -> None:
    (folder / "golden.json").write_text(text)
    with pytest.raises(GoldenError, match="delete it to record anew") as error:
        Golden(folder, detector)
    assert "\n" not in str(error.value)


def test_what_cannot_be_recorded_is_refused_and_leaves_nothing(folder: Path, detector: Detector) -> None:
    (folder / "good" / "1.png").write_bytes(b"no picture")
    with pytest.raises(GoldenError, match=r"good/1\.png"):
        Golden(folder, detector).check()
    save(surface(1), folder / "good" / "1.png")
    (folder / "golden.json").mkdir()
    with pytest.raises(GoldenError, match=r"golden\.json"):
        Golden(folder, detector).check()
    assert sorted(p.name for p in folder.iterdir()) == ["bad", "golden.json", "good"]


def test_shifts_are_in_pixels_of_the_source() -> None:
    spec = Input("image", SIZE // 2, SIZE // 2, "rgb", "area-linear", "stretch", None)
    rgb = surface(6)
    reference = Fitted.of(rgb, spec)
    untouched = reference.grey.copy()
    for dx, dy in ((12, -3), (-25, 30), (1, 0), (0, 0)):
        found = shift(reference, Fitted.of(moved(rgb, dx, dy), spec))
        assert found is not None
        assert (found.x, found.y) == pytest.approx((dx, dy), abs=1)
        assert found.likeness > 0.8
    np.testing.assert_array_equal(reference.grey, untouched)


def test_light_alone_does_not_change_focus_or_contrast() -> None:
    spec = Input("image", SIZE, SIZE, "rgb", "area-linear", "stretch", None)
    before = Fitted.of(surface(7), spec).view()
    brighter = Fitted.of((surface(7) * 1.5).astype(np.uint8), spec).view()
    assert changes(before, brighter) == ["brightness +50 %"]
