"""vtad-run as a user meets it: exit codes, one clear line per error, and what it leaves on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from fake_camera import write_video
from PIL import Image
from tiny_model import bad, good, make_card, write_model

from vtad_runtime.commands import run as cli
from vtad_runtime.contract.disk import files
from vtad_runtime.contract.image import image_size
from vtad_runtime.outputs.results_folder import ResultsFolder

# Commands run elsewhere must find the package under test, also by a relative search path.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "runs/tiny/1/export/tiny.onnx")


def save(rgb: np.ndarray[Any, Any], path: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(file)
    return file


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.run, list(arguments))
    assert "Traceback" not in result.output
    return result


def failed(exit_code: int, *arguments: str) -> str:
    """The last line of a run that ends by one error."""
    result = run(*arguments)
    assert result.exit_code == exit_code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert result.stderr.splitlines()[-1] == errors[0]
    return errors[0]


def rows(folder: str = "results/0001") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "results.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("model")
def test_all_ok_is_0_and_some_ng_is_1() -> None:
    save(good(), "in/good/1.png")
    assert run("--folder", "in").exit_code == 0
    save(bad(), "in/crack/1.png")
    result = run("--folder", "in")
    assert result.exit_code == 1
    assert [r["verdict"] for r in rows("results/0002")] == ["NG", "OK"]
    assert "results: results/0002" in result.stdout
    assert Path("results/0002/heatmaps/crack/1.png.jpg").is_file()
    table = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line}
    assert (table["crack"], table["good"], table["all"]) == (["0", "1"], ["1", "0"], ["1", "1"])


@pytest.mark.usefixtures("model")
def test_files_that_cannot_be_judged_are_rows_and_3_wins_over_1() -> None:
    save(bad(), "in/2.png")
    whole = save(good(), "in/10.png").read_bytes()
    Path("in/1.png").write_text("no picture")
    Path("in/3.png").write_bytes(whole[: len(whole) // 2])
    result = run("--folder", "in")
    assert result.exit_code == 3
    assert [(r["file"], r["verdict"]) for r in rows()] == [
        ("in/1.png", "ERROR"),
        ("in/2.png", "NG"),
        ("in/3.png", "ERROR"),
        ("in/10.png", "OK"),
    ]
    assert rows()[0]["score"] is None
    assert "damaged file" in rows()[2]["reason"]
    assert "ERROR in/3.png: expected a whole picture" in result.stderr
    summary = json.loads(Path("results/0001/summary.json").read_text())
    assert summary["verdicts"] == {"ERROR": 2, "NG": 1, "OK": 1}


@pytest.mark.usefixtures("model")
def test_odd_formats_sizes_and_names_are_judged_and_what_systems_leave_behind_is_not() -> None:
    def images(rgb: np.ndarray[Any, Any]) -> dict[str, Image.Image]:
        image = Image.fromarray(rgb)
        inverted = Image.fromarray(255 - rgb)
        return {
            "16 bits.png": Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 257),
            "16 bits.tif": Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 257),
            "50 % #1.jpg": Image.merge("CMYK", [*inverted.split(), Image.new("L", image.size, 0)]),
            "Fläche.png": image.convert("P", palette=Image.Palette.ADAPTIVE),
            "two\nlines.png": image.convert("RGBA"),
            "grey alpha.png": image.convert("LA"),
            "grey.bmp": image.convert("L"),
        }

    for n, (name, image) in enumerate(images(good(96, 48)).items()):
        for folder, picture in (("good", image), ("bad", images(bad(64 + 16 * n, 64))[name])):
            Path("in", folder).mkdir(parents=True, exist_ok=True)
            picture.save(Path("in", folder, name), quality=95)
    Image.fromarray(bad()).convert("1").save("in/bad/1 bit.png")
    for left in (".DS_Store", "Thumbs.db", "desktop.ini", "._1.png", ".hidden.png", "good/.DS_Store", "@eaDir/x.txt"):
        Path("in", left).parent.mkdir(exist_ok=True)
        Path("in", left).write_bytes(b"\0\x05\x16\x07")
    result = run("--folder", "in")
    assert result.exit_code == 1, result.output
    verdicts = {r["file"]: r["verdict"] for r in rows()}
    assert len(verdicts) == 2 * len(images(good())) + 1
    assert {name: v for name, v in verdicts.items() if (v == "NG") != name.startswith("in/bad/")} == {}


def test_a_region_of_interest_outside_one_picture_is_an_error_row() -> None:
    write_model(Path("runs/tiny/1/export/m.onnx"), make_card(roi=(0, 0, 60, 60)))
    save(good(), "in/large.png")
    save(good(20, 20), "in/small.png")
    assert run("--folder", "in").exit_code == 3
    assert [r["verdict"] for r in rows()] == ["OK", "ERROR"]
    assert rows()[1]["reason"].startswith("region of interest")


def test_a_model_that_gives_nan_gives_error_rows() -> None:
    write_model(Path("nan.onnx"), score_scale=float("nan"))
    assert run("--folder", str(save(good(), "a.png")), "--model", "nan.onnx").exit_code == 3
    assert (rows()[0]["verdict"], rows()[0]["score"]) == ("ERROR", None)


@pytest.mark.parametrize(
    ("save_what", "names"), [("all", ["bad.png.jpg", "good.png.jpg"]), ("ng", ["bad.png.jpg"]), ("none", [])]
)
@pytest.mark.parametrize("view", ["overlay", "panel"])
@pytest.mark.usefixtures("model")
def test_which_heatmaps_are_saved(save_what: str, names: list[str], view: str) -> None:
    save(good(), "in/good.png")
    save(bad(), "in/bad.png")
    run("--folder", "in", "--save", save_what, "--view", view)
    assert sorted(p.name for p in Path("results").rglob("*.jpg")) == names


@pytest.mark.usefixtures("model")
def test_a_folder_has_an_alarm_and_keeps_originals_like_any_other_source() -> None:
    for i in range(6):
        save(bad() if i > 2 else good(), f"in/{i}.png")
    assert run("--folder", "in", "--alarm", "2/2", "--save-originals", "--batch", "4").exit_code == 1
    assert [r["alarm"] for r in rows()] == [False] * 4 + [True] * 2
    assert [r["frame"] for r in rows()] == list(range(1, 7))
    with Image.open(Path("results/0001", rows()[3]["original"])) as original:
        assert np.array_equal(np.asarray(original), bad())


@pytest.mark.usefixtures("model")
def test_drift_over_a_folder_is_in_the_summary_and_not_warned_of() -> None:
    for i in range(80):
        save(bad(size=4 + i % 9), f"in/{i}.png")
    result = run("--folder", "in", "--save", "none")
    assert "drift" not in result.output  # a folder need not be of one line: a test set is full of bad parts
    assert "n" in json.loads(Path("results/0001/summary.json").read_text())["drift"]


@pytest.mark.usefixtures("model")
def test_order_and_results_do_not_depend_on_batch() -> None:
    for i in range(30):
        save(bad() if i % 3 else good(), f"in/{i}.png")
    for batch in ("1", "7", "64"):
        run("--folder", "in", "--batch", batch, "--save", "none", "--threads", "1")
    runs = [[(r["file"], r["score"]) for r in rows(f"results/000{n}")] for n in (1, 2, 3)]
    assert runs[0] == runs[1] == runs[2]
    assert [Path(file).stem for file, _ in runs[0]] == [str(i) for i in range(30)]


def test_the_newest_export_is_taken_and_named(model: Path) -> None:
    newer = write_model(Path("runs/other/2/export/m.onnx"))
    os.utime(model, (1, 1))
    save(good(), "a.png")
    assert f"model: {newer}, the newest export" in run("--folder", "a.png").stdout
    os.utime(newer, (0, 0))
    assert "model: runs/tiny/1/export/tiny.onnx" in run("--folder", "a.png").stdout


def test_no_model_says_what_to_run() -> None:
    save(good(), "a.png")
    message = failed(2, "--folder", "a.png")
    assert "run vtad-train, then vtad-export" in message


@pytest.mark.usefixtures("model")
def test_no_source_names_both_options() -> None:
    for arguments in ((), ("--folder", "x", "--camera", "0")):
        message = failed(2, *arguments)
        assert "--folder" in message
        assert "--camera" in message


@pytest.mark.usefixtures("model")
def test_a_source_without_pictures_is_a_usage_error() -> None:
    Path("empty").mkdir()
    assert "got none" in failed(2, "--folder", "empty")
    assert "got nothing there" in failed(2, "--folder", "missing")
    assert not Path("results").exists()


def test_a_wrong_model_file_is_a_usage_error() -> None:
    save(good(), "a.png")
    Path("text.onnx").write_text("hello")
    write_model(Path("bare.onnx"), text="")
    write_model(Path("other.onnx"), text=make_card().to_json().replace('"schema": 3', '"schema": 7'))
    for model, got in [
        ("none.onnx", "got nothing there"),
        ("text.onnx", "expected an ONNX model"),
        ("bare.onnx", "an ONNX model without one"),
        ("other.onnx", "expected a vtad card of schema 3, 2 or 1, got 7"),
    ]:
        assert got in failed(2, "--folder", "a.png", "--model", model)


@pytest.mark.usefixtures("model")
def test_an_output_that_is_no_folder_is_a_usage_error() -> None:
    save(good(), "a.png")
    assert "a.png: expected a folder to write results to" in failed(2, "--folder", "a.png", "--out", "a.png")


@pytest.mark.usefixtures("model")
def test_a_full_disk_ends_the_run_with_4_and_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        save(good(), f"in/{i}.png")
    write, count = files.Lines.write, 0

    def fills_up(self: files.Lines, line: str) -> None:
        nonlocal count
        count += 1
        if count > 9:
            raise OSError(28, "No space left on device")
        write(self, line)

    monkeypatch.setattr(files.Lines, "write", fills_up)
    result = run("--folder", "in")
    assert result.exit_code == 4
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "cannot write results: No space left on device" in error
    assert error.endswith("; 4 of 20 files have a whole result, 16 have none")
    assert [Path(r["file"]).stem for r in rows()] == ["0", "1", "2", "3"]
    assert "4 files in" in result.stdout  # what was counted, and nothing else
    summary = json.loads(Path("results/0001/summary.json").read_text())  # the disk still took a small file
    assert summary["rows"] == summary["verdicts"]["OK"] == 4
    assert summary["unwritten"] > 0


@pytest.mark.usefixtures("model")
def test_a_full_disk_beside_the_results_is_counted_too() -> None:
    for i in range(5):
        save(good(), f"in/{i}.png")
    result = run("--folder", "in", "--json", "/dev/full")
    assert result.exit_code == 4
    assert "/dev/full: cannot write JSON Lines: No space left on device" in result.stderr
    assert result.stderr.endswith("; 0 of 5 files have a whole result, 5 have none\n")
    assert json.loads(Path("results/0001/summary.json").read_text())["unwritten"] > 0


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("kind", ["folder", "video"])
def test_heatmaps_that_a_full_disk_does_not_take_are_counted_and_4(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        save(bad(), f"in/{i}.png")
    write_video(Path("video.avi"), [bad()] * 20)
    write, taken = Path.write_bytes, 0

    def fills_up(self: Path, data: bytes) -> int:
        nonlocal taken
        if "heatmaps" in self.parts:
            taken += 1
            if taken > 3:
                raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fills_up)
    result = run("--folder", "in") if kind == "folder" else run("--video", "video.avi")
    assert result.exit_code == 4, result.output
    assert "; 17 heatmaps or originals are not saved" in result.output
    assert [row["heatmap"] is None for row in rows()] == [False] * 3 + [True] * 17
    summary = json.loads(Path("results/0001/summary.json").read_text())
    assert (summary["rows"], summary["pictures_left_out"], summary["unwritten"]) == (20, 17, 17)


@pytest.mark.usefixtures("model")
def test_a_fault_in_the_writing_thread_ends_the_run_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        save(good(), f"in/{i}.png")

    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(ResultsFolder, "write", fault)
    assert "internal error: ZeroDivisionError: a fault of ours" in failed(70, "--folder", "in")
    assert not [t for t in threading.enumerate() if t.name.startswith("vtad")]


@pytest.mark.parametrize("image", ["jpg", "png"])
@pytest.mark.usefixtures("model")
def test_a_picture_of_any_shape_gets_its_row_and_a_heatmap_of_bounded_size(image: str) -> None:
    for width, height in ((96, 16_400), (4, 8000)):
        save(good(width, height), f"in/{width}.png")
    assert run("--folder", "in", "--image", image).exit_code == 0
    assert [r["verdict"] for r in rows()] == ["OK", "OK"]
    sizes = [image_size(Path("results/0001", r["heatmap"])) for r in rows()]
    assert all(max(size) <= 4096 for size in sizes)


@pytest.mark.usefixtures("model")
def test_a_heatmap_that_cannot_be_encoded_costs_neither_its_row_nor_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    save(good(), "in/1.png")
    save(bad(), "in/2.png")
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.zeros(0, np.uint8)))
    assert run("--folder", "in").exit_code == 1
    assert [(r["verdict"], r["heatmap"]) for r in rows()] == [("OK", None), ("NG", None)]
    summary = json.loads(Path("results/0001/summary.json").read_text())
    assert (summary["pictures_left_out"], summary["unwritten"]) == (2, 0)


SIGNAL_AT_THE_TENTH = """
import os, sys
from vtad_runtime.commands.run import run
from vtad_runtime.contract.command_line import stopping
from vtad_runtime.outputs.results_folder import ResultsFolder
number, write = int(sys.argv.pop(1)), ResultsFolder.write

