"""Files that grow by whole lines, and files written beside their name: nothing is torn, mixed with another, or left half."""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from vtad_runtime.contract.disk.files import Lines, replacing, replacing_folder, sweep, write_whole
from vtad_runtime.outputs.csv_lines import csv_line
from vtad_runtime.outputs.results_folder import next_folder


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


def test_line_breaks_stay_as_they_are_on_windows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary, opened = 2**30, list[int]()

    def windows_open(path: Path, flags: int, mode: int) -> int:
        opened.append(flags)
        return works(path, flags & ~binary, mode)

    works = os.open
    monkeypatch.setattr(os, "O_BINARY", binary, raising=False)
    monkeypatch.setattr(os, "open", windows_open)
    Lines(tmp_path / "a").close()
    assert opened[0] & binary


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


def killed(write: Callable[[], None]) -> None:
    """A process that writes and is killed in the middle."""
    child = os.fork()
    if child == 0:
        write()
        os._exit(0)
    os.waitpid(child, 0)


def die_beside(path: Path) -> Callable[[], None]:
    def write() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            os._exit(0)

    return write


@pytest.mark.skipif(os.name == "nt", reason="no fork, and processes cannot be asked")
def test_what_a_killed_process_left_beside_is_swept_by_the_next_that_writes_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("whole")
    killed(die_beside(tmp_path / "a"))
    assert len(list(tmp_path.iterdir())) == 2
    write_whole(tmp_path / "b", b"new")
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a": "whole", "b": "new"}


@pytest.mark.skipif(os.name == "nt", reason="no fork, and processes cannot be asked")
def test_an_artefact_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    (tmp_path / "m.mlpackage").mkdir()
    (tmp_path / "m.mlpackage/old.txt").touch()

    def write() -> None:
        rename = Path.rename

        def die_at_the_second(self: Path, to: Path) -> Path:
            if to == tmp_path / "m.mlpackage":
                os._exit(0)
            return rename(self, to)

        Path.rename = die_at_the_second  # type: ignore[method-assign, assignment]
        with replacing_folder(tmp_path / "m.mlpackage") as beside:
            beside.mkdir()

    killed(write)
    assert not (tmp_path / "m.mlpackage").exists()
    sweep(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["m.mlpackage", "m.mlpackage/old.txt"]


def test_only_what_is_ours_and_stale_is_swept(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as mine:
        mine.touch()
        machine, process = mine.name.split(".")[2:4]
        alive = tmp_path / f".{'a' * 12}.{machine}.{os.getppid()}.part"
        earlier_of_my_number = tmp_path / f".{'b' * 12}.{machine}.{process}.part"
        other_machine = tmp_path / f".{'c' * 12}.ffffff.999999999.part"
        older, foreign = tmp_path / f".{'d' * 12}.7.part", tmp_path / ".movie.7.part"
        for part in (alive, earlier_of_my_number, other_machine, older, foreign):
            part.touch()
        os.utime(earlier_of_my_number, (time.time(), time.time() - 3600))
        os.utime(foreign, (1e9, 1e9))
        sweep(tmp_path)
        assert set(tmp_path.iterdir()) == {mine, alive, other_machine, older, foreign}
        for part in (other_machine, older):
            os.utime(part, (1e9, 1e9))
        sweep(tmp_path)
        assert set(tmp_path.iterdir()) == {mine, alive, foreign}


@pytest.mark.skipif(os.name == "nt", reason="no fork, and processes cannot be asked")
def test_a_new_results_folder_sweeps_those_of_runs_that_were_killed(tmp_path: Path) -> None:
    killed(die_beside(next_folder(tmp_path) / "heatmaps/sub/1.jpg"))
    assert len(list((tmp_path / "0001/heatmaps/sub").iterdir())) == 1
    next_folder(tmp_path)
    assert list((tmp_path / "0001/heatmaps/sub").iterdir()) == []
