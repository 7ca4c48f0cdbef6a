"""vtad-score: one row a picture, as vtad-run writes it; partitions that a re-run continues, shards that share the work."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from documents import ROOT
from fake_camera import eventually
from PIL import Image
from tiny_model import bad, good, make_card, write_model

from vtad_runtime.batch.run import ScoreOptions, Tally
from vtad_runtime.batch.run import score as score_pictures
from vtad_runtime.batch.scoring import Setup
from vtad_runtime.batch.workers import judge_here
from vtad_runtime.commands.run import run
from vtad_runtime.commands.score import score
from vtad_runtime.contract.disk.lock import Lock
from vtad_runtime.contract.errors import VtadError

NAMES = [f"a/{i}.png" for i in range(1, 13)] + ["b.c/part.png", "b.c/= x.png", "ä\n.png", "gut_\udce4.png"]
TIMES = ("captured_at", "capture_ms", "queue_age_ms", "prepare_ms", "infer_ms", "write_ms")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and pictures: 16 whole ones, one damaged; masks and earlier results, which are no parts."""
    monkeypatch.chdir(tmp_path)
    write_model(Path("m.onnx"))
    for i, name in enumerate([*NAMES, "test/x.png", "ground_truth/x.png", "old/heatmaps/x.png", ".hidden/x.png"]):
        path = Path("in", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(bad() if i % 5 == 0 else good()).save(path)
    Path("in/old/results.jsonl").touch()
    Path("in/a/11.png").write_bytes(Path("in/a/12.png").read_bytes()[:90])
    return tmp_path


def scored(*arguments: object) -> Result:
    given = [str(a) for a in ("in", "--out", "out", "--model", "m.onnx", "--workers", 1, *arguments)]
    return CliRunner().invoke(score, given)


def rows(out: str = "out") -> list[dict[str, Any]]:
    found = [row for part in sorted(Path(out, "rows").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: int(row["frame"]))


def line(result: Result) -> str:
    """The one line of an error."""
    assert result.exit_code, result.output
    text = result.output.splitlines()[-1]
    assert text.startswith("Error: "), result.output
    assert "Traceback" not in result.output
    return text


def test_rows_are_those_of_vtad_run_and_each_picture_has_one(here: Path) -> None:
    assert scored("--partition", 5).exit_code == 3
    assert CliRunner().invoke(run, ["--folder", f"{here}/in", "--model", "m.onnx", "--save", "none"]).exit_code == 3
    written = Path("results/0001/results.jsonl").read_text().replace("\\udce4", "\\\\udce4")  # Parquet takes text only
    expected = [json.loads(text) for text in written.splitlines()]
    found = rows()
    assert len(found) == len(NAMES) + 1
    for row, want in zip(found, expected, strict=True):
        assert (row.pop("category"), row.pop("weights"), row.pop("thumbnail")) == ("tiny", "cd" * 6, None)
        assert list(row) == list(want)
        assert {k: v for k, v in row.items() if k not in TIMES} == {k: v for k, v in want.items() if k not in TIMES}
        assert all(row[name] >= 0 for name in TIMES[1:])
    assert [Path(row["file"]).name for row in found[:4]] == ["1.png", "2.png", "3.png", "4.png"]


def test_a_rerun_judges_only_what_has_no_whole_rows(here: Path) -> None:
    scored("--partition", 4)
    parts = sorted(Path("out/rows").iterdir())
    before = {part: (part.stat().st_mtime_ns, part.read_bytes()) for part in parts}
    assert len(parts) == 5
    parts[1].unlink()
    parts[3].write_bytes(before[parts[3]][1][:-20])
    Path("in/new.png").write_bytes(Path("in/a/1.png").read_bytes())  # it came after the list
    result = CliRunner().invoke(score, ["in", "--out", "out", "--workers", "1"])  # the model is the stored one
    assert result.exit_code == 3
    assert "2 of 5 partitions to judge" in result.output
    assert "part-00004.parquet: expected the rows of partition 4, got a damaged file" in result.output
    assert "5 of 5 partitions written: OK 13, NG 3, ERROR 1; 8 judged now" in result.output
    again = [part for part in parts if part.stat().st_mtime_ns != before[part][0]]
    assert again == [parts[1], parts[3]]
    assert [row["frame"] for row in rows()] == list(range(1, 18))
    assert not list(Path("out").rglob("*.part"))


def test_shards_share_the_work_and_the_list(here: Path) -> None:
    assert scored("--partition", 3, "--shard", "2/3").exit_code == 1  # its share has no damaged file
    Path("in/new.png").write_bytes(Path("in/a/1.png").read_bytes())
    assert scored("--shard", "1/3").exit_code == 3
    assert len(rows()) == 12
    assert scored("--shard", "3/3").exit_code in (0, 1)
    assert [row["frame"] for row in rows()] == list(range(1, 18))
    assert scored().output.count("judged now") == 0
    assert "expected I/N such as 3/64" in line(scored("--shard", "4/3"))


def test_partitions_of_few_pictures_are_so_small_that_each_worker_has_some(here: Path) -> None:
    first = next((here / "in").rglob("*.png"))
    for i in range(500):
        (here / "many").mkdir(exist_ok=True)
        (here / "many" / f"{i}.png").hardlink_to(first)

    def made(out: str, **options: Any) -> tuple[int, int]:
        asked = ScoreOptions("many", Path(out), Path("m.onnx"), **options)
        job = score_pictures(asked, lambda: True).job
        return job.partition, job.partitions

    assert made("two", workers=2) == (63, 8)
    assert made("one", workers=1) == (125, 4)
    assert made("shards", workers=2, shard=(3, 64)) == (50, 10)  # no smaller ones
    assert made("named", workers=2, partition=7) == (7, 72)


def test_a_stopped_run_drops_what_is_in_hand_and_goes_on(here: Path) -> None:
    def partial(options: ScoreOptions, parts: int) -> Tally:
        return score_pictures(options, lambda: len(list(Path("out").glob("rows/*"))) >= parts)

    options = ScoreOptions("in", Path("out"), Path("m.onnx"), partition=3, workers=1)
    tally = partial(options, 2)
    assert (tally.written, tally.partitions, len(rows())) == (2, 6, 6)
    tally = partial(options, 99)
    assert (tally.written, tally.pictures, len(rows())) == (6, 11, 17)


def other_model(here: Path) -> list[object]:
    write_model(Path("m.onnx"), make_card(full_scale=4095))
    return []


def copied_rows(here: Path) -> list[object]:
    CliRunner().invoke(score, ["in/a", "--out", "other", "--model", "m.onnx", "--partition", "10", "--workers", "1"])
    shutil.copyfile("other/rows/part-00001.parquet", "out/rows/part-00001.parquet")
    return []


def changed_list(here: Path) -> list[object]:
    listing = Path("out/listing.parquet")
    listing.write_bytes(listing.read_bytes() + b"x")
    Path("out/rows/part-00001.parquet").unlink()
    return []


def damaged_job(here: Path) -> list[object]:
    Path("out/score.json").write_text("{}")
    return []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_model, "--model: expected what out/score.json says, the model of 2025-01-01T00:00:00Z"),
        (lambda _: ["--engine", "openvino"], "--engine: expected what out/score.json says, cpu, got openvino"),
        (lambda _: ["--review", 0.2], "--review: expected what out/score.json says, 0.05, got 0.2"),
        (lambda _: ["--thumbnails"], "--thumbnails: expected what out/score.json says, False, got True"),
        (lambda _: ["--partition", 7], "--partition: expected what out/score.json says, 10, got 7"),
        (copied_rows, "part-00001.parquet: expected rows by out/score.json, got those of another run"),
        (changed_list, "listing.parquet: expected the list of pictures that score.json names, got another"),
        (damaged_job, "score.json: expected what vtad-score writes, got a damaged file (job: missing fields"),
    ],
)
def test_a_folder_of_another_run_is_refused_in_one_line(
    change: Callable[[Path], list[object]], said: str, here: Path
) -> None:
    scored("--partition", 10)
    arguments = change(here)
    result = scored(*arguments)
    assert result.exit_code == 2
    assert said in line(result)
    assert line(result).endswith("choose another folder by --out")


