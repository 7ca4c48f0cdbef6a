"""vtad-calibrate: a new threshold from the line's own good pictures, the same weights, and what the pictures vouch for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny_model import GREY, UNIT, bad, good, make_card, write_model

from vtad_runtime.commands import calibrate as calibrate_cli
from vtad_runtime.commands import run as run_cli
from vtad_runtime.contract.card import ONNX_KEY
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.threshold.conformal import MARGIN, CalibrationError, conformal_threshold, images_needed
from vtad_runtime.engine.card_entry import replace_card
from vtad_runtime.engine.opening import newest_model
from vtad_runtime.engine.wire import DamagedError
from vtad_runtime.review.calibrate_run import calibrate_run
from vtad_runtime.review.recalibration import Asked, Judged, new_card
from vtad_runtime.verdict.detector import Detector

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(run_cli.__file__).parents[2])}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model() -> Path:
    return write_model(Path("runs/tiny/1/export/tiny.onnx"))


def save(rgb: np.ndarray[Any, Any], path: str | Path) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(file)
    return file


def line(levels: list[int], folder: str = "line") -> list[float]:
    """Pictures of good parts whose brightest spot is so many grey levels off; their scores."""
    for i, level in enumerate(levels):
        rgb = good(32, 32)
        rgb[5, i % 32] = GREY + level
        save(rgb, f"{folder}/{i:03d}.png")
    return [level / UNIT for level in levels]


def calibrate(*arguments: str) -> Result:
    result = CliRunner().invoke(calibrate_cli.calibrate, list(arguments))
    assert "Traceback" not in result.output
    return result


def failed(exit_code: int, *arguments: str) -> str:
    result = calibrate(*arguments)
    assert result.exit_code == exit_code, result.output
    (error,) = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    return error


def test_the_new_file_judges_by_the_lines_own_scores(model: Path) -> None:
    scores = line([20, 45, 60, 62, 63, 64, 65, 66, 67, 68, 69, 70])
    before = model.read_bytes()
    assert Detector(model).file("line/002.png").verdict == "NG"  # the line is not the training's: 2.4 against 2
    result = calibrate("--model", str(model), "--good", "line", "--false-alarms", "0.1")
    assert result.exit_code == 0, result.output
    written = Path("runs/tiny/1/export/tiny-calibrated.onnx")
    assert model.read_bytes() == before
    found = Detector(written)
    c = found.card.calibration
    assert c.scores == pytest.approx(sorted(scores))
    assert (c.images, c.false_alarms, c.achievable) == (12, 0.1, 0.1)
    level = 70 / UNIT  # the largest: 13 x 0.1 allows one
    assert c.threshold == pytest.approx(level + MARGIN * float(np.std(scores)))
    assert c.pixel_threshold == pytest.approx(c.threshold)  # this model's score is its heatmap's maximum
    assert found.file("line/011.png").verdict == "OK"
    assert found(bad()).verdict == "NG"
    assert "threshold 2 -> 2.827" in result.stdout
    assert result.stdout.splitlines()[-1] == f"written: {written}"


def test_every_byte_but_the_cards_entry_stays(model: Path) -> None:
    onnx = pytest.importorskip("onnx")
    line(list(range(20)))
    new = calibrate_run(model, Path("line"), Asked(false_alarms=0.1), Path("new.onnx"))
    before, after = onnx.load(str(model)), onnx.load("new.onnx")
    onnx.checker.check_model(after)
    assert {p.key: p.value for p in after.metadata_props} == {ONNX_KEY: new.to_json()}
    for proto in (before, after):
        del proto.metadata_props[:]
    assert before == after
    assert before.SerializeToString() == after.SerializeToString()
    card = Detector(model).card.to_json().encode()
    old_bytes, new_bytes = model.read_bytes(), Path("new.onnx").read_bytes()
    start, text = old_bytes.index(card), new.to_json().encode()
    assert old_bytes[start + len(card) :] == new_bytes[new_bytes.index(text) + len(text) :]
    assert old_bytes.startswith(new_bytes[: new_bytes.index(text) - 64])  # up to the lengths in front of it


def test_entries_of_others_around_the_card_stay_where_they_are(tmp_path: Path) -> None:
    """Key and value in either order, other entries before and after, a card longer than 127 and 16383 bytes."""

    def field(number: int, value: bytes) -> bytes:
        length, size = b"", len(value)
        while size >= 128:
            length, size = length + bytes([size % 128 + 128]), size // 128
        return bytes([number << 3 | 2]) + length + bytes([size]) + value

    other = field(14, field(1, b"author") + field(2, b"someone"))
    head, tail = b"\x08\x0a" + field(7, b"\x00weights" * 5000) + other, other + field(2, b"tiny") + b"\x28\x80\x01"
    key, value = field(1, ONNX_KEY.encode()), field(2, b"old card")
    source, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for entry in (key + value, value + key):
        source.write_bytes(head + field(14, entry) + tail)
        for text in ("{}", "x" * 300, "é" * 20000):
            replace_card(source, text, out)
            assert out.read_bytes() == head + field(14, key + field(2, text.encode())) + tail


def test_files_that_are_not_one_onnx_message_with_one_card_are_one_line(model: Path) -> None:
    whole, out = model.read_bytes(), Path("out.onnx")
    without = write_model(Path("without.onnx"), text="").read_bytes()
    entry = whole[len(without) - len(whole) :]
    assert entry[:1] == b"\x72"  # the entry is last, field 14
    cases = {
        "got 0": without,
        "got 2": whole + entry,
        "damaged at byte": whole[:-5],
        "damaged": b"<html>not found</html>",
        "damaged at byte ": whole + b"\xff" * 11,
    }
    for said, data in cases.items():
        Path("damaged.onnx").write_bytes(data)
        with pytest.raises(DamagedError, match=said) as error:
            replace_card(Path("damaged.onnx"), "{}", out)
        assert "\n" not in str(error.value)


def test_results_measured_at_the_old_threshold_go_and_the_proof_of_the_graph_stays(model: Path) -> None:
    line(list(range(10)))
    result = calibrate("--good", "line", "--false-alarms", "0.2")
    card, old = Detector("runs/tiny/1/export/tiny-calibrated.onnx").card, make_card()
    assert card.results is None
    assert "results on the card dropped" in result.stdout
    assert (card.parity, card.weights_sha256, card.identity) == (old.parity, old.weights_sha256, old.identity)


def test_it_says_how_many_more_pictures_a_budget_needs(model: Path) -> None:
    line(list(range(40)))
    short = calibrate("--good", "line", "--false-alarms", "0.005", "--out", "a.onnx")
    assert "40 good pictures vouch for 2.44 % false alarms at best; 0.5 % needs 199, 159 more" in short.stdout
    assert Detector("a.onnx").card.calibration.achievable == pytest.approx(1 / 41)
    enough = calibrate("--good", "line", "--false-alarms", "0.05", "--out", "b.onnx")
    assert "40 good pictures vouch for the 5 % asked for" in enough.stdout
    assert "a budget of 2.5 %" not in enough.stdout  # it needs 39
    assert "a budget of 1 % needs 99, 59 more" in enough.stdout


def test_bad_parts_among_the_good_are_named_largest_first_with_what_they_do_to_the_threshold(model: Path) -> None:
    line([*range(10, 30), 150, 140])
    result = calibrate("--good", "line", "--false-alarms", "0.05", "--threshold-rule", "guaranteed")
    assert result.exit_code == 0
    odd = [text for text in result.stderr.splitlines() if text.startswith("odd among the good")]
    assert [text.split()[-3:] for text in odd] == [["line/020.png", "score", "6"], ["line/021.png", "score", "5.6"]]
    assert "without the odd ones the threshold would be 1.172" in result.stderr
    line(list(range(10, 30)), "clean")
    assert "odd" not in calibrate("--good", "clean", "--out", "c.onnx").output


@pytest.mark.parametrize("chosen", [("--threshold", "3"), ("--max-misses", "0.1", "--bad", "bad")])
def test_nothing_is_said_of_a_budget_by_which_no_threshold_is_chosen(model: Path, chosen: tuple[str, ...]) -> None:
    line([*range(10, 30), 150, 140])
    spots(list(range(200, 250)), "bad")
    result = calibrate("--good", "line", *chosen)
    assert result.exit_code == 0, result.output
    assert "odd among the good, is it a bad part?: line/020.png score 6" in result.stderr
    assert "without the odd ones" not in result.stderr
    assert "vouch for" not in result.stdout
    assert "of these good pictures it calls NG: " in result.stdout


def test_skewed_scores_name_no_picture_as_odd(model: Path) -> None:
    line([10] * 20 + [11, 12, 40, 50, 60, 70, 80])
    result = calibrate("--good", "line", "--false-alarms", "0.05")
    assert result.exit_code == 0
    assert "odd" not in result.stderr


def test_a_budget_that_no_detector_can_use_is_one_line() -> None:
    judged = [Judged(Path(f"{i}.png"), i / 10, i / 10 - 1, bytes([i])) for i in range(30)]
    with pytest.raises(
        CalibrationError, match=r"^--false-alarms: a budget of 0.9 gives a threshold of 0.3\d+ and a pixel"
    ):
        new_card(make_card(), judged, [], Asked(false_alarms=0.9))


def test_copies_count_once_and_unreadable_pictures_are_named(model: Path) -> None:
    line(list(range(5)))
    Path("line/again.png").write_bytes(Path("line/003.png").read_bytes())
    Path("line/torn.png").write_bytes(Path("line/003.png").read_bytes()[:60])
    os.mkfifo("line/pipe.png")  # nobody ever writes to it
    result = calibrate("--good", "line")
    assert result.exit_code == 0
    assert "left out, a copy of another picture: line/again.png" in result.stderr
    assert "left out: line/torn.png" in result.stderr
    assert "left out: line/pipe.png: expected a readable picture file, got no plain file" in result.stderr
    assert Detector("runs/tiny/1/export/tiny-calibrated.onnx").card.calibration.images == 5


def test_nothing_is_ever_written_over(model: Path) -> None:
    line(list(range(5)))
    assert "tiny.onnx: expected a new file" in failed(2, "--good", "line", "--out", str(model))
    assert calibrate("--good", "line", "--out", "new.onnx").exit_code == 0
    assert "new.onnx: expected a new file to write to, got one that exists; name another by --out" in failed(
        2, "--good", "line", "--out", "new.onnx"
    )
    with pytest.raises(VtadError, match="expected a new file"):
        calibrate_run(model, Path("line"), Asked(false_alarms=0.1), Path("new.onnx"))


def test_wrong_input_is_one_line_and_leaves_nothing(model: Path) -> None:
    line([1, 2])
    Path("empty").mkdir()
    Path("pill.mlpackage").mkdir()
    write_model(Path("pill.onnx"))
    assert "expected at least 3 good images to calibrate, got 2" in failed(2, "--good", "line")
    assert "expected pictures" in failed(2, "--good", "empty")
    assert "nothing there" in failed(2, "--good", "nowhere")
    assert "nothing there" in failed(2, "--good", "line", "--model", "none.onnx")
    assert "calibrate its ONNX fallback (--model pill.onnx)" in failed(2, "--good", "line", "--model", "pill.mlpackage")
    Path("pill-int8.mlpackage").mkdir()
    assert "(--model pill.onnx)" in failed(2, "--good", "line", "--model", "pill-int8.mlpackage")
    assert "ends with .onnx" in failed(2, "--good", "line", "--out", "new.bin")
    for budget in ("0", "1", "5"):
        assert calibrate("--good", "line", "--false-alarms", budget).exit_code == 2
    assert not list(Path().rglob("*calibrated*"))
    assert not list(Path().rglob("*.part"))


def test_a_place_that_takes_no_file_is_4_and_leaves_nothing(model: Path) -> None:
    line(list(range(5)))
    Path("file").write_text("")
    assert "file/new.onnx: could not be written" in failed(4, "--good", "line", "--out", "file/new.onnx")
    assert not list(Path().rglob("*.part"))


@pytest.mark.parametrize("asked", ["--good line --bad missing", "--good line --out line/g.png/new.onnx"])
def test_what_can_fail_is_looked_at_before_a_picture_is_judged(
    model: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line([100] * 20)
    save(good(), "line/g.png")
    monkeypatch.setattr("vtad_runtime.review.calibrate_run.judge_pictures", lambda *_: pytest.fail("they were judged"))
    failed(4 if "--out" in asked else 2, *asked.split())


def test_without_a_model_the_newest_export_is_taken_and_the_new_file_is_the_newest_then(model: Path) -> None:
    os.utime(model, (time.time() - 60,) * 2)
    line(list(range(5)))
    result = calibrate("--good", "line")
    assert f"model: {model}, the newest export" in result.stdout
    assert "vtad-run without --model takes it from now on" in result.stdout
    assert newest_model().name == "tiny-calibrated.onnx"
    for name in ("tiny-calibrated-2.onnx", "tiny-calibrated-3.onnx"):
        assert calibrate("--good", "line").exit_code == 0
        assert newest_model().name == name


def test_a_score_that_is_no_number_is_refused_by_name() -> None:
    broken = write_model(Path("nan.onnx"), score_scale=float("nan"))
    line(list(range(5)))
    with pytest.raises(CalibrationError, match=r"line/000\.png: expected a finite score, got nan"):
        calibrate_run(broken, Path("line"), Asked(), Path("new.onnx"))
    assert not Path("new.onnx").exists()


def test_the_rule_in_literal_numbers() -> None:
    scores = np.random.default_rng(0).gamma(2.0, size=60).tolist()
    ordered = sorted(scores)
    halfway = (ordered[-3] + ordered[-2]) / 2  # floor(0.05 x 61) = 3
    assert conformal_threshold(scores, 0.05) == pytest.approx(
        min(ordered[-3] + MARGIN * float(np.std(scores)), halfway)
    )
    assert conformal_threshold(scores, 0.001) == pytest.approx(ordered[-1] + MARGIN * float(np.std(scores)))
    assert [images_needed(a) for a in (0.01, 0.05, 0.5, 0.005, 0.003)] == [99, 19, 1, 199, 333]


def test_the_command_helps_quickly_and_works_as_a_program(model: Path) -> None:
    line(list(range(5)))
    code = "import sys; from vtad_runtime.commands.calibrate import calibrate; calibrate(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "--good", "line", "--false-alarms", "0.3"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = (
        "import sys, vtad_runtime.commands.calibrate; assert not {'numpy', 'cv2', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", loaded], env=ENVIRONMENT, check=True)


def spots(levels: list[int], folder: str) -> None:
    """Pictures of bad parts whose spot is so many grey levels off."""
    for i, level in enumerate(levels):
        save(bad(32, 32, x=i % 20, y=4) if level > 150 else _spotted(i, level), f"{folder}/{i:03d}.png")


def _spotted(i: int, level: int) -> np.ndarray[Any, Any]:
    rgb = good(32, 32)
    rgb[7, i % 32] = GREY + level
    return rgb


def test_known_bad_parts_show_the_trade_off_and_may_set_the_threshold(model: Path) -> None:
    line(list(range(20, 60)))
    spots(list(range(50, 100)), "bad")
    shown = calibrate("--good", "line", "--bad", "bad", "--threshold-rule", "guaranteed", "--out", "a.onnx")
    assert shown.exit_code == 0, shown.output
    (chosen,) = [text for text in shown.stdout.splitlines() if text.startswith("* ")]
    assert "0 of 40, 0.0 % (0.0 to 8.8 %)" in chosen
    assert "10 of 50, 20.0 % (10.0 to 33.7 %)" in chosen
    result = calibrate("--good", "line", "--bad", "bad", "--max-misses", "0.02", "--out", "b.onnx")
    assert result.exit_code == 0, result.output
    assert "the threshold is chosen for at most 2 % misses, from 40 good and 50 bad pictures" in result.stdout
    c = Detector("b.onnx").card.calibration
    assert (c.rule, c.max_misses, c.defective, c.images) == ("misses", 0.02, 50, 40)
    assert 49 / UNIT < c.threshold < 50 / UNIT
    assert "for at most 2 % misses" in Detector("b.onnx").card.history[-1].what


def test_what_known_bad_parts_cannot_vouch_for_is_refused_in_one_line(model: Path) -> None:
    line(list(range(20)))
    spots(list(range(50, 70)), "bad")
    said = failed(2, "--good", "line", "--bad", "bad", "--max-misses", "0.02")
    assert "got 20, which vouch for 4.76 % at best; 49 can, 29 more" in said
    save(good(32, 32), "both/a.png")
    save(good(32, 32), "line/same.png")
    assert "got the same picture in both folders" in failed(2, "--good", "line", "--bad", "both")
    assert not list(Path().rglob("*calibrated*"))


def test_a_threshold_by_hand_needs_no_pictures_and_stands_on_the_card(model: Path) -> None:
    result = calibrate("--threshold", "1.5")
    assert result.exit_code == 0, result.output
    assert "threshold 2 -> 1.5" in result.stdout
    assert "the threshold is chosen by hand; the card holds the scores of 19 good pictures" in result.stdout
    assert "of these good pictures it calls NG: 4 of 19, 21.1 % (6.1 to 45.6 %)" in result.stdout
    old, new = Detector(model).card.calibration, Detector("runs/tiny/1/export/tiny-calibrated.onnx").card.calibration
    assert (new.rule, new.threshold, new.scores, new.pixel_threshold) == (
        "by hand",
        1.5,
        old.scores,
        old.pixel_threshold,
    )
    said = failed(2, "--threshold", "1e9", "--out", "b.onnx")
    assert "--threshold: expected a score near the calibration scores, 0.1 to 1.9, got 1e+09" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--good: expected a folder of good pictures, or --threshold alone"),
        (("--good", "line", "--max-misses", "0.1"), "--max-misses: expected together with --bad"),
        (("--good", "line", "--threshold", "1", "--false-alarms", "0.1"), "got --false-alarms and --threshold"),
        (("--threshold", "nan"), "--threshold: expected a finite number, got nan"),
        (("--good", "line", "--false-alarms", "nan"), "--false-alarms: expected a finite number, got nan"),
    ],
)
def test_rules_that_contradict_each_other_are_one_line(model: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in failed(2, *arguments)
