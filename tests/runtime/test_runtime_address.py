"""The source grammar, and the values that options take."""

from __future__ import annotations

from typing import Any

import click
import pytest

from vtad_runtime.commands.arguments import alarm_rule, duration, names, picture_size, rectangle, size_in_bytes
from vtad_runtime.sources.address import Address, AddressError, address, parse


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("0", "camera", "0"),
        ("camera:2", "camera", "2"),
        ("rtsp://host/live", "stream", "rtsp://host/live"),
        ("http://host:8080/video", "stream", "http://host:8080/video"),
        ("stream:https://host/clip.mp4", "stream", "https://host/clip.mp4"),
        ("clips/a.MP4", "video", "clips/a.MP4"),
        ("video:recording.dat", "video", "recording.dat"),
        ("watch:inbox", "watch", "inbox"),
        ("parts", "folder", "parts"),
        ("line1/*.png", "folder", "line1/*.png"),
        ("part.png", "folder", "part.png"),
        ("folder:0", "folder", "0"),
    ],
)
def test_source_takes_any_of_them(text: str, kind: Any, where: str) -> None:
    assert parse(text) == Address(kind, where)


def test_each_option_names_its_kind() -> None:
    assert address(camera=0) == Address("camera", "0")
    assert address(video="a", stream=None) == Address("video", "a")
    assert address(watch="in") == Address("watch", "in")
    assert address("1") == Address("camera", "1")


@pytest.mark.parametrize("given", [{}, {"camera": 0, "folder": "in"}, {"source": "0", "watch": "in"}])
def test_exactly_one_source_is_expected_and_the_options_are_named(given: dict[str, Any]) -> None:
    with pytest.raises(AddressError) as error:
        address(**given)
    for option in ("--camera", "--video", "--stream", "--folder", "--watch", "--source"):
        assert option in str(error.value)
    for name in given:
        assert f"--{name}" in str(error.value).partition("got")[2]


@pytest.mark.parametrize(
    "text", ["ftp://host/x", "http://", "http://a..b/x", "rtsp://host:none/x", "camera:front", "video:"]
)
def test_a_source_that_is_not_well_said_is_one_line(text: str) -> None:
    with pytest.raises(AddressError, match="expected"):
        parse(text)


def test_no_name_and_no_error_tells_a_password() -> None:
    assert parse("rtsp://admin:secret@host:554/live").name == "rtsp://***@host:554/live"
    with pytest.raises(AddressError) as error:
        parse("ftp://admin:secret@host/live")
    assert "secret" not in str(error.value)
    assert parse("0").name == "camera 0"


def test_values_have_units_and_shapes() -> None:
    assert [duration(t) for t in ("200ms", "2s", "1.5s", "30m", "1h")] == [0.2, 2.0, 1.5, 1800.0, 3600.0]
    assert rectangle("1,2,30,40") == (1, 2, 30, 40)
    assert picture_size("1920x1080") == (1920, 1080)
    assert alarm_rule("3/5") == (3, 5)
    assert names("b, a") == {"a", "b"}
    assert names("none") == frozenset()


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (duration, "200"),
        (duration, "0s"),
        (duration, "-1s"),
        (rectangle, "1,2,3"),
        (rectangle, "0,0,0,5"),
        (picture_size, "big"),
        (alarm_rule, "5/3"),
        (alarm_rule, "0/3"),
    ],
)
def test_a_wrong_value_says_what_was_expected(read: Any, text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected"):
        read(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10GB", 10**10),
        ("500MB", 5 * 10**8),
        ("1.5 mb", 1_500_000),
        ("512MiB", 2**29),
        ("2TB", 2 * 10**12),
        ("7kB", 7000),
        ("42", 42),
        ("42B", 42),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "10 XB", "1e9", "0", "0.1B", "ten", "1GB/s", "10G B", "٣GB"])
def test_what_is_no_size_is_one_line(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected a size such as 10GB") as error:
        size_in_bytes(text)
    assert "\n" not in str(error.value)


def test_a_camera_number_that_opencv_does_not_take_is_refused() -> None:
    for number in ("99999999999", "2147483648"):
        with pytest.raises(AddressError, match="--camera: expected its number such as 0"):
            address(camera=number)
    assert address(camera="2147483647").where == "2147483647"
