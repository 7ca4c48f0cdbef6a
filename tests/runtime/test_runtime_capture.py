"""The capture contract: the queue is bounded, drops are counted, what is lost is opened again, stop is answered."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_camera import LOST, FakeSource, eventually, write_video
from tiny_model import bad, good

from vtad_runtime.contract.image import ImageError
from vtad_runtime.sources import capture as capture_module
from vtad_runtime.sources.capture import Capture, CaptureOptions, Shot
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.opencv_sources import Video
from vtad_runtime.verdict.geometry import Geometry
from vtad_runtime.verdict.judgement import Frame, Unusable


class Log:
    """Keeps what is said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "vtad")
        self._caplog = caplog

    @property
    def events(self) -> list[Any]:
        return self._caplog.records

    def named(self, name: str) -> list[dict[str, Any]]:
        return [record.fields for record in self.events if record.event == name]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


@contextmanager
def capturing(source: FakeSource, reopen: Any = None, **options: Any) -> Iterator[Capture]:
    with Capture("camera 0", source, CaptureOptions(**options), reopen) as capture:
        yield capture
    assert not [t for t in threading.enumerate() if t.name == "vtad-capture"]


def take(capture: Capture) -> Frame:
    frame = capture.next(20)
    assert isinstance(frame, Frame)
    return frame


def all_read(source: FakeSource, count: int) -> None:
    """The source was asked for one more frame than it had, so all are in the queue or dropped."""
    eventually(lambda: source.reads == count + 1)


def test_the_newest_frame_wins_and_the_dropped_are_counted() -> None:
    source = FakeSource(*[good()] * 9, bad())
    with capturing(source) as capture:
        all_read(source, 10)
        frame = take(capture)
        assert (frame.number, frame.dropped) == (10, 9)
        assert np.array_equal(frame.rgb, bad())
        source.put(good())
        assert (take(capture).number, capture.last_number) == (11, 11)


def test_drop_oldest_counts_at_the_frame_that_follows_the_gap() -> None:
    source = FakeSource(*[good()] * 7)
    with capturing(source, queue=3) as capture:
        all_read(source, 7)
        assert [(f.number, f.dropped) for f in (take(capture), take(capture), take(capture))] == [
            (5, 4),
            (6, 0),
            (7, 0),
        ]


def test_drop_newest_keeps_what_waits() -> None:
    source = FakeSource(*[good()] * 5)
    with capturing(source, drop="newest", queue=2) as capture:
        all_read(source, 5)
        assert [(take(capture).number) for _ in range(2)] == [1, 2]
        source.put(good())
        frame = take(capture)
        assert (frame.number, frame.dropped) == (6, 3)


def test_drop_none_lets_the_source_wait_and_loses_nothing() -> None:
    source = FakeSource(*[good()] * 20, None)
    with capturing(source, drop="none", queue=2) as capture:
        eventually(lambda: source.reads == 3)
        frames = []
        while not capture.ended:
            frame = capture.next(20)
            if frame is not None:
                frames.append((frame.number, frame.dropped))
        assert frames == [(n, 0) for n in range(1, 21)]
    assert source.closed.is_set()


def test_a_frame_says_when_it_was_captured_and_how_long_that_took() -> None:
    before = time.time()
    moment = time.monotonic()
    source = FakeSource(Shot(good(), captured=moment))
    with capturing(source) as capture:
        frame = take(capture)
    assert frame.captured == moment
    assert before - 0.1 <= frame.captured_at <= time.time()
    assert 0 <= frame.capture_ms < 20_000


def test_every_hands_on_at_most_one_frame_in_its_time_and_skips_without_counting() -> None:
    shots = [Shot(good(), media_s=i / 25) for i in range(50)]  # two seconds of a recording
    with capturing(FakeSource(*shots, None), drop="none", every_s=0.2) as capture:
        numbers = []
        while not capture.ended:
            frame = capture.next(20)
            if frame is not None:
                assert frame.dropped == 0
                numbers.append(frame.number)
    assert numbers == list(range(1, 51, 5))