def test_an_engine_that_is_named_serves_the_whole_folder(here: Path) -> None:
    pytest.importorskip("openvino")
    assert scored("--engine", "openvino", "--partition", 10).exit_code == 3
    before = [(row["file"], row["verdict"]) for row in rows()]
    Path("out/rows/part-00002.parquet").unlink()
    assert scored().exit_code == 3
    assert [(row["file"], row["verdict"]) for row in rows()] == before
    assert json.loads(Path("out/score.json").read_text())["engine"] == "openvino"
    assert "--engine: expected what out/score.json says, openvino, got cpu" in line(scored("--engine", "cpu"))


def test_another_source_is_refused_and_another_spelling_is_not(here: Path) -> None:
    scored()
    assert "0 of 1 partitions to judge" in CliRunner().invoke(score, [f"file://{here}/in", "--out", "out"]).output
    result = CliRunner().invoke(score, ["in/a", "--out", "out"])
    assert "SOURCE: expected what out/score.json says" in line(result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing", "--out", "out"], "nothing: expected a folder of pictures, got No such file or directory"),
        (["empty", "--out", "out"], "empty: expected a folder of pictures, got an empty one"),
        (["in/old", "--out", "out"], "in/old: expected pictures ("),
        (["in", "--out", "m.onnx"], "m.onnx/score.json: expected a readable file, got Not a directory"),
        (["in", "--out", "out", "--model", "in/a/1.png"], "in/a/1.png: expected"),
        (["s3://", "--out", "out"], "s3://: expected"),
        (["ftp://u:pw@host/x", "--out", "out"], "ftp://***@host/x: expected an address such as s3://bucket/prefix"),
        (["in", "--out", "out", "--on", "ray", "--workers", "2"], "--workers: expected with --on here"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_nothing(arguments: list[str], said: str, here: Path) -> None:
    Path("empty").mkdir()
    given = arguments if "--model" in arguments else [*arguments, "--model", "m.onnx"]
    result = CliRunner().invoke(score, given)
    assert result.exit_code == 2
    assert said in line(result)
    assert "pw" not in result.output
    assert not list(Path("out").rglob("*.parquet"))


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "score"), ("ray", "ray")])
def test_a_missing_extra_is_named(package: str, extra: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = scored("--on", "ray") if extra == "ray" else scored()
    if extra == "ray":
        result = CliRunner().invoke(score, ["in", "--out", "out", "--on", "ray"])
    assert result.exit_code == 2
    assert f"expected {package}, which is not installed; pip install 'vtad[{extra}]'" in line(result)


def test_a_source_that_goes_away_is_not_said_of_its_pictures(here: Path) -> None:
    def unmount_after_the_first() -> bool:
        if list(Path("out").glob("rows/*")) and Path("in/a").exists():
            Path("in").rename("away")
            Path("in").mkdir()
        return False

    options = ScoreOptions("in", Path("out"), Path("m.onnx"), partition=4, workers=1)
    with pytest.raises(VtadError, match="expected a folder of pictures, got an empty one") as error:
        score_pictures(options, unmount_after_the_first)
    assert error.value.exit_code == 3
    assert len(rows()) == 4
    Path("in").rmdir()
    Path("away").rename("in")
    assert scored().exit_code == 3
    assert [row["verdict"] for row in rows()].count("ERROR") == 1


def test_a_share_that_fails_for_a_moment_ends_the_run_and_costs_no_picture_its_verdict(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Path.open

    def stale(self: Path, *args: Any, **options: Any) -> Any:
        if self.name == "7.png":
            raise OSError(errno.ESTALE, "Stale file handle")
        return works(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", stale)
        failed = scored("--partition", 5)
    assert failed.exit_code == 3
    assert "7.png: expected a readable file, got Stale file handle; check its disk or its share, then run" in line(
        failed
    )
    assert scored().exit_code == 3
    assert [Path(row["file"]).name for row in rows() if row["verdict"] == "ERROR"] == ["11.png"]


def test_a_list_that_cannot_be_read_for_a_moment_is_one_line_and_3(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "read_row_group", stale)
        failed = scored()
    assert failed.exit_code == 3
    assert "listing.parquet: expected the list of pictures, got Stale file handle; run the same" in line(failed)
    assert scored().exit_code == 3
    assert len(rows()) == 17


def test_thumbnails_show_the_heatmap_of_what_is_odd(here: Path) -> None:
    large = np.full((600, 900, 3), 100, np.uint8)
    large[300:400, 450:600] = 255
    Image.fromarray(large).save("in/a/1.png")
    scored("--thumbnails")
    found = {row["file"].removeprefix(f"{here}/in/"): row for row in rows()}
    assert {row["verdict"] for row in found.values() if row["thumbnail"]} == {"NG"}
    assert all(row["thumbnail"] for row in found.values() if row["verdict"] == "NG")
    shown = cv2.imdecode(np.frombuffer(found["a/1.png"]["thumbnail"], np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape == (171, 256, 3)
    blue, red = (shown[..., channel].astype(int) for channel in (0, 2))
    tinted = np.argwhere(red - blue > 60)
    (top, left), (bottom, right) = tinted.min(axis=0), tinted.max(axis=0)
    assert abs(top - 85) < 8
    assert abs(bottom - 114) < 8
    assert abs(left - 128) < 8
    assert abs(right - 171) < 8


def test_who_comes_while_the_pictures_are_listed_waits(here: Path, messages: list[str]) -> None:
    Path("out").mkdir()
    lock = Lock(Path("out/.vtad-score.lock"))
    options = ScoreOptions("in", Path("out"), Path("m.onnx"), workers=1)
    later = threading.Thread(target=score_pictures, args=(options,))
    later.start()
    eventually(lambda: any("another process lists the pictures" in said for said in messages))
    assert later.is_alive()
    assert not Path("out/score.json").exists()
    lock.close()
    later.join()
    assert len(rows()) == 17


def test_a_file_system_without_locks_is_said_and_serves(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("vtad_runtime.contract.disk.lock.fcntl.flock", flock)
    result = scored()
    assert "out: cannot be locked; start one process first" in result.output
    assert len(rows()) == 17


# Processes


def begun(here: Path, *arguments: str) -> subprocess.Popen[str]:
    """vtad-score in a process group of its own, as a shell starts it."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "runtime"))),
        "OMP_NUM_THREADS": "1",
    }
    code = "from vtad_runtime.commands.programs import score; score()"
    command = [sys.executable, "-c", code, "in", "--out", "out", "--model", "m.onnx", "--workers", "2", *arguments]
    return subprocess.Popen(
        command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def alive(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    ours = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = stat.read_text().rpartition(") ")[2].split()[:3]
            if int(of) == group and state != "Z":
                ours.append(stat.parent.name)
    return ours


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_all_workers_and_the_same_command_goes_on(number: int, here: Path) -> None:
    for i in range(200):
        shutil.copyfile("in/a/2.png", f"in/a/x{i}.png")
    process = begun(here, "--partition", "2")
    eventually(lambda: any(Path("out/rows").glob("part-*")), 60)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert process.returncode == 130, said
        assert "stopped; what was in hand is dropped, the same command goes on" in said.splitlines()[-1]
    assert 0 < len(rows()) < 217
    eventually(lambda: not alive(process.pid))
    assert scored().exit_code == 3
    assert [row["frame"] for row in rows()] == list(range(1, 218))
    assert not list(Path("out").rglob(".*.part"))


def test_a_worker_whose_starter_is_gone_stops_in_the_middle_of_a_partition(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipe:
        def __init__(self) -> None:
            self.numbers, self.sent = [1], list[object]()

        def recv(self) -> int:
            if not self.numbers:
                raise EOFError
            return self.numbers.pop()

        def send(self, message: object) -> None:
            self.sent.append(message)

    job = score_pictures(ScoreOptions("in", Path("out"), Path("m.onnx")), lambda: True).job
    pipe, parents = Pipe(), iter([100, 1, 1, 1])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(EOFError):
        judge_here(cast(Any, pipe), Setup("in", Path("m.onnx"), False, job), Path("out"))
    assert pipe.sent == [1, None]


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_in_one_line(here: Path) -> None:
    def kill_one() -> bool:
        if children := active_children():
            children[0].kill()
        return False

    options = ScoreOptions("in", Path("out"), Path("m.onnx"), partition=1, workers=2)
    with pytest.raises(
        VtadError, match=r"worker \d: expected a result, got that its process ended \(SIGKILL\)"
    ) as caught:
        score_pictures(options, kill_one)
    assert caught.value.exit_code == 3
    assert not active_children()
    assert scored().exit_code == 3
    assert [row["frame"] for row in rows()] == list(range(1, 18))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_its_workers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vtad_runtime.batch.run.write_whole", full)
    result = CliRunner().invoke(
        score, ["in", "--out", "out", "--model", "m.onnx", "--workers", "2", "--partition", "9"]
    )
    assert result.exit_code == 4
    assert "cannot write rows: No space left on device; partitions written so far are whole" in line(result)
    assert not active_children()
