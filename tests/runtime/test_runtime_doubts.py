"""What makes a frame UNSURE, what comes before what, when an alarm is on, what a mask silences."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_camera import Pixels
from PIL import Image
from tiny_model import GREY, THRESHOLD, bad, good, write_model

from vtad_runtime import Detector, Verdict
from vtad_runtime.contract.card import ScoreRule
from vtad_runtime.contract.image import ImageError
from vtad_runtime.verdict.alarm import Alarm, AlarmRule
from vtad_runtime.verdict.frame_check import FOCUS_FLOOR, FOCUS_FRAMES, FrameChecks, sharpness
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame
from vtad_runtime.verdict.mask import Mask
from vtad_runtime.verdict.score import top_score
from vtad_runtime.verdict.verdict import conclude

OK, NG, UNSURE, STALE, ERROR = Verdict.OK, Verdict.NG, Verdict.UNSURE, Verdict.STALE, Verdict.ERROR


def textured(seed: int = 0, size: int = 256) -> Pixels:
    """A surface with detail at every scale, and a sensor's noise."""
    rng = np.random.default_rng(seed)
    grey = np.full((size, size), 128.0)
    for cells in (8, 16, 32, 64, 128):
        grey += cv2.resize(rng.normal(0, 18, (cells, cells)), (size, size), interpolation=cv2.INTER_CUBIC)
    grey += rng.normal(0, 1.5, grey.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def looks(checks: FrameChecks, pictures: list[Pixels], step_s: float = 0.5) -> list[str | None]:
    return [checks.look(p, p, i * step_s) for i, p in enumerate(pictures)]


def test_the_same_pixels_for_three_seconds_are_frozen_and_noise_is_not() -> None:
    said = looks(FrameChecks(), [textured()] * 8)
    assert said[:6] == [None] * 6
    assert said[6] == "frozen picture: the same pixels for 3.0 s, 7 frames"
    assert looks(FrameChecks(), [textured(i) for i in range(8)]) == [None] * 8
    one_pixel = [textured() for _ in range(8)]
    for i, picture in enumerate(one_pixel):
        picture[101, 57] = i
    assert looks(FrameChecks(), one_pixel) == [None] * 8


def test_a_frozen_picture_takes_several_frames_however_far_apart() -> None:
    assert looks(FrameChecks(), [textured()] * 2, step_s=60) == [None, None]
    assert looks(FrameChecks(), [textured()] * 3, step_s=60)[2] is not None


def test_black_and_saturated_pictures_are_said_with_numbers() -> None:
    noise = np.random.default_rng(0).integers(0, 10, (64, 64, 3), dtype=np.uint8)
    assert (FrameChecks().look(noise, noise, 0) or "").startswith("black picture: 100.0% of the pixels below 12")
    assert (FrameChecks().look(np.asarray(255 - noise // 4, np.uint8), noise, 0) or "").startswith(
        "saturated picture: 100.0% of the pixels"
    )
    lit = noise.copy()
    lit[:16] = 128  # a quarter is lit
    assert FrameChecks().look(lit, lit, 0) is None
    assert FrameChecks().look(good(), good(), 0) is None
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[:, :, 2] = 200  # blue is not black
    assert FrameChecks().look(colour, colour, 0) is None


def test_a_wildly_defocused_picture_is_said_from_the_first_frame_on() -> None:
    sharp = textured()
    edge = np.full((256, 256, 3), 60, np.uint8)
    edge[64:192, 64:192] = 200
    for picture in (sharp, edge):
        assert FrameChecks().look(picture, picture, 0) is None
    blurred = np.asarray(cv2.GaussianBlur(edge, (0, 0), 12), np.uint8)
    assert "out of focus" in (FrameChecks().look(blurred, blurred, 0) or "")


def test_focus_is_also_held_against_the_sources_own_frames_which_the_distrusted_do_not_change() -> None:
    checks = FrameChecks()
    assert looks(checks, [textured(i) for i in range(FOCUS_FRAMES)]) == [None] * FOCUS_FRAMES
    soft = [np.asarray(cv2.GaussianBlur(textured(1000 + i), (0, 0), 4), np.uint8) for i in range(3)]
    for i in range(300):
        assert "usually" in (checks.look(soft[i % 3], soft[i % 3], 100 + i) or "")
    assert min(sharpness(p) or 0 for p in soft) > FOCUS_FLOOR  # the floor alone would let them pass
    assert checks.look(textured(99), textured(99), 1000) is None


def test_plain_and_tiny_pictures_say_nothing_of_focus() -> None:
    assert sharpness(good(256, 256)) is None
    assert sharpness(bad(32, 32)) is None
    noise: Pixels = np.random.default_rng(0).normal(128, 2, (256, 256, 3)).astype(np.uint8)
    assert FrameChecks().look(noise, noise, 0) is None


def test_only_the_checks_asked_for_are_made() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    assert FrameChecks(frozenset({"saturated", "focus"})).look(black, black, 0) is None


def test_the_order_of_verdicts() -> None:
    every = {"late": "late", "doubt": "black", "unsure_from": 1.0}
    assert conclude(math.nan, 2.0, **every)[0] is ERROR  # type: ignore[arg-type]
    assert conclude(3.0, 2.0, error="no maps", **every) == (ERROR, "no maps")  # type: ignore[arg-type]
    assert conclude(3.0, 2.0, **every) == (STALE, "late; its score is NG")  # type: ignore[arg-type]
    assert conclude(3.0, 2.0, doubt="black", unsure_from=1.0) == (UNSURE, "black; its score is NG")
    assert conclude(3.0, 2.0, unsure_from=1.0) == (NG, None)
    assert conclude(2.0, 2.0) == (OK, None)
    assert conclude(1.5, 2.0, unsure_from=1.0)[0] is UNSURE
    assert conclude(1.0, 2.0, unsure_from=1.0) == (OK, None)


@pytest.mark.parametrize(
    ("score", "threshold"), [(3.0, 2.0), (math.nan, 2.0), (math.inf, 2.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_nothing_becomes_ok_that_the_score_did_not_call_ok(score: float, threshold: float) -> None:
    for late in (None, "late"):
        for doubt in (None, "black"):
            assert conclude(score, threshold, late=late, doubt=doubt, unsure_from=1.0)[0] is not OK


def alarms(rule: AlarmRule, *scores: float) -> list[bool]:
    alarm = Alarm(rule)
    return [alarm.add(NG if score > rule.on else OK, score) for score in scores]


def test_at_least_three_of_the_last_five() -> None:
    rule = AlarmRule(3, 5, on=2.0, off=2.0)
    assert alarms(rule, 3, 0, 3, 0, 3, 0, 0) == [False, False, False, False, True, False, False]
    assert alarms(rule, 3, 3, 3, 0, 0, 0) == [False, False, True, True, True, False]
    assert alarms(AlarmRule(1, 1, 2.0, 2.0), 0, 3, 0) == [False, True, False]


def test_a_second_threshold_keeps_it_from_flickering() -> None:
    wavering = [2.1, 2.1, 1.9, 2.1, 1.9, 2.1, 1.9]
    assert alarms(AlarmRule(2, 2, 2.0, 2.0), *wavering) == [False, True, False, False, False, False, False]
    assert alarms(AlarmRule(2, 2, 2.0, 1.0), *wavering) == [False] + [True] * 6
    assert alarms(AlarmRule(2, 2, 2.0, 1.0), 2.1, 2.1, 0.5) == [False, True, False]


@pytest.mark.parametrize(("verdict", "score"), [(ERROR, math.nan), (STALE, 0.0), (UNSURE, 0.0), (ERROR, 5.0)])
def test_what_was_not_judged_neither_raises_nor_clears_an_alarm(verdict: Verdict, score: float) -> None:
    alarm = Alarm(AlarmRule(2, 3, 2.0, 2.0))
    assert [alarm.add(NG, 3), alarm.add(NG, 3)] == [False, True]
    assert all(alarm.add(verdict, score) for _ in range(20))
    quiet = Alarm(AlarmRule(1, 1, 2.0, 2.0))
    assert not quiet.add(verdict, score)


def test_a_score_that_is_ng_counts_for_the_alarm_also_when_the_frame_is_distrusted() -> None:
    alarm = Alarm(AlarmRule(2, 2, 2.0, 2.0))
    assert [alarm.add(UNSURE, 3), alarm.add(STALE, 3)] == [False, True]


def masked(tmp_path: Path, *boxes: tuple[int, int, int, int], size: int = 64) -> Path:
    """A mask that is black but for these boxes x, y, width, height."""
    mask = np.zeros((size, size), np.uint8)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = 255
    path = tmp_path / "mask.png"
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return Detector(write_model(tmp_path / "m.onnx"), threads=1)


def test_what_lies_outside_a_mask_raises_no_alarm_and_what_lies_inside_does(tmp_path: Path, detector: Detector) -> None:
    defect = bad(x=16, y=16, size=16)  # a whole cell of the tiny model
    for box, verdict in (((32, 0, 32, 64), OK), ((0, 0, 48, 64), NG)):
        mask = Mask(masked(tmp_path, box), Geometry(), detector.card)
        result = mask.apply(detector(defect))
        assert (result.verdict, len(result.regions)) == (verdict, 1 if verdict is NG else 0)
        assert (result.score > THRESHOLD) == (verdict is NG)
    assert mask.apply(detector(good())).verdict is OK


def test_a_mask_never_raises_a_score(tmp_path: Path, detector: Detector) -> None:
    rng = np.random.default_rng(0)
    mask = Mask(masked(tmp_path, (8, 8, 30, 40)), Geometry(), detector.card)
    for _ in range(20):
        blocks = rng.integers(GREY - 60, GREY + 60, (4, 4, 3)).astype(np.uint8)
        result = detector(blocks.repeat(16, axis=0).repeat(16, axis=1))
        assert mask.apply(result).score <= result.score


def test_a_mask_is_drawn_on_the_whole_frame_and_follows_the_geometry(tmp_path: Path, detector: Detector) -> None:
    geometry = Geometry((0, 0, 64, 32), 180)
    mask = Mask(masked(tmp_path, (0, 0, 32, 64)), geometry, detector.card)
    left, right = bad(x=0, y=0, size=16), bad(x=48, y=0, size=16)
    flat = Detector(detector.path, threads=1)
    assert mask.apply(flat(geometry.apply(left))).verdict is NG
    assert mask.apply(flat(geometry.apply(right))).verdict is OK


def test_a_mask_that_cannot_be_applied_is_an_error_never_ok(tmp_path: Path, detector: Detector) -> None:
    mask = Mask(masked(tmp_path, (0, 0, 64, 64)), Geometry(), detector.card)
    judge = Judge("camera 0", detector, Rules(mask=mask))
    for rgb, said in (
        (good(32, 32), "got 32x32"),
        (bad(size=4), "cannot be masked"),  # its score is the highest pixel: not what exported models do
    ):
        (judgement,) = judge.judge([Frame(1, 0.0, 0.0, 0.0, 0, rgb)])
        assert (judgement.verdict, judgement.misfit) == (ERROR, True)
        assert "--roi-mask" in (judgement.reason or "")
        assert said in (judgement.reason or "")
    with pytest.raises(ImageError, match="a part that is not black"):
        Mask(masked(tmp_path), Geometry(), detector.card)


def test_the_score_is_taken_as_exported_models_take_it() -> None:
    heatmap = np.zeros((256, 256), np.float32)
    heatmap[:8, :96] = np.arange(1, 13).repeat(8)
    assert top_score(heatmap, ScoreRule(cell=8, top_share=0.01)) == pytest.approx(
        np.arange(3, 13).mean()
    )  # 10 of 1024 cells
