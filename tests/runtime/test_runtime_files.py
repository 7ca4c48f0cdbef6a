"""Which files are judged, and how results are written."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spreadsheet import rows_of
from tiny_model import bad, write_model

from vtad_runtime import Detector
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE
from vtad_runtime.outputs.pictures import PictureOptions
from vtad_runtime.outputs.results_folder import ResultsFolder, SinkError
from vtad_runtime.outputs.run_file import MaskFile, RunFile
from vtad_runtime.sources.folder import SourceError, find, say_unread
from vtad_runtime.verdict.alarm import AlarmRule
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement

ABOUT = RunFile(
    *("2026-11-24T08:30:00.123Z", "in", "folder", "m.onnx", "tiny", "2025-01-01T00:00:00Z", 2.0, "cd" * 32),
    *((1, 2, 30, 40), 90, "h", MaskFile("mask.png", "ab" * 32), 1.5, None, ("black",), AlarmRule(3, 5, 2.0, 1.5)),
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(source: Path | str) -> list[str]:
    result = find(source)
    return [f.relative_to(result.root).as_posix() for f in result.files]


def test_a_folder_is_searched_below_and_in_natural_order(tmp_path: Path) -> None:
    touch(
        tmp_path, "b/10.png", "b/9.JPG", "b/2.png", "a2/1.png", "a10/1.png", "notes.txt", ".hidden.png", ".cache/x.png"
    )
    assert found(tmp_path) == ["a2/1.png", "a10/1.png", "b/2.png", "b/9.JPG", "b/10.png"]


def test_a_glob_and_a_single_file(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.png", "y/1.png", "y/2.txt", "odd[1].png", "anything.dat")
    assert found(f"{tmp_path}/*/*") == ["x/1.png", "y/1.png"]
    assert found(f"{tmp_path}/**/1.png") == ["x/1.png", "y/1.png"]
    assert found(tmp_path / "odd[1].png") == ["odd[1].png"]
    assert found(tmp_path / "anything.dat") == ["anything.dat"]  # named by the user; decoding will tell


def test_a_relative_glob_keeps_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x/1.png", "y/1.png")
    monkeypatch.chdir(tmp_path)
    assert found("*/1.png") == ["x/1.png", "y/1.png"]


def test_masks_and_earlier_results_are_left_out_and_named(tmp_path: Path) -> None:
    touch(
        tmp_path, "pill/test/good/1.png", "pill/ground_truth/crack/1.png", "results/1/results.jsonl", "results/1/a.jpg"
    )
    assert found(tmp_path) == ["pill/test/good/1.png"]
    assert {p.name for p in find(tmp_path).skipped} == {"ground_truth", "1"}


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/1.png", "elsewhere/2.png")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "other").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "real") == ["1.png", "other/2.png"]


@pytest.mark.parametrize("source", ["none", "empty", "none/*.png", "empty/*"])
def test_nothing_to_judge_is_one_clear_error(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"expected .* got") as caught:
        find(str(tmp_path / source))
    assert "\n" not in str(caught.value)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return Detector(write_model(tmp_path / "m.onnx"), threads=1)


@pytest.fixture
def judge(detector: Detector) -> Callable[..., Judgement]:
    """judge(file="a.png"): a bad picture of that name, judged."""

    def judged(file: str = "a.png") -> Judgement:
        return Judge("in", detector, Rules()).judge([Frame(1, 0.0, 0.0, 0.0, 0, bad(), file)])[0]

    return judged


def results_in(parent: Path, **options: Any) -> ResultsFolder:
    return ResultsFolder(parent, PictureOptions(**{"save": "none", "reserve": False, **options}), ABOUT)


def lines(results: ResultsFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results.folder / "results.jsonl").read_text().splitlines()]


def test_rows_are_readable_while_the_run_goes_on(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    results = results_in(tmp_path / "results")
    for n in (1, 2):
        results.write(judge())
        assert len(lines(results)) == n
        assert [r["regions"] for r in rows_of(results.folder / "results.csv")] == ["1"] * n
    (region,) = judge().row()["regions"]
    assert lines(results)[0]["regions"] == [region]
    assert region["seen_by"] == "both"
    assert RunFile.read(results.folder / "run.json") == ABOUT


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(tmp_path: Path, judge: Callable[..., Judgement], score: float) -> None:
    results, judgement = results_in(tmp_path), judge()
    assert judgement.result is not None
    results.write(dataclasses.replace(judgement, result=dataclasses.replace(judgement.result, score=score)))
    assert lines(results)[0]["score"] is None


def test_file_names_need_not_be_text(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    name = os.fsdecode(b'b\xff"ad,\n.png')
    results = results_in(tmp_path)
    results.write(judge(name))
    assert lines(results)[0]["file"] == name
    assert len(rows_of(results.folder / "results.csv")) == 1


def test_two_runs_are_never_mixed(tmp_path: Path) -> None:
    names = [results_in(tmp_path / "results").folder.name for _ in range(3)]
    assert names == ["0001", "0002", "0003"]


def test_a_run_without_a_row_can_be_taken_back(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    results = results_in(tmp_path / "results", reserve=True)
    results.discard_if_empty()
    assert list((tmp_path / "results").iterdir()) == []
    results = results_in(tmp_path / "results")
    results.write(judge())
    results.discard_if_empty()
    assert len(lines(results)) == 1


def test_pictures_of_files_mirror_the_source_and_never_collide(tmp_path: Path, judge: Callable[..., Judgement]) -> None:
    results = results_in(tmp_path / "results", save="all", root=Path("in"))
    written = [results.write(judge(f"in/{n}")) for n in ("x/a.png", "x/a.jpg", "y/a.png", "a.png")]
    assert len({judgement.heatmap for judgement in written}) == 4
    assert written[0].heatmap == "heatmaps/x/a.png.jpg"
    assert all((results.folder / str(judgement.heatmap)).is_file() for judgement in written)
    assert [row["heatmap"] for row in lines(results)] == [judgement.heatmap for judgement in written]
    assert not list(tmp_path.rglob("*.part"))


def test_a_picture_of_a_file_with_the_longest_name_gets_a_name_that_fits(
    tmp_path: Path, judge: Callable[..., Judgement]
) -> None:
    results = results_in(tmp_path / "results", save="all", root=Path("in"))
    kept = [results.write(judge(f"in/{letter * 250}.png")).heatmap for letter in "ab"]
    assert kept[0] != kept[1]
    assert all((results.folder / str(name)).is_file() for name in kept)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"file: expected a folder to write results to, got a file") as caught:
        results_in(tmp_path / "file")
    assert caught.value.exit_code == USAGE


def test_a_disk_that_is_full_at_the_start_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match="No space left on device") as caught:
        results_in(tmp_path)
    assert caught.value.exit_code == NOT_WRITTEN
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be removed there")
def test_a_folder_that_is_removed_meanwhile_takes_no_row_in_silence(
    tmp_path: Path, judge: Callable[..., Judgement]
) -> None:
    results = results_in(tmp_path)
    results.write(judge())
    shutil.rmtree(results.folder)
    with pytest.raises(SinkError, match="cannot write results: the file was removed while it was written"):
        results.write(judge())


@pytest.mark.parametrize("taken", [0, 10])
def test_a_full_disk_is_one_clear_error_and_leaves_whole_lines(
    taken: int, tmp_path: Path, judge: Callable[..., Judgement]
) -> None:
    results = results_in(tmp_path)
    results.write(judge())
    size = (results.folder / "results.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + taken, hard))  # a file takes a few bytes more, and no others
    try:
        with pytest.raises(SinkError, match="cannot write results: File too large") as caught:
            results.write(judge())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == NOT_WRITTEN
    assert len(lines(results)) == 1
    results.write(judge())
    assert len(lines(results)) == 2


def test_pictures_of_formats_that_are_not_read_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.png", "b.HEIC", "c/d.gif", ".hidden.gif", "notes.txt")
    say_unread(find(tmp_path).unread)
    assert "not judged: 2 of formats that are not read, such as " in caplog.text
    say_unread(())
    assert len(caplog.records) == 1