def signal_at_the_tenth(self, judgement, **options):
    written = write(self, judgement, **options)
    if judgement.number == 10:
        os.kill(os.getpid(), number)
    return written

ResultsFolder.write = signal_at_the_tenth
stopping.LAST_S = 120.0  # a busy machine is slow
run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_is_in_flight(number: int, code: int, model: Path) -> None:
    for i in range(60):
        save(good(), f"in/{i}.png")
    asked = ["--folder", "in", "--save", "none", "--model", str(model)]
    command = [sys.executable, "-c", SIGNAL_AT_THE_TENTH, str(int(number)), *asked]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert result.returncode == code
    done = [int(Path(r["file"]).stem) for r in rows()]
    assert done == list(range(len(done)))
    assert 10 <= len(done) < 60
    assert f"stopped after {len(done)} of 60 files" in result.stderr


@pytest.mark.slow
def test_a_killed_run_leaves_valid_lines(model: Path) -> None:
    for i in range(200):
        save(good(400, 400), f"in/{i}.png")
    code = "from vtad_runtime.commands.run import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--folder", "in", "--model", str(model)],
        stdout=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    results = Path("results/0001/results.jsonl")
    deadline = time.monotonic() + 30
    while not (results.exists() and results.stat().st_size > 1000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 0 < len(rows()) < 200
    assert all(row["verdict"] == "OK" for row in rows())


def test_help_names_every_exit_code_and_is_quick() -> None:
    text = run("--help").stdout
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "70 ", "130 "):
        assert f"  {code}" in text
    heavy = "{'numpy', 'cv2', 'PIL', 'onnxruntime'}"
    code = f"import sys, vtad_runtime.commands.run; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