def test_a_lost_source_is_reported_opened_again_and_reported_back(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    monkeypatch.setattr(capture_module, "FIRST_WAIT_S", 0.01)
    first, second = FakeSource(good(), LOST), FakeSource()
    with capturing(first, lambda: second) as capture:
        assert take(capture).number == 1
        assert eventually(capture.gone) == "no further frame"
        assert [e["reason"] for e in eventually(lambda: log.named("source_lost"))] == ["no further frame"]
        assert first.closed.is_set()
        eventually(lambda: second.reads)
        assert capture.gone()  # an opened source is not yet one that gives frames
        assert not log.named("source_back")
        second.put(bad())
        assert take(capture).number == 2
        assert capture.gone() is None
        assert len(log.named("source_back")) == 1


def test_the_wait_before_opening_again_doubles_up_to_the_longest(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    assert capture_module.LONGEST_WAIT_S == 30.0
    monkeypatch.setattr(capture_module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(capture_module, "LONGEST_WAIT_S", 0.006)

    def refuse() -> FakeSource:
        raise SourceError("camera 0: expected a camera that opens, got none")

    with capturing(FakeSource(good(), LOST), refuse) as capture:
        take(capture)
        eventually(lambda: len(log.named("source_retry")) >= 5)
        assert "camera that opens" in (capture.gone() or "")
    said = [record.getMessage() for record in log.events if record.event in ("source_lost", "source_retry")]
    assert [message.rsplit(" in ", 1)[1] for message in said[:5]] == [
        "0.001 s",
        "0.002 s",
        "0.004 s",
        "0.006 s",
        "0.006 s",
    ]


def test_stop_is_answered_at_once_while_waiting_to_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "FIRST_WAIT_S", 300.0)

    def refuse() -> FakeSource:
        raise SourceError("none")

    with capturing(FakeSource(LOST), refuse) as capture:
        eventually(capture.gone)
        start = time.monotonic()
    assert time.monotonic() - start < 30


def test_a_driver_that_raises_anything_is_a_lost_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "FIRST_WAIT_S", 0.01)
    with capturing(FakeSource(RuntimeError("USB went away")), lambda: FakeSource(good())) as capture:
        assert take(capture).number == 1


def test_a_source_that_stalls_is_gone_until_it_gives_a_frame(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    monkeypatch.setattr(capture_module, "SILENT_S", 0.05)
    source = FakeSource(good())
    with capturing(source, FakeSource) as capture:
        take(capture)
        assert "no frame for" in eventually(capture.gone)
        source.put(good())
        take(capture)
        assert [e.event for e in log.events] == ["source_lost", "source_back"]


def test_a_finite_source_is_never_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "SILENT_S", 0.0)
    monkeypatch.setattr(capture_module, "FIRST_FRAME_S", 0.0)
    with capturing(FakeSource()) as capture:
        assert capture.next(0.01) is None
        assert capture.gone() is None
        assert not capture.ended


def test_a_fault_of_a_finite_source_reaches_the_caller() -> None:
    with capturing(FakeSource(good(), ZeroDivisionError("a fault of ours")), drop="none") as capture:
        take(capture)
        with pytest.raises(ZeroDivisionError):
            capture.next(20)


@pytest.mark.parametrize(
    "nonsense", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_nonsense_of_a_driver_is_an_unusable_frame_not_the_end(nonsense: Any) -> None:
    with capturing(FakeSource(nonsense, good()), drop="none", queue=2) as capture:
        frame = capture.next(20)
        assert isinstance(frame, Unusable)
        assert frame.reason.startswith("expected a frame (H, W, 3) of uint8, got")
        assert take(capture).number == 2


def test_a_grey_camera_becomes_rgb() -> None:
    with capturing(FakeSource(np.full((4, 6), 7, np.uint8))) as capture:
        assert take(capture).rgb.shape == (4, 6, 3)


def test_geometry_cuts_then_turns_then_flips() -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    with capturing(FakeSource(picture), geometry=Geometry((1, 0, 3, 2), 90, "h")) as capture:
        rgb = take(capture).rgb
    assert np.array_equal(rgb, np.rot90(picture[0:2, 1:4], -1)[:, ::-1])
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_clockwise(degrees: Any) -> None:
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 0] = 1  # top left
    corner = {90: (0, -1), 180: (-1, -1), 270: (-1, 0)}[degrees]
    assert Geometry(rotate=degrees).apply(picture)[corner].all()


def test_a_region_outside_the_frame_names_both_and_a_change_of_size_is_survived() -> None:
    geometry = Geometry((40, 0, 20, 20))
    with pytest.raises(ImageError, match="--roi 40,0,20,20: expected a region inside the frame, got a frame of 32x32"):
        geometry.apply(good(32, 32))
    with capturing(
        FakeSource(good(64, 64), good(32, 32), good(64, 64)), drop="none", queue=3, geometry=geometry
    ) as capture:
        assert take(capture).rgb.shape == (20, 20, 3)
        assert isinstance(capture.next(20), Unusable)
        assert take(capture).number == 3


def test_a_video_of_a_phone_held_upright_stands_upright(tmp_path: Path) -> None:
    picture = np.full((64, 96, 3), 60, np.uint8)
    picture[:, :32] = 200  # left as the sensor lies, on top as the phone was held
    path = write_video(tmp_path / "phone.mp4", [picture] * 3, codec="mp4v")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2: how the track is turned when it is shown
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    path.write_bytes(data)
    video = Video(path)
    shot = video.read(lambda: False)
    video.close()
    assert shot is not None
    assert shot.rgb is not None
    assert shot.rgb.shape == (96, 64, 3)
    assert shot.rgb[:24].mean() > 180
    assert shot.rgb[40:].mean() < 80
