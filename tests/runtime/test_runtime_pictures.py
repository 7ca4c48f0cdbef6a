"""Saved pictures of a live run: what they show, what they are called, and how much room they may take."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from tiny_model import THRESHOLD, bad, good, write_model

from vtad_runtime import Detector, Result, read_rgb
from vtad_runtime.contract.image import image_size
from vtad_runtime.drawing import heatmap
from vtad_runtime.outputs import pictures
from vtad_runtime.outputs.pictures import PictureOptions, PictureWriter, Saved
from vtad_runtime.outputs.retention import Retention
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.verdict import Verdict

Usage = namedtuple("Usage", "total used free")
MOMENT = 1795509000.123  # 2026-11-24T08:30:00.123Z


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return Detector(write_model(tmp_path / "m.onnx"), threads=1)


@pytest.fixture
def judge(detector: Detector) -> Callable[..., Judgement]:
    """judge(rgb, number=1, verdict=None, reason=None): a live frame, judged."""

    def judged(
        rgb: np.ndarray[Any, Any], number: int = 1, verdict: Verdict | None = None, reason: str | None = None
    ) -> Judgement:
        result = detector(rgb)
        frame = Frame(number, MOMENT, time.monotonic(), 0.0, 0, rgb)
        return Judgement("camera 0", number, MOMENT, verdict or result.verdict, reason, None, THRESHOLD, frame, result)

    return judged


def writer(folder: Path, **options: Any) -> PictureWriter:
    return PictureWriter(folder, PictureOptions(**{"save": "all", "reserve": False, **options}))


def saved(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))


def test_names_say_when_which_frame_and_verdict(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    output = writer(tmp_path)
    name = "heatmaps/20261124T083000.123Z-000123-NG.jpg"
    assert output.save(judge(bad(), 123)) == Saved(heatmap=name, original=None)
    assert saved(tmp_path) == [name]


@pytest.mark.parametrize(("save", "names"), [("all", ["NG", "OK", "UNSURE"]), ("ng", ["NG", "UNSURE"]), ("none", [])])
def test_which_are_saved(save: str, names: list[str], tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    output = writer(tmp_path, save=save)
    for number, judgement in enumerate((judge(good(), 1), judge(bad(), 2), judge(good(), 3, Verdict.UNSURE, "dark"))):
        kept = output.save(judgement).heatmap
        assert (kept is not None) == (("OK", "NG", "UNSURE")[number] in names)
    assert sorted(Path(name).stem.split("-")[-1] for name in saved(tmp_path)) == names


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("view", ["overlay", "panel"])
def test_overlay_or_panel_as_jpeg_or_png(
    view: Literal["overlay", "panel"],
    suffix: Literal[".jpg", ".png"],
    tmp_path: Path,
    judge: Callable[..., Judgement],
) -> None:
    output = writer(tmp_path, view=view, suffix=suffix)
    path = tmp_path / str(output.save(judge(bad())).heatmap)
    assert path.read_bytes().startswith(b"\xff\xd8" if suffix == ".jpg" else b"\x89PNG")
    width, height = image_size(path)
    assert (width / height > 3) == (view == "panel")  # five tiles side by side


def test_originals_hold_the_very_pixels_that_were_judged(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    output = writer(tmp_path, originals=True)
    name = "originals/20261124T083000.123Z-000007-NG.png"
    assert output.save(judge(rgb, 7)).original == name
    assert np.array_equal(read_rgb(tmp_path / name), rgb)


def test_the_picture_says_what_the_row_says(
    tmp_path: Path, judge: Callable[..., Judgement], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Result] = []

    def overlay(rgb: np.ndarray[Any, Any], result: Result) -> np.ndarray[Any, Any]:
        drawn.append(result)
        return rgb

    monkeypatch.setattr(heatmap, "overlay", overlay)
    output = writer(tmp_path)
    output.save(judge(good(), 1, Verdict.UNSURE, "the picture is black"))
    output.save(judge(bad(), 2))
    assert [(r.verdict, r.error) for r in drawn] == [(Verdict.UNSURE, "the picture is black"), (Verdict.NG, None)]


def test_a_picture_that_cannot_be_drawn_is_said_once_and_costs_nothing_else(
    tmp_path: Path, judge: Callable[..., Judgement], monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    output = writer(tmp_path, originals=True)
    monkeypatch.setattr(cv2, "applyColorMap", lambda *_: (_ for _ in ()).throw(cv2.error("no memory")))
    for number in (1, 2):
        kept = output.save(judge(bad(), number))
        assert kept.heatmap is None
        assert kept.original is not None
    assert len(messages) == 1
    assert "000001-NG.jpg is left out: the picture cannot be drawn: cv2.error: no memory" in messages[0]


def test_news_without_a_frame_leave_no_picture(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    output = writer(tmp_path, originals=True)
    output.save(judge(bad()))
    gone = Judgement("camera 0", 1, MOMENT, Verdict.ERROR, "gone", None, THRESHOLD, None, None)
    assert output.save(gone) == Saved()
    assert len(saved(tmp_path)) == 2


def test_a_full_disk_is_said_once_judging_goes_on_and_saving_comes_back(
    tmp_path: Path, judge: Callable[..., Judgement], monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    output = writer(tmp_path)
    with monkeypatch.context() as patch:

        def full(self: Path, data: bytes) -> int:
            with self.open("wb") as file:
                file.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(Path, "write_bytes", full)
        patch.setattr(pictures, "RETRY_S", 0.0)
        for number in range(3):
            assert output.save(judge(bad(), number)) == Saved()
    assert len(messages) == 1
    assert "cannot save pictures: No space left on device; judging goes on" in messages[0]
    assert list((tmp_path / "heatmaps").iterdir()) == []  # nothing half written
    assert output.save(judge(bad(), 9)).heatmap is not None
    assert messages[1:] == [f"{tmp_path}: pictures are saved again"]


def test_after_a_failure_nothing_is_tried_for_a_while(
    tmp_path: Path, judge: Callable[..., Judgement], monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    (tmp_path / "heatmaps").write_text("in the way")
    output = writer(tmp_path)
    output.save(judge(bad(), 1))
    (tmp_path / "heatmaps").unlink()
    assert output.save(judge(bad(), 2)) == Saved()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + pictures.RETRY_S + 1)
    assert output.save(judge(bad(), 3)).heatmap is not None
    assert len(messages) == 2


def picture(path: Path, size: int, age: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def ended_run(parent: Path, name: str) -> Path:
    Retention(parent / name, None, 0).close()
    (parent / name / "results.jsonl").write_text("{}\n")
    return parent / name


def test_the_oldest_pictures_go_first_and_the_sum_stays_below_the_limit(tmp_path: Path) -> None:
    retention = Retention(tmp_path / "0001", 1000, 0)
    for number in range(20):
        assert retention.room_for(300)
        retention.added(picture(tmp_path / f"0001/heatmaps/{number}.jpg", 300, age=-number))
        assert sum(p.stat().st_size for p in (tmp_path / "0001/heatmaps").iterdir()) <= 1000
    assert saved(tmp_path) == ["0001/heatmaps/17.jpg", "0001/heatmaps/18.jpg", "0001/heatmaps/19.jpg"]


def test_pictures_of_ended_runs_count_and_go_first_but_nothing_else_does(tmp_path: Path) -> None:
    earlier = ended_run(tmp_path, "0001")
    old = picture(earlier / "heatmaps/a.jpg", 400, age=50)
    older = picture(earlier / "originals/a.png", 400, age=60)
    folder_run = picture(tmp_path / "0002/heatmaps/part.png.jpg", 400, age=99)  # of vtad-run --folder: kept
    (tmp_path / "0002/results.jsonl").write_text("{}\n")
    others = picture(tmp_path / "holiday/beach.jpg", 400, age=99)
    elsewhere = picture(earlier / "beach.jpg", 400, age=99)
    retention = Retention(tmp_path / "0003", 1000, 0)
    assert retention.room_for(300)
    assert (old.exists(), older.exists()) == (True, False)
    assert retention.room_for(1000)
    assert not old.exists()
    assert folder_run.exists()
    assert others.exists()
    assert elsewhere.exists()
    assert (earlier / "results.jsonl").exists()


def test_a_run_that_goes_on_beside_this_one_is_left_alone(tmp_path: Path) -> None:
    other = Retention(tmp_path / "0001", None, 0)
    theirs = picture(tmp_path / "0001/heatmaps/a.jpg", 400, age=50)
    assert Retention(tmp_path / "0002", 500, 0).room_for(500)
    assert theirs.exists()
    other.close()
    assert Retention(tmp_path / "0003", 500, 0).room_for(500)
    assert not theirs.exists()


def test_a_picture_that_never_fits_is_said_once(tmp_path: Path, messages: list[str]) -> None:
    retention = Retention(tmp_path / "0001", 1000, 0)
    assert not retention.room_for(1001)
    assert not retention.room_for(2000)
    assert len(messages) == 1
    assert retention.room_for(1000)


def test_a_results_folder_that_somebody_removed_ends_nothing(tmp_path: Path) -> None:
    retention = Retention(tmp_path / "0001", 1000)
    shutil.rmtree(tmp_path / "0001")
    assert retention.room_for(500)


def test_what_cannot_be_deleted_keeps_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    stuck = picture(ended_run(tmp_path, "0001") / "heatmaps/a.jpg", 600, age=9)

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "unlink", refuse)
    retention = Retention(tmp_path / "0002", 1000, 0)
    assert not retention.room_for(500)
    assert retention.room_for(400)
    assert stuck.exists()
    assert "cannot be deleted to make room: Permission denied" in messages[0]


def test_pictures_that_somebody_else_deleted_make_room(tmp_path: Path) -> None:
    gone = picture(ended_run(tmp_path, "0001") / "heatmaps/a.jpg", 600, age=9)
    retention = Retention(tmp_path / "0002", 1000, 0)
    gone.unlink()
    assert retention.room_for(900)


def test_saving_stops_before_the_disk_is_full_and_judging_goes_on(
    tmp_path: Path, judge: Callable[..., Judgement], monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    free = 3 * 10**9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
    output = writer(tmp_path / "0001", reserve=True)

    def saves(number: int) -> bool:
        return output.save(judge(bad(), number)).heatmap is not None

    assert saves(1)
    free = 10**9 - 1  # the reserve of 1 GB is touched
    assert [saves(2), saves(3)] == [False, False]
    free = 10**9 + 10**7  # not clearly above it
    assert not saves(4)
    assert len(messages) == 1
    assert "1.00 GB free, 1.00 GB stay free: pictures are no longer saved; judging goes on" in messages[0]
    free = 2 * 10**9
    assert saves(5)
    assert len(messages) == 2
    assert "saved again" in messages[1]


def test_the_reserve_of_a_small_disk_is_2_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 0, 2 * 10**8 + 1000))
    retention = Retention(tmp_path / "0001", None)
    assert retention.room_for(1000)
    assert not retention.room_for(1001)


def test_a_writer_under_a_limit_keeps_the_newest(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    probe = writer(tmp_path / "probe")
    size = (tmp_path / "probe" / str(probe.save(judge(bad(), 1)).heatmap)).stat().st_size
    output = writer(tmp_path / "0001", keep=3 * size + size // 2)
    for number in range(8):
        assert output.save(judge(bad(), number)).heatmap is not None
    assert [Path(name).stem.split("-")[1] for name in saved(tmp_path / "0001")] == ["000005", "000006", "000007"]


def test_png_is_read_back_in_the_right_colours(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    red = good()
    red[:] = (255, 0, 0)
    output = writer(tmp_path, originals=True)
    original = output.save(judge(red)).original
    assert cv2.imread(str(tmp_path / str(original)))[0, 0].tolist() == [0, 0, 255]  # type: ignore[index]  # BGR
