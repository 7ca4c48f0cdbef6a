"""JSON Lines, the log, the annotated video, and that docs/results.md says what the program writes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from spreadsheet import rows_of
from tiny_model import THRESHOLD, bad, good, write_model

from vtad_runtime import Detector, Verdict
from vtad_runtime.batch.job import Job
from vtad_runtime.batch.rows import COLUMNS
from vtad_runtime.commands.run import run
from vtad_runtime.contract.card import Weighing
from vtad_runtime.contract.errors import NOT_WRITTEN
from vtad_runtime.contract.log import event, logging_to, note, warning
from vtad_runtime.drawing.annotated import annotated
from vtad_runtime.drawing.text import VERDICT_COLOURS
from vtad_runtime.outputs.json_lines import JsonLines
from vtad_runtime.outputs.results_folder import SinkError
from vtad_runtime.outputs.video import VideoError, VideoOutput
from vtad_runtime.receivers.message import Messages
from vtad_runtime.receivers.spool import Event
from vtad_runtime.receivers.webhook import WebhookOutput
from vtad_runtime.verdict.detector import Region
from vtad_runtime.verdict.judgement import Frame, Judgement

DOCS = Path(__file__).parents[2] / "docs"
GONE = Judgement("camera 0", 7, 1.7e9, Verdict.ERROR, "camera lost: no frames", None, 2.0, None, None)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector(write_model(tmp_path_factory.mktemp("model") / "m.onnx"), threads=1)


def judged(detector: Detector, rgb: NDArray[np.uint8], **changes: Any) -> Judgement:
    result = detector(rgb)
    frame = Frame(1, 1.7e9, 0.0, 1.0, 0, rgb)
    judgement = Judgement("camera 0", 1, 1.7e9, result.verdict, result.error, None, 2.0, frame, result)
    return dataclasses.replace(judgement, **changes)


# JSON Lines


def test_a_file_grows_by_one_whole_object_a_line(tmp_path: Path, detector: Detector) -> None:
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    for judgement in (judged(detector, bad()), GONE):  # two runs: the second one appends
        output = JsonLines(path)
        output.write(judgement)
        assert path.read_bytes().endswith(b"}\n")  # without closing it
        output.close()
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["verdict"], second["verdict"], second["score"]) == ("NG", "ERROR", None)
    assert first == judged(detector, bad()).row()


def test_a_stream_is_flushed_at_once_and_stays_open() -> None:
    stream = io.StringIO()
    output = JsonLines(stream)
    output.write(GONE)
    output.close()
    stream.write("open")
    assert json.loads(stream.getvalue().splitlines()[0])["frame"] == 7


def test_a_line_torn_by_a_power_cut_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"frame": 1}\n{"fra')
    output = JsonLines(path)
    output.write(GONE)
    output.close()
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"frame": 1}', '{"fra']
    assert json.loads(lines[2])["frame"] == 7


def test_two_writers_of_one_file_never_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    outputs = [JsonLines(path) for _ in range(2)]

    def write(output: JsonLines) -> None:
        for _ in range(300):
            output.write(GONE)

    threads = [threading.Thread(target=write, args=(output,)) for output in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [7] * 600


def test_a_reader_that_went_away_is_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    output = JsonLines(stream)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        output.write(GONE)
    with suppress(BrokenPipeError):  # what the stream still holds
        stream.close()


def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot write JSON Lines") as caught:
        JsonLines(tmp_path / "file" / "rows.jsonl")
    assert "\n" not in str(caught.value)


def test_a_line_that_fits_only_half_is_cut_off_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    output = JsonLines(path)
    output.write(GONE)
    whole, real, calls = path.read_bytes(), os.write, []

    def half(file: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(file, data[:10])

    with monkeypatch.context() as m:
        m.setattr(os, "write", half)
        with pytest.raises(SinkError, match="No space left on device"):
            output.write(GONE)
    assert path.read_bytes() == whole
    output.write(GONE)
    assert path.read_bytes() == whole * 2


# The log


def test_an_event_is_a_line_with_the_time_or_one_json_object() -> None:
    people, machines = io.StringIO(), io.StringIO()
    for json_lines, stream in ((False, people), (True, machines)):
        with logging_to(json_lines=json_lines, stream=stream):
            event("camera_lost", "camera lost: no frames for 10 s", after_s=10.0, odd=float("nan"))
    assert re.fullmatch(r"\d\d:\d\d:\d\d camera lost: no frames for 10 s\n", people.getvalue())
    said = json.loads(machines.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said.pop("ts"))
    assert said == {
        "event": "camera_lost",
        "message": "camera lost: no frames for 10 s",
        "after_s": 10.0,
        "odd": None,
    }


def test_a_note_is_plain_lines_for_people_and_one_event_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    for notes in ("stdout", "stderr"):
        with logging_to(notes=notes):
            note("one\n  two %s")
        assert getattr(capsys.readouterr(), notes[3:]) == "one\n  two %s\n"
    with logging_to(json_lines=True):
        note("one\n  two")
    said = capsys.readouterr()
    assert said.out == ""
    assert (json.loads(said.err)["event"], json.loads(said.err)["message"]) == ("note", "one two")


def test_what_is_said_outside_a_command_follows_the_logging_of_the_program(caplog: pytest.LogCaptureFixture) -> None:
    warning("disk", "no room for %d pictures", bytes=3)
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("vtad", "WARNING", "no room for %d pictures")
    ]


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    for json_lines in (False, True):
        stream = io.StringIO()
        with logging_to(json_lines=json_lines, stream=stream):
            event("e", "two\nlines \x1b[31m \udcff", path=Path("x"))
        assert stream.getvalue().count("\n") == 1
        assert "\x1b" not in stream.getvalue()
        stream.getvalue().encode()


def test_events_of_many_threads_never_mix() -> None:
    stream = io.StringIO()

    def say() -> None:
        for _ in range(200):
            event("e", "x" * 50)

    threads = [threading.Thread(target=say) for _ in range(4)]
    with logging_to(json_lines=True, stream=stream):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 800


def test_a_log_that_cannot_be_written_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    closed.close()
    with logging_to(stream=closed):
        event("e", "nobody hears it")
    with logging_to():
        event("e", "stderr as it is now")
    assert "stderr as it is now" in capsys.readouterr().err


# The video


def frames(path: Path) -> list[NDArray[np.uint8]]:
    video = cv2.VideoCapture(str(path))
    found: list[NDArray[np.uint8]] = []
    while True:
        ok, bgr = video.read()
        if not ok:
            return found
        found.append(np.asarray(bgr[:, :, ::-1], np.uint8))


def near(rgb: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    """How many pixels have that colour, give or take what the codec does to it."""
    return int((np.abs(rgb.astype(int) - colour).max(axis=2) < 40).sum())


def test_a_video_has_one_frame_per_judgement_and_its_name_only_when_it_is_whole(
    tmp_path: Path, detector: Detector
) -> None:
    path = tmp_path / "new" / "out.mp4"
    output = VideoOutput(path, fps=5)
    for n in range(6):
        output.write(judged(detector, bad() if n % 2 else good()))
    assert not path.exists()
    output.close()
    output.close()  # twice does no harm
    assert [p.name for p in path.parent.iterdir()] == ["out.mp4"]
    shown = frames(path)
    assert len(shown) == 6
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 5
    for n, frame in enumerate(shown):
        verdict, other = (Verdict.NG, Verdict.OK) if n % 2 else (Verdict.OK, Verdict.NG)
        assert near(frame, VERDICT_COLOURS[verdict]) > 2 * near(frame, VERDICT_COLOURS[other])  # the scale has red too
    assert abs(shown[0][20, 20].astype(int) - 100).max() < 12  # a good part looks like itself


def test_the_first_frame_sets_the_size_and_others_are_letterboxed(tmp_path: Path, detector: Detector) -> None:
    output = VideoOutput(tmp_path / "out.mp4")
    sizes = [(401, 301), (64, 64), (301, 700)]
    for width, height in sizes:
        output.write(judged(detector, good(width, height)))
    output.close()
    shown = frames(tmp_path / "out.mp4")
    assert len({f.shape for f in shown}) == 1
    assert len(shown) == 3
    assert shown[0].shape[1] == pytest.approx(401, abs=1)
    assert shown[0].shape[0] % 2 == shown[0].shape[1] % 2 == 0
    assert shown[2][100, 5].max() < 60  # dark beside the tall picture


def test_a_large_picture_is_shrunk_and_its_regions_with_it(detector: Detector) -> None:
    picture = annotated(judged(detector, bad(2560, 320, x=1280, y=160, size=120)))
    assert picture.shape[1] == 1280
    lit = np.argwhere(picture[:160].max(axis=2) > 200)  # the white square with its box, drawn at half the size
    assert lit.min(axis=0) == pytest.approx([80, 640], abs=8)
    assert lit.max(axis=0) == pytest.approx([140, 720], abs=8)  # the box ends with a pixel of the model, 40 wide here


def test_what_counts_is_the_verdict_of_the_judgement_not_of_the_picture_alone(detector: Detector) -> None:
    stale = annotated(judged(detector, good(400, 300), verdict=Verdict.STALE, reason="900 ms old"))
    assert near(stale, VERDICT_COLOURS[Verdict.STALE]) > 100
    assert near(stale, VERDICT_COLOURS[Verdict.OK]) == 0


def test_a_lost_source_is_shown_in_words_not_by_the_last_picture(tmp_path: Path, detector: Detector) -> None:
    output = VideoOutput(tmp_path / "out.mp4")
    output.write(GONE)  # before the first frame: the size is not known
    output.write(judged(detector, good(640, 480)))
    output.write(GONE)
    output.write(judged(detector, good(640, 480), result=None, verdict=Verdict.UNSURE, reason="the picture is black"))
    output.close()
    shown = frames(tmp_path / "out.mp4")
    assert len(shown) == 3
    assert near(shown[1], VERDICT_COLOURS[Verdict.ERROR]) > 500
    assert near(shown[1], (100, 100, 100)) < shown[1][:, :, 0].size / 20  # nothing of the last picture
    assert near(shown[2], VERDICT_COLOURS[Verdict.UNSURE]) > 500
    assert near(shown[2], (100, 100, 100)) > shown[2][:, :, 0].size / 2


def test_a_picture_that_cannot_be_drawn_is_shown_in_words(
    tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    output = VideoOutput(tmp_path / "out.mp4")
    with monkeypatch.context() as m:
        m.setattr("vtad_runtime.drawing.heatmap.tint", full)
        output.write(judged(detector, bad(640, 480)))  # before the first frame: the size is not known
    output.write(judged(detector, bad(640, 480)))
    monkeypatch.setattr("vtad_runtime.drawing.heatmap.tint", full)
    output.write(judged(detector, bad(640, 480), verdict=Verdict.UNSURE))
    output.close()
    shown = frames(tmp_path / "out.mp4")
    assert len(shown) == 2
    assert near(shown[1], VERDICT_COLOURS[Verdict.UNSURE]) > 500
    assert near(shown[1], (100, 100, 100)) < shown[1][:, :, 0].size / 20


@pytest.mark.parametrize("size", [(20, 400), (3000, 40), (64, 64)])
def test_words_fit_any_picture(detector: Detector, size: tuple[int, int]) -> None:
    picture = annotated(judged(detector, good(*size), result=None, verdict=Verdict.ERROR, reason="long " * 60))
    assert picture.shape[1] >= 360


def test_a_video_that_cannot_be_written_is_one_clear_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "there.mp4").touch()
    for name, message in (
        ("out.avi", r"expected a video name that ends in \.mp4"),
        ("there.mp4", "expected a new file"),
        ("file/out.mp4", "cannot write a video"),
    ):
        with pytest.raises(VideoError, match=message) as caught:
            VideoOutput(tmp_path / name)
        assert "\n" not in str(caught.value)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(VideoError, match=r"out\.mp4: cannot write a video: No space left on device") as caught:
            VideoOutput(tmp_path / "out.mp4")
        assert caught.value.exit_code == NOT_WRITTEN
    monkeypatch.setattr("vtad_runtime.outputs.video.CODEC", "????")
    with pytest.raises(VideoError, match="got no encoder"):
        VideoOutput(tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "there.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_video_that_the_disk_did_not_take_is_told_and_not_named(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from vtad_runtime.verdict.judgement import Frame, Judgement\n"
        "from vtad_runtime.verdict.verdict import Verdict\n"
        "from vtad_runtime.outputs.video import VideoError, VideoOutput\n"
        "output = VideoOutput(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"  # writes beyond fail, as on a full disk
        "noise = np.random.default_rng(0)\n"
        "for n in range(20):\n"
        "    rgb = noise.integers(0, 256, (240, 400, 3), dtype=np.uint8)\n"
        "    frame = Frame(n, 0.0, 0.0, 0.0, 0, rgb)\n"
        "    output.write(Judgement('camera 0', n, 0.0, Verdict.ERROR, 'x', None, 1.0, frame, None))\n"
        "try:\n"
        "    output.close()\n"
        "except VideoError as e:\n"
        "    print(e)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert re.search(r"out\.part\.mp4: expected 20 frames, got \d+; is the disk full\?\n$", done.stdout)
    assert not (tmp_path / "out.mp4").exists()


def test_a_run_without_frames_leaves_no_video(tmp_path: Path) -> None:
    output = VideoOutput(tmp_path / "out.mp4")
    output.close()
    assert list(tmp_path.iterdir()) == []


# The documentation


def documented(first_column: str) -> list[str]:
    """The names in the table of docs/results.md that begins with this column."""
    lines = iter((DOCS / "results.md").read_text(encoding="utf-8").splitlines())
    assert any(line.startswith(f"| {first_column} |") for line in lines), first_column
    next(lines)
    names: list[str] = []
    for line in lines:
        if not line.startswith("|"):
            return names
        names += re.findall(r"`([^`]+)`", line.split("|")[1])
    return names


def test_the_documented_fields_are_those_that_are_written(detector: Detector, tmp_path: Path) -> None:
    row = judged(detector, bad()).row()
    message = Messages(None).of(GONE)
    webhook = WebhookOutput("http://127.0.0.1:9/", tmp_path / "spool")
    state = webhook.state()
    webhook.close()
    assert list(row) == documented("field")
    assert list(row["regions"][0]) == documented("field of a region")
    assert [f.name for f in dataclasses.fields(Region)] == documented("field of a region")
    assert [k for k in message if k not in GONE.row()] == documented("field of a message")
    assert list(state) == documented("field of a state")


def test_the_documented_fields_of_the_results_folder_are_those_that_are_written_whatever_the_source(
    tmp_path: Path,
) -> None:

    cv2.imwrite(str(tmp_path / "good.png"), good())
    video = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(3):
        video.write(good())
    video.release()
    model = str(write_model(tmp_path / "m.onnx"))
    for source, file in (("--folder", "good.png"), ("--video", "in.avi")):
        out = tmp_path / source
        done = CliRunner().invoke(run, [source, str(tmp_path / file), "--model", model, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert list(json.loads((out / "0001/run.json").read_text())) == documented("field of the run")
        assert list(json.loads((out / "0001/summary.json").read_text())) == documented("field of the summary")
        row = json.loads((out / "0001/results.jsonl").read_text().splitlines()[0])
        assert list(row) == documented("field")
        assert list(rows_of(out / "0001/results.csv")[0]) == list(row)


def test_a_spreadsheet_of_each_country_opens_results_csv_by_double_click(tmp_path: Path) -> None:
    name = "Stück; 1,5.png"
    Image.fromarray(bad()).save(tmp_path / name)
    options = ["--folder", str(tmp_path / name), "--model", str(write_model(tmp_path / "m.onnx")), "--save", "none"]
    read = []
    for number, (dialect, begin, delimiter, decimal) in enumerate(
        [
            ([], b"\xef\xbb\xbf", b",", b"."),
            (["--csv-dialect", "excel"], b"\xef\xbb\xbf", b",", b"."),
            (["--csv-dialect", "excel-eu"], b"\xef\xbb\xbf", b";", b","),
            (["--csv-dialect", "rfc4180"], b"", b",", b"."),
        ],
        1,
    ):
        done = CliRunner().invoke(run, [*options, *dialect, "--out", str(tmp_path / "out")])
        assert done.exit_code == 1, done.output
        file = tmp_path / f"out/{number:04d}/results.csv"
        header, row, end = file.read_bytes().split(b"\r\n")
        assert header.startswith(begin + b"source" + delimiter)
        assert delimiter + f"{THRESHOLD}".encode().replace(b".", decimal) + delimiter in row
        assert end == b""
        read += rows_of(file)
    assert {row["file"] for row in read} == {str(tmp_path / name)}
    assert len({(row["score"], row["threshold"]) for row in read}) == 1


def test_the_documented_columns_and_fields_of_vtad_score_are_those_that_are_written() -> None:
    assert COLUMNS.names == documented("field") + documented("column of vtad-score")
    assert [f.name for f in dataclasses.fields(Job)] == documented("field of score.json")
    assert [f.name for f in dataclasses.fields(Weighing)] == documented("field of weighing")


def test_every_event_of_a_receiver_is_documented() -> None:
    assert list(get_args(Event)) == documented("event")


# The service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (DOCS / "vtad-run.service").read_text(encoding="utf-8")
    unit = tmp_path / "vtad-run.service"
    unit.write_text(text.replace("/opt/vtad/bin/vtad-run", str(shutil.which("true"))))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (verified.returncode, verified.stderr.strip()) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    wrong = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "sometimes" in wrong.stderr  # it does look


def test_the_options_in_the_unit_are_options_of_the_command() -> None:

    text = (DOCS / "vtad-run.service").read_text(encoding="utf-8")
    command = re.search(r"^ExecStart=(.*)$", text, re.M)
    assert command
    used = {word for word in shlex.split(command.group(1)) if word.startswith("--")}
    assert used <= {option for parameter in run.params for option in parameter.opts}
