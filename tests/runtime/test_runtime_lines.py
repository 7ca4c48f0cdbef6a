"""Files that grow by whole lines: no line is torn, mixed with another, or lost behind a torn one."""

from __future__ import annotations

import csv
import io
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from vtad_runtime.contract.files import Lines
from vtad_runtime.outputs.csv_lines import csv_line


def test_a_new_file_is_new(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError):
        Lines(tmp_path / "there")


def test_lines_are_on_their_way_to_the_disk_at_once_whatever_their_text(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "a")
    lines.write("one\n")
    lines.write("\u00e4 \udcff\n")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "one\n\u00e4 \\udcff\n"
    lines.close()
    lines.close()  # twice does no harm


def test_what_a_power_cut_tore_does_not_swallow_the_next_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntw")
    for _ in range(2):
        with closing(Lines(tmp_path / "a", new=False)) as lines:
            lines.write("three\n")
    assert (tmp_path / "a").read_text() == "one\ntw\nthree\nthree\n"


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, write, calls = Lines(tmp_path / "a"), os.write, 0
    lines.write("one\n")

    def fills_up(file: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(28, "No space left on device")
        return write(file, data[:2])

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(OSError, match="No space left"):
        lines.write("two\n")
    monkeypatch.undo()
    lines.write("three\n")
    lines.close()
    assert (tmp_path / "a").read_text() == "one\nthree\n"


def test_a_write_that_takes_only_half_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, write = Lines(tmp_path / "a"), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    lines.write("a long line\n")
    lines.close()
    assert (tmp_path / "a").read_text() == "a long line\n"


def test_two_writers_never_mix_their_lines(tmp_path: Path) -> None:
    def add(word: str) -> None:
        with closing(Lines(tmp_path / "a", new=False)) as lines:
            for _ in range(300):
                lines.write(word * 50 + "\n")

    threads = [threading.Thread(target=add, args=(word,)) for word in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = (tmp_path / "a").read_text().splitlines()
    assert sorted(written) == [word * 50 for word in "abc" for _ in range(300)]


def test_a_cell_of_csv_is_never_a_formula_and_never_breaks_its_row() -> None:
    names = ["=1+1.png", "+a.png", "-b.png", "@c.png", "two\rlines.png", "two\nlines.png", 'a"b,c.png', "plain.png"]
    read = list(csv.reader(io.StringIO("".join(csv_line([name, -1.5, None]) for name in names), newline="")))
    assert [row[1:] for row in read] == [["-1.5", ""]] * len(names)
    assert [row[0] for row in read] == [f"'{name}" if name[0] in "=+-@" else name for name in names]
