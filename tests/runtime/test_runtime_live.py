"""Judging as frames come: rows, late frames, a source that is gone, outputs that are slow or fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest
from fake_camera import LOST, FakeSource, eventually
from tiny_model import bad, good, make_card, write_model

from vtad_runtime import Detector, Verdict, watch
from vtad_runtime.line import loop, silence, writer
from vtad_runtime.line.loop import judge_frames
from vtad_runtime.line.silence import Silence
from vtad_runtime.line.writer import WAITING, Writer
from vtad_runtime.outputs.pictures import PictureOptions
from vtad_runtime.outputs.results_folder import ResultsFolder
from vtad_runtime.outputs.run_file import RunFile
from vtad_runtime.sources.capture import Capture, CaptureOptions, Shot
from vtad_runtime.sources.files import FolderFrames
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.room import Room
from vtad_runtime.verdict.alarm import AlarmRule
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.verdict import CHECKS


class Kept:
    """An output that keeps judgements; `hold` makes it slow, `fail_at` makes it fail at that one."""

    def __init__(self, fail_at: int = 0) -> None:
        self.judgements: list[Judgement] = []
        self.hold = threading.Event()
        self.hold.set()
        self.fail_at, self.closed, self.thread = fail_at, 0, ""

    def write(self, judgement: Judgement) -> None:
        assert self.hold.wait(20)
        self.thread = threading.current_thread().name
        self.judgements.append(judgement)
        if len(self.judgements) == self.fail_at:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.closed += 1

    @property
    def verdicts(self) -> list[tuple[int, str]]:
        return [(j.number, str(j.verdict)) for j in self.judgements]


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return Detector(write_model(tmp_path / "m.onnx"), threads=1)


@contextmanager
def running(
    source: FakeSource,
    detector: Detector,
    *outputs: Any,
    rules: Rules | None = None,
    reopen: Any = None,
    drop: Any = "none",
    geometry: Geometry | None = None,
    waiting: int = WAITING,
    capture: CaptureOptions | None = None,
    endless: bool = True,
    **options: Any,
) -> Iterator[Any]:
    """Runs `judge_frames` in a thread, so that the test can go on; its error is raised at the end."""
    stop, failures = threading.Event(), []
    capture_options = capture or CaptureOptions(drop, geometry=geometry or Geometry())
    name = "camera 0"
    judge = Judge(name, detector, rules or Rules())
    overdue = Silence(name, detector, partial(judge.gone, 7) if endless else None)

    def work() -> None:
        try:
            with (
                Writer(outputs, waiting=waiting, quiet=overdue.look) as writing,
                Capture(name, source, capture_options, reopen) as frames,
            ):
                judge_frames(frames, judge, writing, stop.is_set, silence=overdue, **options)
        except Exception as e:
            failures.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert not [t for t in threading.enumerate() if t.name in ("vtad-write", "vtad-capture")]
    if failures:
        raise failures[0]


def test_every_frame_becomes_a_row_with_its_times_in_the_order_of_capture(detector: Detector) -> None:
    kept = Kept()
    with running(FakeSource(good(), bad(), good(), None), detector, kept) as thread:
        thread.join(20)
    assert kept.verdicts == [(1, "OK"), (2, "NG"), (3, "OK")]
    assert (kept.thread, kept.closed) == ("vtad-write", 1)
    for judgement in kept.judgements:
        row = judgement.row()
        assert row["reason"] is None
        assert row["captured_at"].endswith("Z")
        assert all(row[stage] >= 0 for stage in ("queue_age_ms", "capture_ms", "prepare_ms", "infer_ms"))
        assert row["infer_ms"] > 0


def test_a_frame_that_is_judged_too_late_is_stale_and_keeps_its_score(detector: Detector) -> None:
    kept = Kept()
    old = Shot(bad(), captured=time.monotonic() - 5)
    with running(FakeSource(good(), old, None), detector, kept, rules=Rules(max_age_s=4)) as thread:
        thread.join(20)
    assert [j.verdict for j in kept.judgements] == [Verdict.OK, Verdict.STALE]
    late = kept.judgements[1]
    assert late.score > late.threshold
    assert "at most 4000 ms" in (late.reason or "")
    assert "its score is NG" in (late.reason or "")
    assert late.queue_age_ms >= 5000
    assert late.result is not None
    assert late.result.verdict is Verdict.STALE  # pictures drawn from it say the same


def test_while_the_source_is_gone_the_verdict_is_error_again_and_again(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GONE_EVERY_S", 0.05)
    kept, second = Kept(), FakeSource()
    with running(FakeSource(good(), LOST), detector, kept, reopen=lambda: second):
        eventually(lambda: kept.verdicts[-3:] == [(1, "ERROR")] * 3)
        assert kept.verdicts[0] == (1, "OK")
        assert {j.reason for j in kept.judgements[1:]} == {"no further frame"}
        assert kept.judgements[-1].row()["score"] is None
        second.put(good())
        eventually(lambda: kept.verdicts[-1] == (2, "OK"))


def test_while_the_engine_does_not_answer_the_verdict_is_error_again_and_again(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.1)
    monkeypatch.setattr(writer, "QUIET_S", 0.05)
    hangs, answers, ask = threading.Event(), Detector.judge, threading.Event()

    def judged(self: Detector, *taken: Any, **options: Any) -> Any:
        if ask.is_set():
            assert hangs.wait(20)
        return answers(self, *taken, **options)

    monkeypatch.setattr(Detector, "judge", judged)
    kept, source = Kept(), FakeSource(good())
    with caplog.at_level("INFO", "vtad"), running(source, detector, kept, rules=Rules(max_age_s=0.2)):
        eventually(lambda: kept.verdicts == [(1, "OK")])
        time.sleep(0.3)  # no frame comes: nothing is due
        assert kept.verdicts == [(1, "OK")]
        ask.set()
        source.put(good())
        eventually(lambda: len(kept.judgements) >= 4)
        assert {str(j.verdict) for j in kept.judgements[1:]} == {"ERROR"}
        assert all((j.reason or "").startswith("engine cpu has not answered for ") for j in kept.judgements[1:])
        hangs.set()
        eventually(lambda: kept.verdicts[-1] == (2, "STALE"))
    assert [r.event for r in caplog.records] == ["silent", "answered"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_folder_whose_engine_does_not_answer_is_said_once_and_gets_no_row_more_than_it_has_files(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.1)
    monkeypatch.setattr(writer, "QUIET_S", 0.05)
    hangs, answers = threading.Event(), Detector.judge

    def judged(self: Detector, *taken: Any, **options: Any) -> Any:
        assert hangs.wait(20)
        return answers(self, *taken, **options)

    monkeypatch.setattr(Detector, "judge", judged)
    (tmp_path / "in").mkdir()
    for n in range(3):
        cv2.imwrite(str(tmp_path / f"in/{n}.png"), good())
    model, rows = write_model(tmp_path / "m.onnx"), list[Judgement]()
    run = threading.Thread(target=lambda: watch(tmp_path / "in", model, rows.append, threads=threads))
    with caplog.at_level("INFO", "vtad"):
        run.start()
        eventually(lambda: any("a file or engine cpu does not answer" in r.message for r in caplog.records))
        time.sleep(0.3)
        hangs.set()
        run.join(20)
    assert [str(row.verdict) for row in rows] == ["OK"] * 3
    said = [r.event for r in caplog.records]  # type: ignore[attr-defined]
    assert (said.count("silent"), said.count("answered")) == (1, 1)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), TimeoutError(110, "Connection timed out")])
def test_a_file_that_its_share_does_not_give_costs_itself_alone(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for n in range(4):
        cv2.imwrite(str(tmp_path / f"in/{n}.png"), good())
    is_file = Path.is_file

    def asked(path: Path) -> bool:
        if path.name == "2.png":
            raise error
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", asked)
    rows = list[Judgement]()
    watch(tmp_path / "in", write_model(tmp_path / "m.onnx"), rows.append)
    assert [str(row.verdict) for row in rows] == ["OK", "OK", "ERROR", "OK"]
    assert f"expected a readable file, got {error.strerror}" in (rows[2].reason or "")


def test_files_that_wait_for_room_when_a_run_ends_are_not_read(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(5)]
    for file in files:
        cv2.imwrite(str(file), good())
    begun, room = list[int](), Room(1)

    def prepare(frame: Frame) -> Frame:
        begun.append(frame.number)
        return frame

    frames = FolderFrames(files, 65535, Geometry(), prepare, 4, room, 4)
    eventually(lambda: frames.next(0.1) is not None)
    time.sleep(0.2)
    frames.close()
    assert begun == [1]


def test_frames_that_every_skips_are_no_silence(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.2)
    monkeypatch.setattr(writer, "QUIET_S", 0.02)
    monkeypatch.setattr(loop, "POLL_S", 0.02)
    source, kept = FakeSource(), Kept()
    options = CaptureOptions("none", every_s=1000.0)
    with caplog.at_level("INFO", "vtad"), running(source, detector, kept, capture=options, endless=False) as thread:
        for _ in range(12):
            source.put(good())
            time.sleep(0.05)
        source.put(None)
        thread.join(20)
    assert kept.verdicts == [(1, "OK")]
    assert not caplog.records


def test_the_news_that_the_source_is_gone_comes_at_once_and_then_rarely(detector: Detector) -> None:
    kept = Kept()
    with running(FakeSource(LOST), detector, kept, reopen=FakeSource):
        eventually(lambda: kept.judgements, seconds=2.5)
        assert len(kept.judgements) == 1


@pytest.mark.slow
def test_a_slow_output_holds_up_inference_and_not_capture_and_no_row_is_lost(
    detector: Detector,
) -> None:
    kept = Kept()
    kept.hold.clear()
    source = FakeSource()
    with running(source, detector, kept, drop="oldest", waiting=2):
        for n in range(200):
            source.put(good())
            eventually(lambda n=n: source.reads >= n + 2)  # type: ignore[misc]  # capture goes on
        kept.hold.set()
        eventually(lambda: kept.judgements and kept.judgements[-1].number == 200)
    numbers = [j.number for j in kept.judgements]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 20
    assert len(numbers) + sum(j.dropped for j in kept.judgements) == 200


def test_an_output_that_fails_ends_the_run_and_every_output_is_closed(detector: Detector) -> None:
    failing, after = Kept(fail_at=2), Kept()
    with (
        pytest.raises(OSError, match="No space left"),
        running(FakeSource(*[good()] * 50), detector, failing, after) as thread,
    ):
        thread.join(20)
    assert (failing.closed, after.closed) == (1, 1)
    assert len(after.judgements) == 1


def test_a_failing_output_is_heard_of_also_while_no_frame_comes(detector: Detector) -> None:
    with (
        pytest.raises(OSError, match="No space left"),
        running(FakeSource(good()), detector, Kept(fail_at=1)) as thread,
    ):
        thread.join(20)


def test_max_frames_counts_rows(detector: Detector) -> None:
    kept = Kept()
    with running(FakeSource(*[good()] * 9), detector, kept, max_frames=4) as thread:
        thread.join(20)
    assert len(kept.judgements) == 4


def test_a_file_that_cannot_be_read_is_an_error_row_that_names_it(detector: Detector) -> None:
    kept = Kept()
    shots = [Shot(None, path="in/1.png", error="in/1.png: damaged"), Shot(good(), path="in/2.png"), None]
    with running(FakeSource(*shots), detector, kept) as thread:
        thread.join(20)
    rows = [j.row() for j in kept.judgements]
    assert [(r["file"], r["verdict"], r["reason"]) for r in rows] == [
        ("in/1.png", "ERROR", "in/1.png: damaged"),
        ("in/2.png", "OK", None),
    ]


def test_a_region_outside_the_first_frame_ends_the_run_and_one_outside_a_later_frame_does_not(
    detector: Detector,
) -> None:
    geometry = Geometry((0, 0, 64, 64))
    with (
        pytest.raises(SourceError, match="--roi 0,0,64,64: expected a region inside the frame"),
        running(FakeSource(good(32, 32)), detector, Kept(), geometry=geometry) as thread,
    ):
        thread.join(20)
    kept = Kept()
    with running(FakeSource(good(), good(32, 32), good(), None), detector, kept, geometry=geometry) as thread:
        thread.join(20)
    assert [v for _, v in kept.verdicts] == ["OK", "ERROR", "OK"]


def test_the_cards_own_region_that_does_not_fit_is_an_error_row(tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "roi.onnx", make_card(roi=(0, 0, 60, 60))), threads=1)
    kept = Kept()
    with running(FakeSource(good(20, 20), good(), None), detector, kept) as thread:
        thread.join(20)
    assert [v for _, v in kept.verdicts] == ["ERROR", "OK"]


def test_frame_checks_and_the_alarm_see_every_frame_in_order(detector: Detector) -> None:
    kept = Kept()
    black = good() * 0  # far from the good grey: its score is NG
    rules = Rules(checks=frozenset(CHECKS), alarm=AlarmRule(2, 3, 2.0, 2.0))
    source = FakeSource(good(), bad(), bad(), black, good(), good(), good(), None)
    with running(source, detector, kept, rules=rules) as thread:
        thread.join(20)
    assert [v for _, v in kept.verdicts] == ["OK", "NG", "NG", "UNSURE", "OK", "OK", "OK"]
    assert [j.alarm for j in kept.judgements] == [False, False, True, True, True, False, False]
    assert (kept.judgements[3].reason or "").startswith("black picture")


def test_a_model_that_gives_nan_gives_error_rows(tmp_path: Path) -> None:
    detector = Detector(write_model(tmp_path / "nan.onnx", score_scale=float("nan")), threads=1)
    kept = Kept()
    with running(FakeSource(good(), None), detector, kept, rules=Rules(unsure_from=1.0)) as thread:
        thread.join(20)
    assert kept.verdicts == [(1, "ERROR")]
    assert "finite score" in (kept.judgements[0].reason or "")


class Hangs(Kept):
    """An output whose receiver does not answer when it is closed."""

    def close(self) -> None:
        time.sleep(0.3)
        super().close()


def test_outputs_are_closed_beside_each_other_for_each_may_wait_for_a_receiver() -> None:
    outputs = [Hangs() for _ in range(6)]
    start = time.monotonic()
    with Writer(outputs):
        pass
    assert [output.closed for output in outputs] == [1] * 6
    assert time.monotonic() - start < 1.2


def test_after_some_seconds_of_ending_rows_are_written_without_their_pictures(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtad_runtime.line.writer.DRAWING_S", 0.0)
    about = RunFile("", "", "", "", "", "", 2.0, "", None, 0, None, None, None, None, (), None)
    results, first, kept = ResultsFolder(tmp_path, PictureOptions("all", reserve=False), about), Kept(), Kept()
    first.hold.clear()
    judge = Judge("x", detector, Rules())
    with Writer([first, kept], results) as writer:
        for number in range(1, 4):
            (judgement,) = judge.judge([Frame(number, 0.0, time.monotonic(), 0.0, 0, good())])
            writer.put(judgement)
        eventually(lambda: list(tmp_path.glob("0001/heatmaps/*")))
        threading.Timer(0.1, first.hold.set).start()  # while the run ends
    assert [j.heatmap is None for j in kept.judgements] == [False, True, True]
    assert len((tmp_path / "0001/results.jsonl").read_text().splitlines()) == 3
