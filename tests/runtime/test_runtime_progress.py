"""Bars on a terminal: what they show, when, and that nothing else ever sees them."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import TypeVar

import pytest
from fake_camera import eventually
from PIL import Image
from tiny_model import good, write_model

from vtad_runtime.commands.run import run
from vtad_runtime.contract import progress
from vtad_runtime.contract.command_line.command import say
from vtad_runtime.contract.log import event, logging_to
from vtad_runtime.contract.progress import WIPE, Bar, bars, line, watched


class Terminal(io.StringIO):
    """A stream that says it is one, and shows what its last line holds."""

    def isatty(self) -> bool:
        return True

    @property
    def last(self) -> str:
        return self.getvalue().split("\n")[-1].split(WIPE)[-1]


S = TypeVar("S", bound=io.StringIO)


def stderr(patch: pytest.MonkeyPatch, stream: S, after_s: float = 0) -> S:
    """What stderr is from now on; bars are drawn at once. Not in a fixture: pytest sets stderr after those."""
    patch.setattr(progress, "AFTER_S", after_s)
    patch.setattr(progress, "EVERY_S", 0.002)
    patch.setattr(sys, "stderr", stream)
    return stream


def at(done: float, total: float | None = 40, text: str = "") -> Bar:
    bar = Bar("judging", total)
    bar.to(done, text)
    return bar


def test_a_line_says_what_is_done_how_much_of_it_and_how_long_it_still_takes() -> None:
    assert line(at(10), 5, 80, blocks=True) == "judging  ██████                    25%  0:15 left"
    assert line(at(10), 3 * 3600, 80, blocks=False) == "judging  [######------------------]  25%  9:00:00 left"
    assert line(at(40, text="epoch 3"), 5, 80, blocks=True).endswith("100%  0:00 left  epoch 3")
    assert line(at(0), 5, 80, blocks=True).endswith(" 0%")  # nobody knows yet
    assert line(at(0, None), 65, 80, blocks=True) == "judging  1:05"


def test_work_that_goes_on_where_it_stood_counts_what_is_done_now_alone() -> None:
    bar = at(20)
    with bar:
        bar.advance(10)
        assert line(bar, 6, 80, blocks=False).endswith(" 75%  0:06 left")


@pytest.mark.parametrize("columns", [10, 30, 60])
def test_a_line_never_fills_the_line_of_the_terminal(columns: int) -> None:
    assert len(line(at(10, text="x" * 100), 5, columns, blocks=True)) < columns


def test_the_innermost_work_is_drawn_and_its_line_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal())
    with bars():
        with Bar("outer", 2):
            for _ in watched(["a"], "inner"):
                eventually(lambda: terminal.last.startswith("inner"))
            eventually(lambda: terminal.last.startswith("outer"))
        eventually(lambda: terminal.last == "")
    assert terminal.getvalue().endswith(WIPE)


def test_lines_that_are_written_meanwhile_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal())
    with bars(), Bar("judging", 2), logging_to():
        eventually(lambda: terminal.last.startswith("judging"))
        event("seen", "a word")
        eventually(lambda: terminal.last.startswith("judging"))
        say("another", err=True)
    lines = terminal.getvalue().split("\n")
    assert lines[0].split(WIPE)[-1].endswith("a word")
    assert lines[1].split(WIPE)[-1] == "another"


def test_work_that_is_done_soon_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = stderr(monkeypatch, Terminal(), after_s=60)
    with bars():
        assert list(watched(iter("abc"), "judging", 3)) == ["a", "b", "c"]
        time.sleep(0.02)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("stream", "shown"), [(io.StringIO(), True), (Terminal(), False)])
def test_nothing_is_drawn_into_a_pipe_nor_where_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown: bool
) -> None:
    stderr(monkeypatch, stream)
    with bars(shown), Bar("judging", 2):
        time.sleep(0.02)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("options", "drawn"), [([], True), (["--log-json"], False)])
def test_a_folder_shows_a_bar_and_a_log_for_machines_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], drawn: bool
) -> None:
    terminal = stderr(monkeypatch, Terminal())
    model = write_model(tmp_path / "m.onnx")
    (tmp_path / "in").mkdir()
    for i in range(40):
        Image.fromarray(good()).save(tmp_path / "in" / f"{i}.png")
    words = ["--folder", str(tmp_path / "in"), "--model", str(model), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(SystemExit):
        run.main(words)
    assert ("judging  " in terminal.getvalue()) is drawn
    assert (WIPE in terminal.getvalue()) is drawn
