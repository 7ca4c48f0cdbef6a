"""The detector: what it refuses, and what it says about a picture."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from tiny_model import bad, good, make_card, write_model

from vtad_runtime import Detector, ImageError, ModelError, Verdict
from vtad_runtime.contract.fit import place
from vtad_runtime.engine.integrity import write_sealed
from vtad_runtime.verdict.detector import find_regions
from vtad_runtime.verdict.explanation import Explanation, Maps
from vtad_runtime.verdict.verdict import decide


def test_a_good_part_is_ok_and_has_no_region(tmp_path: Path) -> None:
    result = Detector(write_model(tmp_path / "m.onnx"))(good())
    assert (result.verdict, result.score, result.p_value, result.regions) == (Verdict.OK, 0.0, 1.0, ())
    assert result.heatmap.shape == (64, 64)


def test_a_bright_square_is_ng_with_a_box_at_its_place(tmp_path: Path) -> None:
    result = Detector(write_model(tmp_path / "m.onnx"))(bad(x=16, y=24, size=8))
    assert result.verdict is Verdict.NG
    assert result.score == pytest.approx(155 / 25)
    assert result.p_value == 1 / 20
    (region,) = result.regions
    assert abs(region.x - 16) <= 1
    assert abs(region.y - 24) <= 1
    assert abs(region.width - 8) <= 2
    assert abs(region.height - 8) <= 2
    assert region.peak == pytest.approx(155 / 25)
    assert region.seen_by == "both"


def test_regions_come_in_source_pixels_strongest_first_and_name_their_map(tmp_path: Path) -> None:
    rgb = good(640, 320)
    rgb[40:80, 100:200] = (100, 200, 100)  # green: the tiny model's density map sees red only
    rgb[200:240, 400:500] = 255
    results = Detector(write_model(tmp_path / "m.onnx", make_card(64, 32)))(rgb).regions
    assert [r.seen_by for r in results] == ["both", "ssim"]
    assert [(r.x, r.y, r.width, r.height) for r in results] == [
        pytest.approx((400, 200, 100, 40), abs=10),
        pytest.approx((100, 40, 100, 40), abs=10),
    ]


def with_pixel_threshold(tmp_path: Path, level: float) -> Detector:
    card = make_card()
    calibration = dataclasses.replace(card.calibration, pixel_threshold=level)
    return Detector(write_model(tmp_path / "m.onnx", dataclasses.replace(card, calibration=calibration)))


def test_picture_and_verdict_agree(tmp_path: Path) -> None:
    """OK: no box, however low the pixel threshold. NG: the part that made it so, however high."""
    faint = good(32, 32)
    faint[8:16, 8:16] += 45  # 1.8 of 2
    assert with_pixel_threshold(tmp_path, 0.5)(faint).verdict == "OK"
    assert with_pixel_threshold(tmp_path, 0.5)(faint).regions == ()
    odd = good(32, 32)
    odd[8:16, 8:16] += 60  # 2.4
    result = with_pixel_threshold(tmp_path, 50.0)(odd)
    assert result.verdict == "NG"
    (region,) = result.regions
    assert (region.x, region.y, region.width, region.height) == (8, 8, 8, 8)
    assert region.peak == pytest.approx(2.4)


def test_diagonal_neighbours_are_one_region(tmp_path: Path) -> None:
    rgb = good(32, 32)
    rgb[4, 4] = rgb[5, 5] = 255
    (region,) = Detector(write_model(tmp_path / "m.onnx"))(rgb).regions
    assert (region.width, region.height, region.area) == (2, 2, 2)


def test_maps_come_back_through_region_of_interest_and_letterbox(tmp_path: Path) -> None:
    card = make_card(32, 32, fit="letterbox", roi=(100, 50, 128, 64))
    rgb = good(400, 300)
    rgb[66:82, 132:148] = 255
    rgb[0:40, 0:40] = 255  # outside the region of interest
    result = Detector(write_model(tmp_path / "m.onnx", card))(rgb)
    (region,) = result.regions
    assert (region.x, region.y, region.width, region.height) == pytest.approx((132, 66, 16, 16), abs=4)
    assert result.heatmap.shape == (300, 400)
    assert result.heatmap[:50].max() == 0


def test_a_batch_gives_what_each_picture_gives_alone(tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "m.onnx"))
    pictures = [good(), bad(), bad(100, 80, 3, 4)] * 25  # more than the export's batch of 64
    together = detector.batch(pictures)
    for picture, result in zip(pictures, together, strict=True):
        alone = detector(picture)
        assert (alone.score, alone.regions) == (result.score, result.regions)
        np.testing.assert_array_equal(alone.ssim_map, result.ssim_map)
    assert detector.batch([]) == []


def test_the_reconstruction_is_a_picture_of_the_models_size(tmp_path: Path) -> None:
    result = Detector(write_model(tmp_path / "m.onnx"))(good())
    assert result.reconstruction.shape == (32, 32, 3)
    assert (result.reconstruction == 100).all()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_a_model_has_at_most_one_thread_a_core_however_many_are_asked_for(tmp_path: Path) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    detector = Detector(write_model(tmp_path / "m.onnx"), threads=50 + (os.cpu_count() or 1))
    assert threads() - before < (os.cpu_count() or 1) + 10
    assert detector(good()).verdict == "OK"


def test_a_file_is_judged_like_its_pixels(tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "m.onnx"))
    Image.fromarray(bad()).save(tmp_path / "bad.png")
    assert detector.file(tmp_path / "bad.png").score == detector(bad()).score
    with pytest.raises(ImageError, match="nothing there"):
        detector.file(tmp_path / "none.png")


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
        [[0]],
    ],
)
def test_what_is_no_rgb_picture_is_refused(tmp_path: Path, rgb: Any) -> None:
    with pytest.raises(ValueError, match=r"expected an RGB array \(H, W, 3\) of uint8, got"):
        Detector(write_model(tmp_path / "m.onnx"))(rgb)


@pytest.mark.parametrize(("score", "verdict"), [(2.0, "OK"), (np.nextafter(2.0, 3.0), "NG"), (-1.0, "OK")])
def test_ng_if_and_only_if_the_score_is_above_the_threshold(score: float, verdict: str) -> None:
    assert decide(make_card().calibration, score) == verdict


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_an_error_never_ok(score: float) -> None:
    assert decide(make_card().calibration, score) is Verdict.ERROR


def test_a_threshold_that_is_not_finite_is_an_error_never_ok() -> None:
    calibration = dataclasses.replace(make_card().calibration, threshold=math.inf)
    assert decide(calibration, 0.0) is Verdict.ERROR


def test_a_model_that_gives_nan_says_error(tmp_path: Path) -> None:
    result = Detector(write_model(tmp_path / "m.onnx", score_scale=math.nan))(good())
    assert result.verdict is Verdict.ERROR
    assert math.isnan(result.p_value)
    assert result.error == "expected a finite score, got nan"


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Detector(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").touch()
    assert "got nothing there" in refused(tmp_path / "none.onnx")
    assert "got a folder" in refused(tmp_path)
    assert "expected an ONNX model" in refused(tmp_path / "text.onnx")
    assert "expected an ONNX model" in refused(tmp_path / "empty.onnx")


def test_a_model_without_a_card_is_refused_and_described(tmp_path: Path) -> None:
    message = refused(write_model(tmp_path / "m.onnx", text=""))
    assert "got an ONNX model without one (producer tiny, inputs image tensor(uint8)" in message


def test_a_card_of_another_schema_or_damaged_is_refused(tmp_path: Path) -> None:
    other = make_card().to_json().replace('"schema": 3', '"schema": 99')
    assert "expected a vtad card of schema 3, 2 or 1, got 99" in refused(write_model(tmp_path / "a.onnx", text=other))
    assert "text that does not parse" in refused(write_model(tmp_path / "b.onnx", text="{"))


@pytest.mark.parametrize("threshold", ["NaN", "Infinity"])
def test_a_threshold_that_would_pass_everything_is_refused(tmp_path: Path, threshold: str) -> None:
    text = re.sub(r'"threshold": [\d.]+', f'"threshold": {threshold}', make_card().to_json())
    assert "finite thresholds" in refused(write_model(tmp_path / "m.onnx", text=text))


def test_a_graph_that_is_not_the_cards_is_refused(tmp_path: Path) -> None:
    other_size = make_card(16, 32).to_json()
    assert "expected one input image" in refused(write_model(tmp_path / "a.onnx", text=other_size))
    other_name = make_card(name="x").to_json()
    assert "expected one input x" in refused(write_model(tmp_path / "b.onnx", text=other_name))
    assert "expected one input" in refused(write_model(tmp_path / "c.onnx", batch=1))
    assert "expected float outputs" in refused(write_model(tmp_path / "d.onnx", drop="density_map"))
    lacking = dataclasses.replace(make_card(), outputs=make_card().outputs[1:]).to_json()
    assert "expected float outputs" in refused(write_model(tmp_path / "e.onnx", text=lacking))


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")

    def damage(output: str) -> None:
        model = onnx.load(path)
        next(n for n in model.graph.node if n.output[0] == output).op_type = "NoSuchOperator"
        onnx.save(model, path)
        write_sealed(path, make_card())

    damage("reconstruction")
    result = Detector(path)(good())  # does not need it
    with pytest.raises(ModelError, match="onnxruntime refuses"):
        result.reconstruction  # noqa: B018 - looking is what is tested
    damage("heatmap")
    assert "onnxruntime refuses" in refused(path)


def test_importing_the_package_or_the_pixel_path_takes_no_runtime_and_no_torch() -> None:
    code = (
        "import sys, vtad_runtime; assert 'onnxruntime' not in sys.modules and 'cv2' not in sys.modules;"
        "import vtad_runtime.contract.card, vtad_runtime.contract.image; assert 'onnxruntime' not in sys.modules;"
        "import vtad_runtime.verdict.detector, vtad_runtime.line.run, vtad_runtime.commands.run, vtad_runtime.review.replay_run;"
        "bad = {'torch', 'onnx', 'vtad', 'scipy', 'sklearn'} & sys.modules.keys(); assert not bad, bad;"
        "from vtad_runtime import Detector; assert Detector is vtad_runtime.verdict.detector.Detector"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("roi", [None, (1000, 2000, 9000, 6000)])
def test_regions_of_a_huge_picture_take_no_more_than_those_of_a_small_one(
    roi: tuple[int, int, int, int] | None,
) -> None:
    placement = place(13_300, 13_301, make_card(64, 64, roi=roi).input)
    values = np.zeros((64, 64), np.float32)
    values[16:32, 48:64] = 5
    values[0, 0] = 4
    explanation = Explanation.of(Maps(values, values, np.zeros((64, 64, 3), np.uint8)))
    tracemalloc.start()
    strong, weak = find_regions(values, explanation, placement, 3.0)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    x, y, width, height = roi or (0, 0, 13_300, 13_301)
    assert (strong.x, strong.y) == (x + width * 48 // 64, y + height * 16 // 64)
    assert (strong.x + strong.width, strong.y + strong.height) == (x + width, y + math.ceil(height * 32 / 64))
    assert strong.area == pytest.approx(width * height / 16, rel=1e-6)
    assert (weak.x, weak.y, strong.peak, weak.peak) == (x, y, 5, 4)
