"""Which files are judged, and how results are written."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtad_runtime.outputs.results_folder import Row, Sink, SinkError
from vtad_runtime.sources.folder import SourceError, find
from vtad_runtime.verdict.detector import Region
from vtad_runtime.verdict.verdict import Verdict


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(source: Path | str) -> list[str]:
    result = find(source)
    return [result.relative(f).as_posix() for f in result.files]


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


def row(file: str = "a.png", score: float = 1.5) -> Row:
    region = Region(1, 2, 3, 4, 12, 5.0, "both")
    return Row(file, "", Verdict.NG, score, 0.05, 2.0, (region,), 1.0, 2.0, 3.0, None, None)


def lines(sink: Sink) -> list[dict[str, object]]:
    return [json.loads(line) for line in (sink.folder / "results.jsonl").read_text().splitlines()]


def test_rows_are_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    with Sink(tmp_path / "results") as sink:
        for n in (1, 2):
            sink.write_row(row())
            assert len(lines(sink)) == n
            with (sink.folder / "results.csv").open(newline="") as file:
                assert [r["regions"] for r in csv.DictReader(file)] == ["1"] * n
    assert lines(sink)[0]["regions"] == [
        {"x": 1, "y": 2, "width": 3, "height": 4, "area": 12, "peak": 5.0, "seen_by": "both"}
    ]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(tmp_path: Path, score: float) -> None:
    with Sink(tmp_path) as sink:
        sink.write_row(row(score=score))
    assert lines(sink)[0]["score"] is None


def test_file_names_need_not_be_text(tmp_path: Path) -> None:
    name = os.fsdecode(b'b\xff"ad,\n.png')
    with Sink(tmp_path) as sink:
        sink.write_row(row(file=name))
    assert lines(sink)[0]["file"] == name
    with (sink.folder / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_two_runs_are_never_mixed(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        with Sink(tmp_path / "results") as sink:
            names.append(sink.folder.name)
    assert names == ["0001", "0002", "0003"]


def test_pictures_mirror_the_source_and_never_collide(tmp_path: Path) -> None:
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:, :, 0] = 200
    with Sink(tmp_path) as sink:
        names = {sink.write_picture(Path(n), rgb) for n in ("x/a.png", "x/a.jpg", "y/a.png", "a.png")}
    assert len(names) == 4
    assert "heatmaps/x/a.png.jpg" in names
    saved = Image.open(sink.folder / "heatmaps/x/a.png.jpg").getpixel((4, 4))
    assert isinstance(saved, tuple)
    assert saved[0] > 150 > saved[2]  # red stays red
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"file: expected a folder to write results to, got a file"):
        Sink(tmp_path / "file")


def test_half_a_picture_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    with Sink(tmp_path) as sink:
        monkeypatch.setattr(Path, "write_bytes", half)
        with pytest.raises(SinkError, match="No space left"):
            sink.write_picture(Path("a.png"), np.zeros((8, 8, 3), np.uint8))
        assert list((sink.folder / "heatmaps").iterdir()) == []
