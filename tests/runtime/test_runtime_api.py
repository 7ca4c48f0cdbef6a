"""The runtime from a program of one's own: `Detector` on whatever holds a picture, `watch` on whatever shows a line."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_camera import eventually, mjpeg_camera, write_video
from PIL import Image
from tiny_model import bad, good, make_card, write_model

from vtad_runtime import Detector, ImageError, Judgement, ModelError, Verdict, VtadError, watch
from vtad_runtime.contract.card import ScoreRule
from vtad_runtime.drawing import heatmap
from vtad_runtime.line import build
from vtad_runtime.page.state import PageState
from vtad_runtime.sources import files
from vtad_runtime.sources.room import Room
from vtad_runtime.verdict.detector import Result
from vtad_runtime.verdict.frame_check import FrameChecks
from vtad_runtime.verdict.judgement import Frame
from vtad_runtime.verdict.mask import Mask


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("runs/tiny/1/export/tiny.onnx"))
    for name, rgb in (("1", good()), ("2", bad()), ("10", good())):
        Path("in").mkdir(exist_ok=True)
        Image.fromarray(rgb).save(f"in/{name}.png")


MODEL = "runs/tiny/1/export/tiny.onnx"


def test_a_detector_takes_a_path_the_bytes_of_a_file_or_an_array() -> None:
    detector, file = Detector(MODEL), Path("in/2.png")
    results = [detector(picture) for picture in (file, str(file), file.read_bytes(), bad())]
    assert {(r.score, r.verdict) for r in results} == {(results[0].score, Verdict.NG)}
    mixed = detector.batch([file, good(), file.read_bytes()])
    assert [r.verdict for r in mixed] == [Verdict.NG, Verdict.OK, Verdict.NG]
    with pytest.raises(ImageError, match="expected PNG, JPEG"):
        detector(b"no picture")
    with pytest.raises(ImageError, match="got nothing there"):
        detector("in/none.png")
    with pytest.raises(ValueError, match="expected an RGB array"):
        detector(np.zeros((4, 4), np.uint8))


def test_a_detector_opens_a_path_the_bytes_of_a_model_or_one_that_is_open() -> None:
    detector = Detector(MODEL)
    of_bytes = Detector(Path(MODEL).read_bytes(), threads=1)
    assert of_bytes.card == detector.card
    assert of_bytes(bad()).score == detector(bad()).score

    class Opened:
        path, card, integrity, engine = detector.path, detector.card, detector.integrity, "mine"
        callers = 1

        def run(self, batch: Any) -> Any:
            return detector_of_file.run(batch)

        def verdict(self, batch: Any) -> Any:
            self.ran = len(batch)
            return detector_of_file.verdict(batch)

        def open_whole(self) -> None:
            pass

        def references(self) -> None:
            return None

    from vtad_runtime.engine.opening import open_model

    detector_of_file, opened = open_model(MODEL), Opened()
    assert Detector(opened)(bad()).verdict is Verdict.NG
    assert opened.ran == 1
    with pytest.raises(ModelError, match="<bytes>: expected an ONNX model"):
        Detector(b"hello")


@pytest.mark.parametrize("model", [None, MODEL, Path(MODEL), "bytes", "detector"])
def test_a_folder_is_watched_by_any_model_and_nothing_is_written(model: Any) -> None:
    before = sorted(Path().rglob("*"))
    model = Path(MODEL).read_bytes() if model == "bytes" else Detector(MODEL) if model == "detector" else model
    seen: list[Judgement] = []
    summary = watch("in", model, seen.append)
    assert [(j.file, j.verdict) for j in seen] == [("in/1.png", "OK"), ("in/2.png", "NG"), ("in/10.png", "OK")]
    assert seen[1].result is not None
    assert seen[1].result.regions
    assert seen[1].frame is not None
    assert np.array_equal(seen[1].frame.rgb, bad())
    assert (summary.rows, summary.verdicts, summary.results) == (3, {"OK": 2, "NG": 1}, None)
    assert sorted(Path().rglob("*")) == before


def test_a_video_is_watched_with_options_and_results() -> None:
    write_video(Path("a.avi"), [good()] * 4 + [bad()] * 4)
    rows: list[dict[str, Any]] = []
    summary = watch(
        Path("a.avi"),
        MODEL,
        lambda judgement: rows.append(judgement.row()),
        max_frames=6,
        alarm=(2, 3),
        unsure_from=1.5,
        roi=(0, 0, 64, 64),
        frame_check=["black"],
        out="results",
        save="all",
    )
    assert [row["alarm"] for row in rows] == [False] * 5 + [True]
    assert summary.results == Path("results/0001")
    written = [json.loads(line) for line in (summary.results / "results.jsonl").read_text().splitlines()]
    assert written == rows  # the row was on disk before the function got it
    assert all((summary.results / row["heatmap"]).is_file() for row in rows)
    assert json.loads((summary.results / "summary.json").read_text())["verdicts"] == {"OK": 4, "NG": 2}


def test_a_hot_folder_is_watched_until_an_event_is_set() -> None:
    stop, seen = threading.Event(), list[str | None]()

    def look(judgement: Judgement) -> None:
        seen.append(judgement.file)
        if len(seen) == 3:
            stop.set()

    summary = watch("watch:in", MODEL, look, stop=stop, out="results")
    assert sorted(map(str, seen)) == ["in/1.png", "in/10.png", "in/2.png"]
    assert summary.rows == 3


def test_a_stream_is_watched_from_a_thread_until_a_function_says_stop() -> None:
    seen: list[Judgement] = []
    with mjpeg_camera(good(128, 128)) as camera:
        thread = threading.Thread(target=lambda: watch(camera.url, MODEL, seen.append, stop=lambda: len(seen) >= 5))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert {judgement.verdict for judgement in seen} == {Verdict.OK}
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("vtad")])


def test_a_camera_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class NoCamera:
        def __init__(self, index: int) -> None:
            asked.append(index)

        def isOpened(self) -> bool:
            return False

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", NoCamera)
    with pytest.raises(VtadError, match="camera 3: expected a camera that opens"):
        watch(3, MODEL)
    assert asked == [3]


class Watched(Room):
    """Room for a number of bytes; notes how many pictures were held at once."""

    def __init__(self) -> None:
        super().__init__(limit=1)
        self.pictures: set[object] = set()
        self.most = 0

    def hold(self, picture: str | int, size: int) -> None:
        self.pictures.add(picture)
        self.most = max(self.most, len(self.pictures))
        super().hold(picture, size)

    def leave(self, picture: str | int) -> None:
        self.pictures.discard(picture)
        super().leave(picture)


@pytest.mark.parametrize("source", ["in", "watch:in", "a.avi", "stream"])
def test_pictures_larger_than_the_room_for_them_are_judged_one_at_a_time(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Watched()
    monkeypatch.setattr(build, "Room", lambda: room)
    write_video(Path("a.avi"), [good(64, 64)] * 3)
    with mjpeg_camera(good(64, 64)) as camera:
        summary = watch(camera.url if source == "stream" else source, MODEL, max_frames=3, out="out", save="none")
    assert (summary.rows, summary.verdicts[Verdict.ERROR]) == (3, 0)
    assert room.most == 1


def test_the_page_keeps_no_large_frame() -> None:
    rgb = np.zeros((4096, 4097, 3), np.uint8)
    frame, detector = Frame(1, 0.0, 0.0, 0.0, 0, rgb), Detector(MODEL)
    page = PageState(detector.card, "in", MODEL)
    for result in (detector(rgb), None):
        page.write(Judgement("in", 1, 0.0, Verdict.NG, None, None, 2.0, frame, result))
        assert page.newest is not None
        assert page.newest[1].frame is not None
        assert max(page.newest[1].frame.rgb.shape) == 800
        assert page.snapshot()["latest"]["size"] == "4097 × 4096"


STAGES: dict[str, tuple[object, str]] = {
    "reading": (files, "read_picture"),
    "preparing": (Detector, "prepare"),
    "checking": (FrameChecks, "look"),
    "the model": (Detector, "judge"),
    "masking": (Mask, "apply"),
    "drawing": (heatmap, "tint"),
    "encoding": (cv2, "imencode"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("source", "callers"), [("in", 1), ("in", 3), ("watch:in", 1)])
def test_a_picture_that_fails_for_whatever_reason_costs_itself_alone(
    source: str, callers: int, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.full((64, 64, 3), 20, np.uint8)).save("in/3.png")
    Image.new("L", (64, 64), 255).save("mask.png")
    model = write_model(
        Path("cells.onnx"), dataclasses.replace(make_card(), score_rule=ScoreRule(cell=1, top_share=1e-9))
    )
    works = getattr(*STAGES[stage])

    def is_odd(what: Any) -> bool:
        if isinstance(what, list):
            return any(is_odd(prepared.pixels[:, 0, 0]) for prepared in what)
        if isinstance(what, Path):
            return what.name == "3.png"
        return bool((np.ravel(getattr(what, "reconstruction", what))[:3] == 20).all())

    def fails(*args: Any, **options: Any) -> Any:
        if stage == "encoding" or any(is_odd(a) for a in args if isinstance(a, Path | list | np.ndarray | Result)):
            raise ZeroDivisionError("of its own")
        return works(*args, **options)

    monkeypatch.setattr(*STAGES[stage], fails)
    stop, seen = threading.Event(), dict[str, Judgement]()

    def heard(judgement: Judgement) -> None:
        seen[str(judgement.file)] = judgement
        if len(seen) == 4:
            stop.set()

    detector = Detector(model, 2, callers=callers)
    watch(source, detector, heard, stop=stop, out="out", save="all", roi_mask="mask.png")
    judged = stage in ("drawing", "encoding")
    verdicts = {Path(file).stem: j.verdict for file, j in seen.items()}
    assert verdicts == {"1": "OK", "2": "NG", "3": "NG" if judged else "ERROR", "10": "OK"}
    assert judged or "ZeroDivisionError: of its own" in str(seen["in/3.png"].reason)
    assert (seen["in/3.png"].heatmap is None) == (judged or stage != "masking")
    assert (seen["in/2.png"].heatmap is None) == (stage == "encoding")


def test_what_the_function_raises_ends_the_run_and_is_raised() -> None:
    def fails(judgement: Judgement) -> None:
        raise RuntimeError(f"at {judgement.file}")

    with pytest.raises(RuntimeError, match=r"at in/1\.png"):
        watch("in", MODEL, fails)
    assert not [t for t in threading.enumerate() if t.name.startswith("vtad")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 1.0}, "--every: expected only with --camera, --stream, --video"),
        ({"rotate": 45}, "--rotate: expected one of 0, 90, 180, 270, got 45"),
        ({"max_frames": 0}, "--max-frames: expected a number above 0, got 0"),
        ({"alarm_off": 1.0}, "--alarm-off: expected together with --alarm"),
        ({"keep": 10**9}, "--keep: expected together with --out"),
        ({"unsure_from": 3.0}, "--unsure-from: expected a score up to the threshold 2"),
        ({"frame_check": ["blur"]}, "--frame-check: expected "),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(VtadError) as error:
        watch("in", MODEL, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unknown options log_json, verbose"):
        watch("in", MODEL, verbose=True, log_json=True)
    with pytest.raises(VtadError, match="--watch: expected together with --out"):
        watch("watch:in", MODEL)
