"""vtad-replay: recorded pictures judged again by another model or threshold, and what would flip."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_camera import write_video
from PIL import Image
from spreadsheet import rows_of
from tiny_model import THRESHOLD, bad, good, make_card, write_model

from vtad_runtime import Detector, read_rgb
from vtad_runtime.commands import replay as replay_cli
from vtad_runtime.commands import run as cli
from vtad_runtime.contract.image import image_size
from vtad_runtime.outputs.pictures import PictureOptions, PictureWriter
from vtad_runtime.sources.sorting import Sorter
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.verdict import Verdict

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model() -> Path:
    return write_model(Path("old.onnx"))


def with_threshold(path: str, threshold: float, **changes: Any) -> Path:
    """A model like the tiny one, at another threshold."""
    card = make_card(**changes)
    return write_model(
        Path(path),
        dataclasses.replace(card, calibration=dataclasses.replace(card.calibration, threshold=threshold)),
    )


def save(rgb: np.ndarray[Any, Any], path: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(file)
    return file


def grey(units: float) -> np.ndarray[Any, Any]:
    """A surface with a spot of this score."""
    rgb = good()
    rgb[20:40, 20:40] += np.uint8(round(25 * units))
    return rgb


def judge_folder(model: Path, *arguments: str) -> None:
    """vtad-run --folder in, as a user runs it."""
    result = CliRunner().invoke(cli.run, ["--folder", "in", "--model", str(model), *arguments])
    assert result.exit_code in (0, 1, 3), result.output


def replay(exit_code: int, *arguments: str) -> Result:
    result = CliRunner().invoke(replay_cli.replay, list(arguments))
    assert "Traceback" not in result.output
    assert result.exit_code == exit_code, result.output
    return result


def failed(exit_code: int, *arguments: str) -> str:
    """The last line of a replay that ends by one error."""
    result = replay(exit_code, *arguments)
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    return result.stderr.splitlines()[-1]


def report(number: int = 1) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(f"replays/{number:04d}/replay.json").read_text())
    return document


def flips(number: int = 1) -> list[dict[str, str]]:
    return rows_of(Path(f"replays/{number:04d}/flips.csv"))


class Page(html.parser.HTMLParser):
    """What a reader without eyes for colour gets: the text, and the pictures with their alternative texts."""

    def __init__(self, number: int = 1) -> None:
        super().__init__()
        self.source = Path(f"replays/{number:04d}/report.html").read_text(encoding="utf-8")
        self.pictures: list[tuple[str, bytes]] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        if tag == "img":
            src = str(values["src"])
            assert src.startswith("data:image/jpeg;base64,")
            self.pictures.append((str(values["alt"]), base64.b64decode(src.partition(",")[2])))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def write_rows(rows: Iterable[dict[str, Any]], folder: str = "live") -> Path:
    file = Path(folder, "results.jsonl")
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_same_model_flips_nothing(model: Path) -> None:
    save(good(), "in/a.png")
    save(bad(), "in/b.png")
    judge_folder(model)
    result = replay(0, "results/0001/results.jsonl", "--model", "old.onnx")
    assert "0 flips among 2 judged again" in result.stdout
    document = report()
    assert document["table"] == {"NG": {"NG": 1}, "OK": {"OK": 1}}
    assert document["score_shift"]["difference_p5_p50_p95"] == pytest.approx([0, 0, 0], abs=1e-5)
    assert document["score_shift"]["rank_correlation"] == pytest.approx(1)
    assert flips() == []


def test_flips_are_counted_listed_and_shown_side_by_side(model: Path) -> None:
    for name, units in (("ok", 0.4), ("was ok", 1.6), ("was ng", 2.4), ("ng", 5.0)):
        save(grey(units), f"in/{name}.png")
    judge_folder(model)
    half = write_model(Path("half.onnx"), score_scale=0.5)
    result = replay(1, "results/0001", "--model", str(half))
    assert "1 flips among 4 judged again: 0 from OK to NG, 1 from NG to OK." in result.stdout
    assert [(f["flip"], f["name"]) for f in flips()] == [("NG -> OK", "in/was ng.png")]
    assert report()["score_shift"]["new_median"] == pytest.approx(report()["score_shift"]["recorded_median"] / 2)

    strict = with_threshold("strict.onnx", 1.0)
    replay(1, "results/0001", "--model", str(strict))
    (flip,) = flips(2)
    assert (flip["flip"], flip["name"]) == ("OK -> NG", "in/was ok.png")
    numbers = [float(flip[k]) for k in ("recorded_score", "recorded_threshold", "new_score", "new_threshold")]
    assert numbers == pytest.approx([1.6, THRESHOLD, 1.6, 1.0])
    page = Page(2)
    assert [alt for alt, _ in page.pictures] == ["in/was ok.png, recorded: OK", "in/was ok.png, now: NG"]
    assert page.pictures[0][1] != page.pictures[1][1]


def test_missed_defects_come_first_and_the_clearest_of_them() -> None:
    scores = {"a": ("OK", 2.5), "b": ("NG", 1.5), "c": ("OK", 4.0), "d": ("NG", 0.5), "e": ("NG", 9.0)}
    write_rows({"file": f, "verdict": v, "score": score, "threshold": 1.0} for f, (v, score) in scores.items())
    result = replay(1, "live", "--threshold", "2")
    assert [(f["flip"], f["name"]) for f in flips()] == [
        ("NG -> OK", "d"),
        ("NG -> OK", "b"),
        ("OK -> NG", "c"),
        ("OK -> NG", "a"),
    ]
    assert report()["flips"] == {"OK -> NG": 2, "NG -> OK": 2}
    table = [line.split() for line in result.stdout.splitlines() if line.startswith(("OK", "NG"))]
    assert table == [["OK", "0", "2"], ["NG", "2", "1"]]


def test_a_threshold_alone_needs_no_picture_and_no_model(model: Path) -> None:
    for i, units in enumerate((0.4, 1.6, 2.4)):
        save(grey(units), f"in/{i}.png")
    judge_folder(model, "--save", "none")
    for path in Path("in").iterdir():
        path.unlink()
    model.unlink()
    result = replay(1, "results/0001", "--threshold", "1.0")
    assert "1 flips among 3 judged again: 1 from OK to NG" in result.stdout
    assert "No picture of it is at hand." in Page().text
    replay(0, "results/0001", "--threshold", "2.0")


def test_a_score_that_equals_its_threshold_to_six_digits_does_not_flip() -> None:
    rows = [{"file": "a", "verdict": "NG", "score": 2.0, "threshold": 2.0}]
    write_rows(rows)
    replay(0, "live", "--threshold", "2.0")
    replay(1, "live", "--threshold", "2.1")


def test_model_and_threshold_together(model: Path) -> None:
    save(grey(1.6), "in/a.png")
    judge_folder(model)
    replay(1, "results/0001", "--model", str(model), "--threshold", "1.5")
    replay(0, "results/0001", "--model", str(model), "--threshold", "1.7")
    assert report()["facts"]["Threshold"] == "1.5"


def test_missing_and_damaged_pictures_are_counted_named_and_3(model: Path) -> None:
    for name in ("a", "b", "c"):
        save(good(), f"in/{name}.png")
    judge_folder(model)
    Path("in/a.png").unlink()
    Path("in/b.png").write_bytes(Path("in/b.png").read_bytes()[:60])
    result = replay(3, "results/0001", "--model", str(model))
    assert "3 rows: 2 judged again, 1 missing, 0 without anything to judge" in result.stdout
    assert "missing in/a.png: in/a.png is not there" in result.stderr
    assert "ERROR in/b.png: " in result.stderr
    document = report()
    assert document["missing"] == [{"name": "in/a.png", "why": "in/a.png is not there"}]
    assert [f["name"] for f in document["failed"]] == ["in/b.png"]
    assert document["table"] == {"OK": {"OK": 1, "ERROR": 1}}
    page = Page()
    assert "in/a.png is not there" in page.text
    assert "Pictures that could not be judged (1)" in page.text


def live_rows(model: Path, frames: list[np.ndarray[Any, Any]], folder: str = "live", **row: Any) -> Path:
    """What a camera run with saved originals leaves."""
    output = PictureWriter(Path(folder), PictureOptions(originals=True, reserve=False))
    rows = []
    for judgement in Judge("camera 0", Detector(model), Rules()).judge(
        [Frame(number, 1.0, 0.0, 0.0, 0, rgb) for number, rgb in enumerate(frames, 1)]
    ):
        rows.append({**judgement.row(), **output.save(judgement)._asdict(), **row})
    return write_rows(rows, folder)


def test_live_rows_are_judged_again_from_their_saved_originals(model: Path) -> None:
    file = live_rows(model, [good(), grey(2.4), grey(4.0)])
    result = replay(1, str(file), "--model", str(with_threshold("lax.onnx", 3.0)))
    assert "3 rows: 2 judged again, 0 missing, 1 without anything to judge" in result.stdout
    assert [(f["flip"], f["name"]) for f in flips()] == [("NG -> OK", "camera 0, frame 2")]
    assert report()["score_shift"]["difference_p5_p50_p95"] == pytest.approx([0, 0, 0], abs=1e-5)
    page = Page()
    assert [alt for alt, _ in page.pictures] == ["camera 0, frame 2, recorded: NG", "camera 0, frame 2, now: OK"]
    assert "captured 1970-01-01T00:00:01.000Z" in page.text


def test_an_original_that_retention_deleted_is_missing(model: Path) -> None:
    file = live_rows(model, [grey(2.4), grey(4.0)])
    next(Path("live/originals").glob("*-000001-*")).unlink()
    replay(3, str(file), "--model", str(model))
    assert [m["name"] for m in report()["missing"]] == ["camera 0, frame 1"]


def test_a_run_that_kept_no_picture_at_all_is_3(model: Path) -> None:
    file = live_rows(model, [good(), good()])
    said = replay(3, str(file), "--model", str(model)).stdout
    assert "0 judged again" in said
    assert "this says nothing of new verdicts; --save-originals" in said  # "0 flips" would be taken for a good sign
    page = Path("replays/0001/report.html").read_text()
    assert "this says nothing" in page
    assert "None." not in page


def test_news_of_a_lost_source_is_no_picture(model: Path) -> None:
    file = live_rows(model, [grey(4.0)])
    gone = Judgement("camera 0", 1, 2.0, Verdict.ERROR, "no frame for 2 s", None, 2.0, None, None)
    file.write_text(file.read_text() + json.dumps(gone.row()) + "\n")
    assert "1 without anything to judge" in replay(0, str(file), "--model", str(model)).stdout
    assert "1 without anything to judge" in replay(0, str(file), "--threshold", "1").stdout


def test_unsure_and_stale_are_in_the_table_but_are_no_flips(model: Path) -> None:
    file = live_rows(model, [grey(4.0)], verdict="STALE")
    replay(0, str(file), "--model", str(model))
    assert report()["table"] == {"STALE": {"NG": 1}}


def test_sorted_files_are_found_where_they_were_moved_to(model: Path) -> None:
    save(grey(1.6), "in/a.png")
    judge_folder(model)
    row = json.loads(Path("results/0001/results.jsonl").read_text())
    sorter = Sorter(Path("sorted"), Path("in"), Path("results/0001/moves.jsonl"))
    sorter.move(Path("in/a.png"), Verdict.OK)
    save(grey(4.0), "in/a.png")  # another part under the same name, judged and moved too
    sorter.move(Path("in/a.png"), Verdict.NG)
    write_rows([row, {**row, "verdict": "NG", "score": 4.0}], "results/0001")
    replay(0, "results/0001", "--model", str(model))
    assert report()["score_shift"]["difference_p5_p50_p95"] == pytest.approx([0, 0, 0], abs=1e-5)


def test_a_file_that_was_replaced_or_changed_is_not_taken_for_the_one_judged(model: Path) -> None:
    path = save(grey(1.6), "in/a.png")
    os.utime(path, (1000, 1000))
    row = {
        "file": "in/a.png",
        "verdict": "OK",
        "score": 1.6,
        "threshold": 2.0,
        "captured_at": "2026-01-01T00:00:00.000Z",
    }
    write_rows([row, row])
    replay(3, "live", "--model", str(model))
    assert report()["missing"] == [{"name": "in/a.png", "why": "in/a.png was replaced by a file of the same name"}]
    write_rows([{**row, "captured_at": "1970-01-01T00:01:00.000Z"}])
    replay(3, "live", "--model", str(model))
    assert report(2)["missing"] == [{"name": "in/a.png", "why": "in/a.png was changed after it was judged"}]


def mask_file() -> str:
    """A mask for the pictures of `one_sided`: their upper left quarter raises no alarm."""
    mask = np.full((64, 64), 255, np.uint8)
    mask[:32, :32] = 0
    Image.fromarray(mask).save("mask.png")
    return "mask.png"


def one_sided(units: float, x: int) -> np.ndarray[Any, Any]:
    """A surface with a spot of this score, as large as a cell of the score rule, and one of 6 units in the upper left corner."""
    rgb = good()
    rgb[:16, :16] = 250
    rgb[32:48, x : x + 16] += np.uint8(round(25 * units))
    return rgb


# Each changes what is judged: without it, the replay would find other pixels and flips.
OPTIONS = {
    "region": ("--roi", "16,16,48,48"),
    "rotation and flip": ("--roi", "0,16,64,32", "--rotate", "90", "--flip", "h"),
    "mask": ("--roi-mask", "mask.png"),
    "mask of a region, turned": ("--roi", "0,0,64,48", "--rotate", "180", "--flip", "v", "--roi-mask", "mask.png"),
}
PARTS = [one_sided(units, x) for units, x in ((0.4, 32), (1.6, 48), (2.4, 16), (5.0, 48))]


def run_on(kind: str, *options: str) -> None:
    """vtad-run on these parts as files, as files that come into a folder, or as a video."""
    if kind == "video":
        write_video(Path("parts.avi"), PARTS)
        source = ["--video", "parts.avi", "--save-originals", "--save", "all", "--frame-check", "none"]
    else:
        for i, rgb in enumerate(PARTS):
            save(rgb, f"in/{i}.png")
        source = ["--folder", "in"]
        if kind == "hot folder":
            source = ["--watch", "in", "--max-frames", str(len(PARTS)), "--sort-to", "sorted"]
    result = CliRunner().invoke(cli.run, [*source, *options, "--model", "old.onnx"])
    assert result.exit_code == 1, result.output


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["folder", "hot folder", "video"])
def test_the_same_model_flips_nothing_whatever_was_cut_turned_or_masked(kind: str, options: tuple[str, ...]) -> None:
    write_model(Path("old.onnx"))
    mask_file()
    run_on(kind, *options)
    rows = [json.loads(line) for line in Path("results/0001/results.jsonl").read_text().splitlines()]
    assert {row["verdict"] for row in rows} == {"OK", "NG"}
    replay(0, "results/0001", "--model", "old.onnx")
    document = report()
    assert document["judged_again"] == len(PARTS)
    assert document["table"] == {verdict: {verdict: n} for verdict, n in Counter(r["verdict"] for r in rows).items()}
    assert document["score_shift"]["difference_p5_p50_p95"] == pytest.approx([0, 0, 0], abs=1e-5)
    assert document["facts"]["Options of the run"] == " ".join(options)
    Path("results/0001/run.json").unlink()
    cut_already = kind == "video" and "mask.png" not in options  # its frames are saved as they were judged
    said = replay(0 if cut_already else 1, "results/0001", "--model", "old.onnx").stderr
    assert "note: no run.json beside the results, as of an older vtad-run" in said


def test_a_mask_that_was_changed_or_is_gone_is_one_line() -> None:
    write_model(Path("old.onnx"))
    mask = mask_file()
    run_on("folder", "--roi-mask", mask)
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(mask)
    assert "mask.png: expected the mask of the run" in failed(2, "results/0001", "--model", "old.onnx")
    Path(mask).unlink()
    assert "mask.png: expected a picture file, got nothing there" in failed(2, "results/0001", "--model", "old.onnx")
    assert not Path("replays").exists()


def test_the_second_threshold_of_the_run_and_checks_of_single_frames_hold_again(model: Path) -> None:
    for i, rgb in enumerate((grey(0.4), grey(1.6), grey(5.0), good() * 0)):
        save(rgb, f"in/{i}.png")
    done = CliRunner().invoke(
        cli.run, ["--watch", "in", "--max-frames", "4", "--unsure-from", "1", "--model", str(model)]
    )
    assert done.exit_code == 1, done.output
    replay(0, "results/0001", "--model", str(model))
    assert report()["table"] == {"OK": {"OK": 1}, "NG": {"NG": 1}, "UNSURE": {"UNSURE": 2}}
    replay(0, "results/0001", "--threshold", "2")
    assert report(2)["table"] == {"OK": {"OK": 1}, "NG": {"NG": 1}, "UNSURE": {"UNSURE": 1, "NG": 1}}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"roi": [1, 2], "rotate": 45}'])
def test_a_damaged_run_file_is_one_line(text: str, model: Path) -> None:
    save(good(), "in/a.png")
    judge_folder(model)
    Path("results/0001/run.json").write_text(text)
    said = failed(2, "results/0001", "--model", str(model))
    assert "run.json: expected what vtad-run writes, got a damaged file" in said


def test_the_page_is_whole_in_itself_and_readable_without_colour(model: Path) -> None:
    save(grey(1.6), 'in/a<b>&"c.png')
    judge_folder(model)
    replay(1, "results/0001", "--model", str(with_threshold("strict.onnx", 1.0)))
    page = Page()
    assert not page.tags & {"script", "link", "iframe", "b"}
    assert not re.search(r"https?://|url\(", page.source)
    assert 'in/a<b>&"c.png' in page.text
    assert "OK score 1.6, threshold 2 → NG score 1.6, threshold 1" in page.text
    assert all(jpeg.startswith(b"\xff\xd8") for _, jpeg in page.pictures)


def test_pictures_on_the_page_are_few_and_small(model: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        noise = rng.integers(90, 111, (600, 800, 3), dtype=np.uint8)
        noise[100:400, 100:400] = 140
        save(noise, f"in/{i}.png")
    judge_folder(model)
    strict = with_threshold("strict.onnx", 1.0)
    replay(1, "results/0001", "--model", str(strict), "--max-pictures", "2")
    page = Page()
    assert len(page.pictures) == 4
    assert "2 of 3 are shown; all are in flips.csv." in page.text
    assert len(flips()) == 3
    assert all(len(jpeg) < 150_000 for _, jpeg in page.pictures)
    Path("shown.jpg").write_bytes(page.pictures[1][1])
    assert max(image_size(Path("shown.jpg"))) == 520
    replay(1, "results/0001", "--model", str(strict), "--max-pictures", "0")
    assert Page(2).pictures == []


def test_a_recorded_heatmap_that_is_gone_is_replaced_by_the_picture(model: Path) -> None:
    save(grey(1.6), "in/a.png")
    judge_folder(model, "--save", "none")
    replay(1, "results/0001", "--model", str(with_threshold("strict.onnx", 1.0)))
    page = Page()
    assert "its recorded heatmap is not there" in page.text
    Path("shown.jpg").write_bytes(page.pictures[0][1])
    assert np.abs(read_rgb(Path("shown.jpg")).astype(int) - grey(1.6)).mean() < 4


def test_a_torn_last_line_is_left_out_and_said(model: Path) -> None:
    file = live_rows(model, [grey(4.0)])
    with file.open("a") as lines:
        lines.write('{"source": "came')
    result = replay(0, str(file), "--model", str(model))
    assert "its last line is torn" in result.stderr
    assert "1 rows: 1 judged again" in result.stdout


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "expected rows of vtad-run, got none"),
        ("hello\n{}\n", "line 1: expected a JSON object"),
        ("[1]\n", "line 1: expected a JSON object"),
        ('{"verdict": "OK"}\n', "line 1: expected a row of vtad-run with verdict and score"),
        ('{"verdict": "GOOD", "score": 1}\n', "line 1: expected a row of vtad-run"),
        ('{"verdict": "OK", "score": "high"}\n', "line 1: expected a row of vtad-run"),
    ],
)
def test_what_is_no_results_file_is_one_line_and_2(text: str, got: str, model: Path) -> None:
    Path("runs.jsonl").write_text(text)
    assert got in failed(2, "runs.jsonl", "--model", str(model))
    assert not Path("replays").exists()


def test_other_wrong_arguments_are_one_line_and_2(model: Path) -> None:
    write_rows([{"file": "a", "verdict": "OK", "score": 0.0, "threshold": 2.0}])
    assert "expected --model NEW.onnx, --threshold X or both" in failed(2, "live")
    assert "expected a finite number" in failed(2, "live", "--threshold", "nan")
    assert "got nothing there" in failed(2, "none.jsonl", "--threshold", "1")
    assert "got nothing there" in failed(2, ".", "--threshold", "1")
    assert "none.onnx: expected an .onnx model" in failed(2, "live", "--model", "none.onnx")
    assert "old.onnx: expected a folder" in failed(2, "live", "--threshold", "1", "--out", "old.onnx")


def test_a_full_disk_is_4_and_leaves_nothing_half(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows([{"file": "a", "verdict": "OK", "score": 0.0, "threshold": 2.0}])

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "cannot write the report: No space left on device" in failed(4, "live", "--threshold", "1")
    assert list(Path("replays").iterdir()) == []


def test_a_disk_that_is_full_when_the_folder_is_made_is_4(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows([{"file": "a", "verdict": "OK", "score": 0.0, "threshold": 2.0}])

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    said = "replays: expected a folder to write the report to, got No space left on device; choose another by --out"
    assert said in failed(4, "live", "--threshold", "1")


def test_another_category_is_pointed_out(model: Path) -> None:
    save(good(), "in/a.png")
    judge_folder(model)
    card = make_card()
    other = dataclasses.replace(card, identity=dataclasses.replace(card.identity, category="bottle"))
    result = replay(0, "results/0001", "--model", str(write_model(Path("other.onnx"), other)))
    assert "note: the run was judged by a model of tiny, other.onnx is one of bottle" in result.stderr


def test_a_signal_ends_it_with_a_report_of_what_was_judged(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(60):
        save(good(), f"in/{i}.png")
    judge_folder(model, "--save", "none")
    judge, calls = Detector.judge, 0

    def signal_at_the_tenth(self: Detector, prepared: list[Any], **options: Any) -> list[Any]:
        nonlocal calls
        calls += 1
        if calls == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, prepared, **options)

    monkeypatch.setattr(Detector, "judge", signal_at_the_tenth)
    replay(143, "results/0001", "--model", str(model))
    assert 10 <= report()["rows"] < 60
    assert report()["facts"]["Stopped"].startswith(f"after {report()['rows']} of 60 rows")


def test_help_names_every_exit_code_and_is_quick() -> None:
    text = replay(0, "--help").stdout
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "70 ", "130 "):
        assert f"  {code}" in text
    code = "import sys, vtad_runtime.commands.replay; assert not {'numpy', 'cv2', 'PIL', 'onnxruntime'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
