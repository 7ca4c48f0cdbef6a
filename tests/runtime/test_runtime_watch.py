"""The hot folder: each picture once, whole, in order of arrival; through restarts and crashes; sorted by verdict."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_model import write_model

import vtad_runtime
from vtad_runtime.commands.run import run
from vtad_runtime.contract.disk.lock import hold_folder
from vtad_runtime.review.recorded import read_run
from vtad_runtime.sources import journal as journal_module
from vtad_runtime.sources import sorting
from vtad_runtime.sources.folder import SourceError
from vtad_runtime.sources.hot_folder import HotFolder
from vtad_runtime.sources.journal import Journal, JournalError, Stamp
from vtad_runtime.sources.sorting import Sorter, SortError
from vtad_runtime.verdict.verdict import Verdict

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(vtad_runtime.__file__).parents[1])}
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and signals")


STAMP = Stamp(3, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.jsonl")
    yield journal
    journal.close()


def put(path: Path, content: bytes = b"picture", mtime: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return path


def looks(count: int) -> Callable[[], bool]:
    """A stop that lets the folder be looked through until it was asked `count` times."""
    asked = itertools.count()
    return lambda: next(asked) >= count


def judge_all(hot: HotFolder, stop_after: int = 16) -> list[str]:
    """Judge whatever comes as OK; the names in order."""
    names = []
    for file in hot.files(looks(stop_after)):
        names.append(file.name)
        hot.done(file, "OK")
    return names


def test_pictures_come_once_in_order_of_arrival(folder: Path, journal: Journal) -> None:
    put(folder / "b.png", mtime=100)
    put(folder / "sub/deep/a.jpg", mtime=300)
    put(folder / "a.png", mtime=200)
    put(folder / "note.txt")
    hot = HotFolder(folder, journal, settle_s=0)
    assert judge_all(hot) == ["b.png", "a.png", "a.jpg"]
    put(folder / "c.png")
    assert judge_all(hot) == ["c.png"]


def test_a_file_still_being_written_is_waited_for(folder: Path, journal: Journal) -> None:
    settle_s, stop = 0.3, threading.Event()
    path, written = folder / "slow.png", 0.0

    def write() -> None:
        nonlocal written
        with path.open("wb", buffering=0) as file:
            for _ in range(12):
                file.write(b"x" * 100)
                written = time.monotonic()
                stop.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    file = next(HotFolder(folder, journal, settle_s).files(stop.is_set))
    waited, size = time.monotonic() - written, file.stat().st_size
    writer.join()
    assert size == 1200
    assert waited >= settle_s


def test_an_empty_file_is_given_time_to_be_filled(folder: Path, journal: Journal) -> None:
    path = put(folder / "a.png", b"")
    hot = HotFolder(folder, journal, settle_s=0.05)
    files = hot.files(lambda: False)
    filler = threading.Timer(0.2, lambda: path.write_bytes(b"picture"))
    filler.start()
    assert next(files).stat().st_size == 7


@pytest.mark.parametrize("name", [".a.png", "~a.png", "a.png.part", "a.png.TMP", "a.png~"])
def test_temporary_names_are_left_out_until_renamed(name: str, folder: Path, journal: Journal) -> None:
    temporary = put(folder / name)
    hot = HotFolder(folder, journal, settle_s=0)
    assert judge_all(hot) == []
    temporary.rename(folder / "a.png")
    assert judge_all(hot) == ["a.png"]


def test_a_file_that_vanishes_while_waiting_is_forgotten(folder: Path, journal: Journal) -> None:
    first, second = put(folder / "1.png", mtime=1), put(folder / "2.png", mtime=2)
    hot = HotFolder(folder, journal, settle_s=0)
    files = hot.files(looks(40))
    assert next(files) == first
    second.unlink()
    hot.done(first, "OK")
    assert list(files) == []


def test_a_new_file_under_an_old_name_is_judged_again(folder: Path, journal: Journal) -> None:
    put(folder / "a.png", b"one", mtime=1)
    hot = HotFolder(folder, journal, settle_s=0)
    assert judge_all(hot) == ["a.png"]
    put(folder / "a.png", b"two", mtime=2)
    assert judge_all(hot) == ["a.png"]
    assert judge_all(hot) == []


def test_a_file_replaced_while_it_is_judged_comes_once_more_afterwards(folder: Path, journal: Journal) -> None:
    path = put(folder / "a.png", b"one", mtime=1)
    hot = HotFolder(folder, journal, settle_s=0)
    files = hot.files(looks(40))
    next(files)
    put(path, b"another", mtime=2)
    hot.done(path, "OK")
    assert next(files) == path
    hot.done(path, "NG")
    assert list(files) == []


@pytest.mark.slow
def test_thousands_waiting_are_all_judged_once(folder: Path, journal: Journal) -> None:
    for i in range(2000):
        put(folder / f"{i % 7}/{i}.png", mtime=i + 1)
    hot, names = HotFolder(folder, journal, settle_s=0), list[str]()
    start = time.monotonic()
    for file in hot.files(lambda: len(names) == 2000):
        names.append(file.name)
        hot.done(file, "OK")
    assert [int(Path(name).stem) for name in names] == list(range(2000))
    assert time.monotonic() - start < 60  # a disk may need 50 ms to confirm a write: far fewer than one per file
    assert judge_all(hot) == []


def test_folders_of_results_and_of_sorted_files_are_left_out(folder: Path, journal: Journal) -> None:
    put(folder / "results/0001/results.jsonl")
    put(folder / "results/0001/heatmaps/x.jpg")
    put(folder / "a.png")
    sorter = Sorter(folder / "sorted", root=folder)
    hot = HotFolder(folder, journal, settle_s=0, sorter=sorter)
    assert judge_all(hot) == ["a.png"]
    assert (folder / "sorted/OK/a.png").is_file()
    assert judge_all(hot) == []


def test_a_folder_linked_into_itself_is_walked_once(folder: Path, journal: Journal) -> None:
    put(folder / "sub/a.png")
    (folder / "sub/loop").symlink_to(folder, target_is_directory=True)
    assert judge_all(HotFolder(folder, journal, settle_s=0)) == ["a.png"]


def test_what_cannot_be_watched_is_one_line(folder: Path, journal: Journal) -> None:
    for path, got in ((folder / "none", "nothing there"), (put(folder / "a.png"), "a file")):
        with pytest.raises(SourceError, match=f"expected a folder to watch, got {got}"):
            HotFolder(path, journal)
    Sorter(folder / "sorted")
    with pytest.raises(SourceError, match="of sorted files"):
        HotFolder(folder / "sorted", journal)


def test_an_unreadable_folder_is_said_once_and_tried_again(
    folder: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    put(folder / "open/a.png")
    put(folder / "shut/b.png")
    hot = HotFolder(folder, journal, settle_s=0)
    scandir, shut = os.scandir, True

    def refuse(path: str) -> object:
        if shut and path.endswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert judge_all(hot) == ["a.png"]
    assert messages == [f"{folder / 'shut'}: expected a readable folder, got Permission denied; it is tried again"]
    shut = False
    assert judge_all(hot) == ["b.png"]
    assert messages[1:] == [f"{folder / 'shut'}: readable again"]


def test_a_watched_folder_that_goes_away_is_waited_for(folder: Path, journal: Journal, messages: list[str]) -> None:
    hot = HotFolder(folder, journal, settle_s=0)
    folder.rename(folder.with_name("away"))
    assert judge_all(hot, 10) == []
    folder.mkdir()
    put(folder / "a.png")
    assert judge_all(hot) == ["a.png"]
    assert [line.split(": ")[1].split(",")[0] for line in messages] == ["expected a readable folder", "readable again"]


def test_a_share_that_is_unmounted_is_said_and_what_is_put_into_its_empty_folder_is_judged(
    folder: Path, journal: Journal, messages: list[str]
) -> None:
    lock = hold_folder(folder)
    assert lock is not None
    hot = HotFolder(folder, journal, settle_s=0)
    folder.rename(folder.with_name("share"))
    folder.mkdir()
    assert judge_all(hot) == []
    put(folder / "a.png")
    assert judge_all(hot) == ["a.png"]
    got = "one without the .vtad-watch.lock of this run, as where a share is not mounted"
    assert messages == [f"{folder}: expected a readable folder, got {got}; it is tried again"]
    shutil.rmtree(folder)
    folder.with_name("share").rename(folder)
    assert judge_all(hot) == []
    assert messages[1:] == [f"{folder}: readable again"]
    lock.close()


def test_a_clean_restart_judges_nothing_twice_and_misses_nothing(folder: Path, tmp_path: Path) -> None:
    names = []
    for i in range(3):
        put(folder / f"{i}.png")
        journal = Journal(tmp_path / "journal.jsonl")
        names += judge_all(HotFolder(folder, journal, settle_s=0))
        journal.close()
    assert names == ["0.png", "1.png", "2.png"]


def test_a_journal_in_use_is_refused(tmp_path: Path, journal: Journal) -> None:
    with pytest.raises(JournalError, match=f"one in use.*held by process {os.getpid()}"):
        Journal(journal.path)
    journal.verdict("a", Stamp(1, 1))  # the first one is unharmed


@posix
def test_a_journal_in_use_by_another_process_is_refused_until_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    code = "import sys; from pathlib import Path; from vtad_runtime.sources.journal import Journal\n"
    code += "journal = Journal(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(JournalError, match=f"held by process {other.pid}"):
            Journal(path)
        other.kill()
        other.wait()
    Journal(path).close()


def judged(path: Path, *names: str, stamp: Stamp = STAMP) -> None:
    """A journal that knows these files."""
    journal = Journal(path)
    for name in names:
        journal.done(name, stamp, "OK")
    journal.close()


def test_any_file_name_is_remembered(tmp_path: Path) -> None:
    names = ["a.png", "line 1/b.png", "\u00e4\U0001f600.png", "no text \udcff.png"]
    judged(tmp_path / "a.journal", *names)
    journal = Journal(tmp_path / "a.journal")
    assert [journal.verdict(name, STAMP) for name in names] == ["OK"] * 4
    journal.close()


def test_a_torn_write_is_repaired(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "a.journal"
    judged(path, "a.png")
    path.with_name("a.journal-wal").write_bytes(b"half of something")
    judged(path, "b.png")
    journal = Journal(path)
    assert (journal.verdict("a.png", STAMP), journal.verdict("b.png", STAMP)) == ("OK", "OK")
    journal.close()
    assert messages == []


@pytest.mark.parametrize(("first", "kept"), [(0, 0), (40_000, 100), (96, 0)])
def test_a_damaged_journal_is_set_aside_and_said_in_one_line(
    tmp_path: Path, messages: list[str], first: int, kept: int
) -> None:
    path = tmp_path / "a.journal"
    names = [f"{n:04d}.png" for n in range(2000)]
    judged(path, *names)
    data = path.read_bytes()
    path.write_bytes(data[:first] + b"\xa5" * (len(data) - first))
    journal = Journal(path)
    remembered = [name for name in names if journal.verdict(name, STAMP)]
    assert kept <= len(remembered) < 2000
    assert remembered == names[: len(remembered)]
    journal.done("new.png", STAMP, "NG")
    journal.close()
    assert len(messages) == 1
    assert f"{path} is damaged, set aside as a.journal.damaged: {len(remembered)} judged files" in messages[0]
    assert (tmp_path / "a.journal.damaged").is_file()
    journal = Journal(path)
    assert journal.verdict("new.png", STAMP) == "NG"
    journal.close()


def old_lines(*names: str) -> list[bytes]:
    """The journal of a vtad before SQLite."""
    common = {"size": STAMP.size, "mtime_ns": STAMP.mtime_ns}
    entries = [{"state": "done", "name": n, **common, "verdict": "OK", "judged_at": 1.7e9} for n in names]
    return [json.dumps(entry).encode() + b"\n" for entry in entries]


@pytest.mark.parametrize("tail", [b"", b'{"state": "done", "na', b"\0\0\0\0"])
def test_a_journal_of_an_earlier_vtad_is_taken_over_once(tail: bytes, tmp_path: Path, messages: list[str]) -> None:
    path, results = tmp_path / "a.journal", tmp_path / "results.jsonl"
    begun = {"state": "begin", "size": 3, "mtime_ns": 5, "results": str(results), "offset": 0}
    lines = [json.dumps({**begun, "name": name, "file": f"in/{name}"}).encode() + b"\n" for name in ("c.png", "d.png")]
    path.write_bytes(b"".join(old_lines("a.png", "b.png") + lines) + tail)
    results.write_text(json.dumps({"file": "in/c.png", "verdict": "NG"}) + "\n")
    for _ in range(2):
        journal = Journal(path)
        verdicts = [journal.verdict(name, STAMP) for name in ("a.png", "b.png", "c.png", "d.png")]
        journal.close()
        assert verdicts == ["OK", "OK", "NG", None]
    assert messages == [f"{path}: 2 judged files of an earlier vtad taken over"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.journal", "a.journal.lock", "results.jsonl"]


def test_a_damaged_line_of_an_earlier_vtad_costs_only_itself_and_is_said(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "a.journal"
    first, _, last = old_lines("a.png", "b.png", "c.png")
    path.write_bytes(first + b"\xff" * 20 + b"\n" + last)
    journal = Journal(path)
    assert [journal.verdict(name, STAMP) for name in ("a.png", "b.png", "c.png")] == ["OK", None, "OK"]
    assert len(messages) == 1
    assert "2 judged files of an earlier vtad taken over; 1 damaged lines left out" in messages[0]
    journal.close()


def test_a_long_journal_forgets_what_is_long_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LONG", 3)
    path, now = tmp_path / "a.journal", 1.7e9
    journal = Journal(path, clock=lambda: now)
    for name in ("old and gone.png", "old.png"):
        journal.done(name, STAMP, "OK")
    now += 8 * 86400
    journal.forget({"old.png"})  # still short
    for name in ("gone.png", "here.png"):
        journal.done(name, STAMP, "OK")
    journal.begin([("in flight.png", STAMP, "in/in flight.png")])
    for _ in range(2):
        journal.forget({"old.png", "here.png"})
        names = ("old and gone.png", "old.png", "gone.png", "here.png", "in flight.png")
        assert [journal.verdict(name, STAMP) for name in names] == [None, "OK", "OK", "OK", None]
        journal.close()
        journal = Journal(path, clock=lambda: now)
    journal.close()


def test_a_journal_does_not_grow_while_the_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LONG", 100)
    path, now, sizes = tmp_path / "a.journal", 1.7e9, []

    def clock() -> float:
        return now

    journal = Journal(path, clock=clock)
    for day in range(40):
        now += 86400
        names = [f"{day}-{n}.png" for n in range(50)]
        journal.begin([(name, STAMP, name) for name in names])
        for name in names:
            journal.done(name, STAMP, "OK")
        journal.forget(set(names))
        if day % 10 == 9:
            journal.close()
            sizes.append(path.stat().st_size)
            journal = Journal(path, clock=clock)
    journal.close()
    assert max(sizes) <= 2 * sizes[0]


class FillsUp(sqlite3.Connection):
    """A database on a disk that is full now and then."""

    full = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if FillsUp.full and sql.startswith(("INSERT", "BEGIN", "CREATE")):
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, parameters)


def test_a_full_disk_is_said_and_costs_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **kw: connect(*a, **kw, factory=FillsUp))
    path = tmp_path / "a.journal"
    journal = Journal(path)
    journal.done("a.png", STAMP, "OK")
    journal.commit()
    monkeypatch.setattr(FillsUp, "full", True)
    with pytest.raises(JournalError, match="got database or disk is full") as error:
        journal.begin([("b.png", STAMP, "in/b.png")])
    assert error.value.exit_code == 4
    monkeypatch.setattr(FillsUp, "full", False)
    journal.done("c.png", STAMP, "OK")
    journal.close()
    journal = Journal(path)
    assert [journal.verdict(name, STAMP) for name in ("a.png", "b.png", "c.png")] == ["OK", None, "OK"]
    journal.close()


@posix
def test_a_disk_that_is_full_when_the_journal_is_made_is_4_and_a_folder_that_is_none_is_2(tmp_path: Path) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no write succeeds
        try:
            Journal(tmp_path / "a.journal")
        except JournalError as e:
            os._exit(e.exit_code)

    child = os.fork()
    if child == 0:
        no_room()
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    put(tmp_path / "file")
    with pytest.raises(JournalError, match="expected a journal that can be written") as error:
        Journal(tmp_path / "file" / "a.journal")
    assert error.value.exit_code == 2


@posix
def test_a_disk_that_is_full_when_the_journal_is_made_ends_the_command_with_4(folder: Path, tmp_path: Path) -> None:
    model, limits = write_model(tmp_path / "m.onnx"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # room for run.json, none for a database
    try:
        done = CliRunner().invoke(run, ["--watch", str(folder), "--model", str(model), "--out", str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.exit_code == 4, done.output
    assert "expected a journal that can be written, got" in done.output.splitlines()[-1]


# Judges the folder as vtad-run does, and kills itself at one step of one file: before its row, after it, after `done`,
# or instead of moving it.
WORKER = """
import json, os, signal, sys
from pathlib import Path
from vtad_runtime.sources.journal import Journal
from vtad_runtime.sources.sorting import Sorter
from vtad_runtime.sources.hot_folder import HotFolder

folder, journal, results, to, step, count, total = sys.argv[1:]
seen = 0

def reached(name):
    if name == step and seen >= int(count):
        os.kill(os.getpid(), signal.SIGKILL)

class Fragile(Sorter):
    def move(self, *what):
        reached("move")
        return super().move(*what)

def everything_sorted():
    return len(list(Path(to).glob("OK/*.png"))) == int(total)

sorter = Fragile(Path(to), root=Path(folder))
hot = HotFolder(Path(folder), Journal(Path(journal), results=Path(results)), 0.01, sorter)
with open(results, "xb", buffering=0) as rows:
    for file in hot.files(everything_sorted):
        seen += 1
        reached("row")
        rows.write((json.dumps({"file": file.as_posix(), "verdict": "OK"}) + "\\n").encode())
        reached("done")
        hot.done(file, "OK")
        reached("end")
"""


def run_worker(tmp_path: Path, number: int, step: str, count: int, total: int) -> subprocess.Popen[bytes]:
    paths = ("in", "journal.jsonl", f"results-{number}.jsonl", "sorted")
    arguments = [*(str(tmp_path / path) for path in paths), step, str(count), str(total)]
    return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], env=ENVIRONMENT)


def rows_of_all(tmp_path: Path) -> Counter[str]:
    rows: Counter[str] = Counter()
    for results in tmp_path.glob("results-*.jsonl"):
        rows.update(Path(json.loads(line)["file"]).name for line in results.read_text().splitlines())
    return rows


@pytest.mark.slow
@posix
def test_a_crash_at_any_step_neither_doubles_nor_loses_a_row(folder: Path, tmp_path: Path) -> None:
    total = 12
    names = [put(folder / f"{i}.png", b"%d" % i, mtime=i + 1).name for i in range(total)]
    for number, (step, count) in enumerate([("row", 2), ("done", 2), ("move", 1), ("end", 3), ("done", 1)]):
        assert run_worker(tmp_path, number, step, count, total).wait(60) == -signal.SIGKILL
    assert max(rows_of_all(tmp_path).values()) == 1
    assert run_worker(tmp_path, 9, "never", 0, total).wait(60) == 0
    assert rows_of_all(tmp_path) == Counter(names)
    assert sorted(p.name for p in (tmp_path / "sorted/OK").iterdir()) == sorted(names)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@posix
def test_kills_from_outside_neither_double_nor_lose_a_row(folder: Path, tmp_path: Path) -> None:
    total = 200
    names = [put(folder / f"{i}.png", b"%d" % i, mtime=i + 1).name for i in range(total)]
    for number, rows in enumerate((7, 30, 60)):
        process = run_worker(tmp_path, number, "never", 0, total)
        results, deadline = tmp_path / f"results-{number}.jsonl", time.monotonic() + 60
        while process.poll() != 0 and not (results.exists() and results.read_bytes().count(b"\n") >= rows):
            assert process.poll() in (None, 0)
            assert time.monotonic() < deadline
        process.kill()  # on a busy machine the worker may have ended before: it is quick
        process.wait()
    assert run_worker(tmp_path, 9, "never", 0, total).wait(60) == 0
    assert rows_of_all(tmp_path) == Counter(names)


def die(journal: Journal) -> None:
    """What a crash leaves: the lock is free, and nothing says that the run ended."""
    journal.close(in_order=False)


def test_after_a_crash_what_was_in_hand_comes_alone_and_only_the_file_that_takes_the_process_along_is_set_aside(
    folder: Path, tmp_path: Path, messages: list[str]
) -> None:
    for i in range(6):
        put(folder / f"{i}.png", mtime=i + 1)

    stop = threading.Event()

    def start() -> tuple[Journal, HotFolder, Iterator[Path]]:
        journal = Journal(tmp_path / "a.journal")
        hot = HotFolder(folder, journal, settle_s=0)
        return journal, hot, hot.files(stop.is_set)

    journal, hot, files = start()
    hot.done(next(files), "OK")
    in_hand = [next(files) for _ in range(3)]  # whose fault it is cannot be known
    die(journal)

    put(folder / "0-new.png", mtime=1)
    journal, hot, files = start()
    hot.done(next(files), "OK")
    evil = next(files)
    assert evil == in_hand[1]
    waiting = threading.Thread(target=next, args=(files, None))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()  # nothing else comes while it is in hand
    stop.set()
    waiting.join()
    die(journal)

    journal = Journal(tmp_path / "a.journal")
    hot = HotFolder(folder, journal, settle_s=0)
    seen: dict[str, str | None] = {}
    while len(seen) < 5:
        shot = hot.read(lambda: False)
        assert shot is not None
        assert shot.path is not None
        seen[Path(shot.path).name] = shot.error
        hot.done(Path(shot.path), "ERROR")
    assert [name for name, error in seen.items() if error and "set aside: the process died 2 times" in error] == [
        "2.png"
    ]
    assert list(seen)[-1] == "0-new.png"
    assert [line for line in messages if "set aside" in line] == [f"{evil}: {seen['2.png']}"]
    put(evil, b"anew", mtime=9)
    assert hot.read(lambda: False).error != seen["2.png"]  # type: ignore[union-attr]
    journal.close()


def test_a_run_that_ends_in_order_blames_no_file(folder: Path, tmp_path: Path) -> None:
    path = put(folder / "a.png")
    for _ in range(3):
        journal = Journal(tmp_path / "a.journal")
        hot = HotFolder(folder, journal, settle_s=0)
        assert next(hot.files(looks(40))) == path
        stamp = Stamp(path.stat().st_size, path.stat().st_mtime_ns)
        assert journal.crashes("a.png", stamp) == 0
        journal.end_in_order()
        die(journal)  # by a service manager that does not wait


def test_without_the_results_file_a_crash_may_judge_twice_but_never_misses(folder: Path, tmp_path: Path) -> None:
    put(folder / "a.png")
    for _ in range(2):
        journal = Journal(tmp_path / "journal.jsonl")
        hot = HotFolder(folder, journal, settle_s=0)
        assert next(hot.files(looks(40))).name == "a.png"  # and the run ends before `done`
        journal.close()


def test_a_row_of_an_earlier_file_of_the_same_name_does_not_count(folder: Path, tmp_path: Path) -> None:
    path, results = put(folder / "a.png", b"one", mtime=1), tmp_path / "results.jsonl"
    row = json.dumps({"file": path.as_posix(), "verdict": "OK"}) + "\n"
    results.write_text("")
    journal = Journal(tmp_path / "journal.jsonl", results)
    hot = HotFolder(folder, journal, settle_s=0)
    files = hot.files(looks(100))
    next(files)
    results.write_text(row)
    hot.done(path, "OK")
    put(path, b"another", mtime=2)
    next(files)  # and the run ends before its row
    journal.close()
    journal = Journal(tmp_path / "journal.jsonl")
    assert judge_all(HotFolder(folder, journal, settle_s=0)) == ["a.png"]
    journal.close()


def moved(sorter: Sorter, file: Path, verdict: Verdict = Verdict.OK) -> Path:
    to = sorter.move(file, verdict)
    assert to is not None
    return to


def test_sorting_keeps_subfolders_and_never_overwrites(folder: Path, tmp_path: Path) -> None:
    sorter = Sorter(tmp_path / "out", root=folder)
    places = [
        moved(sorter, put(folder / "line 1/a.png", content), verdict)
        for content, verdict in ((b"1", Verdict.NG), (b"2", Verdict.NG), (b"3", Verdict.NG), (b"4", Verdict.UNSURE))
    ]
    below = [(place.relative_to(tmp_path / "out").as_posix(), place.read_bytes()) for place in places]
    assert below == [
        ("NG/line 1/a.png", b"1"),
        ("NG/line 1/a-2.png", b"2"),
        ("NG/line 1/a-3.png", b"3"),
        ("UNSURE/line 1/a.png", b"4"),
    ]
    assert not list(folder.rglob("*.png"))


def test_the_next_free_number_of_a_name_is_found_in_few_steps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2, 301):
        put(tmp_path / f"out/OK/a-{number}.png")
    put(tmp_path / "out/OK/a.png")
    steps = list[object]()

    def counted(works: Callable[..., Any]) -> Callable[..., Any]:
        def count(*names: object) -> Any:
            steps.append(names)
            return works(*names)

        return count

    monkeypatch.setattr(os, "link", counted(os.link))
    monkeypatch.setattr(os.path, "lexists", counted(os.path.lexists))
    sorter = Sorter(tmp_path / "out", root=folder)
    for number, most in ((301, 25), (302, 2)):
        assert moved(sorter, put(folder / "a.png")).name == f"a-{number}.png"
        assert len(steps) <= most
        steps.clear()


def no_links(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_sorting_works_where_the_file_system_has_no_links(
    number: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links(number))
    sorter = Sorter(tmp_path / "out", root=folder)
    assert [moved(sorter, put(folder / "a.png", c)).read_bytes() for c in (b"1", b"2")] == [b"1", b"2"]
    assert sorted(p.name for p in (tmp_path / "out/OK").iterdir()) == ["a-2.png", "a.png"]


def across_file_systems(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    """Links and renames out of `source` fail as between two file systems."""
    link, replace = os.link, Path.replace

    def refuse(file: Path, to: Path) -> None:
        if Path(file).is_relative_to(source) and not Path(to).is_relative_to(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    def link_within(file: Path, to: Path) -> None:
        refuse(file, to)
        link(file, to)

    def replace_within(self: Path, to: Path) -> Path:
        refuse(self, to)
        return replace(self, to)

    monkeypatch.setattr(os, "link", link_within)
    monkeypatch.setattr(Path, "replace", replace_within)


def test_sorting_across_file_systems_copies_whole_and_keeps_the_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    across_file_systems(monkeypatch, folder)
    sorter = Sorter(tmp_path / "out", root=folder)
    put(tmp_path / "out/OK/a.png", b"earlier")
    to = moved(sorter, put(folder / "a.png", b"x" * 10_000, mtime=1000))
    assert (to.name, to.read_bytes(), to.stat().st_mtime) == ("a-2.png", b"x" * 10_000, 1000)
    assert list(folder.iterdir()) == []


def test_sorting_to_a_share_that_lets_nobody_set_times_copies_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    across_file_systems(monkeypatch, folder)
    path = put(folder / "a.png")
    for name in ("utime", "chmod"):
        monkeypatch.setattr(os, name, refuse)
    assert moved(Sorter(tmp_path / "out", root=folder), path).read_bytes() == b"picture"
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no second file system")
def test_sorting_to_a_real_other_file_system(folder: Path) -> None:
    to = Path("/dev/shm") / f"vtad-test-{os.getpid()}"
    if Path("/dev/shm").stat().st_dev == folder.stat().st_dev:
        pytest.skip("no second file system")
    try:
        assert moved(Sorter(to, root=folder), put(folder / "sub/a.png"), Verdict.NG).read_bytes() == b"picture"
        assert not (folder / "sub/a.png").exists()
    finally:
        shutil.rmtree(to)


@pytest.mark.parametrize("fails", ["listdir", "scandir"])
def test_what_an_earlier_run_left_in_a_folder_that_cannot_be_read_at_first_is_sorted_when_it_can_be(
    fails: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    judged_one, aside = put(folder / "sub/a.png", mtime=1), put(folder / f"sub/{sorting.ASIDE}/b.png", mtime=1)
    stamp = Stamp(judged_one.stat().st_size, judged_one.stat().st_mtime_ns)
    judged(tmp_path / "a.journal", "sub/a.png", "sub/b.png", stamp=stamp)
    works = getattr(os, fails)

    def times_out(path: str | Path) -> Any:
        if Path(path) in (folder / "sub", aside.parent):
            raise OSError(errno.ETIMEDOUT, "Connection timed out", str(path))
        return works(path)

    journal = Journal(tmp_path / "a.journal")
    hot = HotFolder(folder, journal, settle_s=0, sorter=Sorter(tmp_path / "out", root=folder))
    with monkeypatch.context() as patch:
        patch.setattr(os, fails, times_out)
        assert judge_all(hot) == []
    assert judge_all(hot) == []
    journal.close()
    assert sorted(file.name for file in (tmp_path / "out/OK/sub").iterdir()) == ["a.png", "b.png"]
    sub = folder / "sub"
    said = f"{sub}: expected a readable folder, got Connection timed out; it is tried again"
    assert messages == [said, f"{sub}: readable again"]


class Run:
    """A run on a hot folder that sorts, with the results folder that vtad-replay reads."""

    def __init__(self, tmp_path: Path, number: int) -> None:
        self.results = put(tmp_path / f"results/{number}/results.jsonl", b"")
        self.journal = Journal(tmp_path / "results/a.journal", self.results)
        sorter = Sorter(tmp_path / "out", tmp_path / "in", self.results.with_name("moves.jsonl"))
        self.hot = HotFolder(tmp_path / "in", self.journal, 0, sorter)
        self._rows = 0

    def row(self, file: Path) -> int:
        self._rows += 1
        row = {"frame": self._rows, "file": file.as_posix(), "verdict": "OK", "score": self._rows}
        with self.results.open("a") as results:
            results.write(json.dumps(row) + "\n")
        return self._rows

    def judge(self, files: Iterator[Path] | None = None) -> None:
        for file in files or self.hot.files(looks(12)):
            self.hot.done(file, "OK", self.row(file))

    def pictures(self) -> list[bytes | None]:
        """What the picture holds that vtad-replay finds for each row."""
        self.journal.close()
        return [row.picture.read_bytes() if row.picture else None for row in read_run(self.results).rows]


def test_replay_finds_no_picture_of_a_part_that_was_overwritten_before_it_was_moved(
    folder: Path, tmp_path: Path
) -> None:
    run, part = Run(tmp_path, 1), put(folder / "a.png", b"one", mtime=1)
    files = run.hot.files(looks(40))
    for following in (b"two, not moved", b"three"):
        file = next(files)
        put(part, following, mtime=part.stat().st_mtime + 1)
        run.hot.done(file, "OK", run.row(file))
    run.judge(files)
    put(part, b"four, of an older time", mtime=0.5)
    assert run.pictures() == [None, None, b"three"]


def test_what_an_earlier_run_left_to_be_moved_is_not_taken_for_a_picture_of_the_next_run(
    folder: Path, tmp_path: Path
) -> None:
    first = Run(tmp_path, 1)
    put(folder / "a.png", b"one", mtime=1)
    first.row(next(first.hot.files(looks(12))))
    die(first.journal)
    second = Run(tmp_path, 2)
    second.judge()
    for content in (b"two", b"three"):
        put(folder / "a.png", content)
        second.judge()
    assert second.pictures() == [b"two", b"three"]
    assert (tmp_path / "out/OK/a.png").read_bytes() == b"one"


def test_a_file_that_comes_again_with_its_size_and_time_is_judged_once_more_when_the_first_was_moved_away(
    folder: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # over a restart
        journal = Journal(tmp_path / "a.journal")
        hot = HotFolder(folder, journal, settle_s=0, sorter=Sorter(tmp_path / "out", root=folder))
        for _ in range(2):
            put(folder / "a.png", mtime=1)
            assert judge_all(hot) == ["a.png"]
        die(journal)
    assert sorted(file.name for file in (tmp_path / "out/OK").iterdir()) == ["a-2.png", "a-3.png", "a-4.png", "a.png"]


def test_a_failed_move_leaves_the_file_and_nothing_half(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    across_file_systems(monkeypatch, folder)

    def fills_up(file: Path, to: Path) -> None:
        Path(to).write_bytes(b"ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fills_up)
    path = put(folder / "a.png")
    with pytest.raises(SortError) as error:
        Sorter(tmp_path / "out", root=folder).move(path, Verdict.NG)
    assert str(error.value) == f"{path}: cannot be moved to {tmp_path / 'out/NG'}: No space left on device; left there"
    assert path.read_bytes() == b"picture"
    assert list((tmp_path / "out/NG").iterdir()) == []


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_a_file_that_cannot_be_taken_away_is_not_left_in_two_places(
    step: str, across: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, works, refused = put(folder / "a.png"), getattr(Path, step), list[Path]()

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        if not refused and self.is_relative_to(folder):
            refused.append(self)
            raise PermissionError(errno.EACCES, "Permission denied")
        return works(self, *args, **options)

    if across:
        across_file_systems(monkeypatch, folder)
    monkeypatch.setattr(Path, step, refuse)
    with pytest.raises(SortError, match="Permission denied; left there"):
        Sorter(tmp_path / "out", root=folder).move(path, Verdict.NG)
    assert [p.name for p in folder.rglob("*")] == ["a.png"]
    assert not list((tmp_path / "out").rglob("*.*g"))


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_part_that_takes_the_name_of_one_that_is_being_sorted_is_judged_too(
    moment: str, folder: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder / "a.png", b"one", mtime=1)
    rename, link = Path.rename, os.link

    def next_part() -> None:
        monkeypatch.undo()
        put(folder / "next.part", b"two", mtime=2).replace(folder / "a.png")

    def rename_after(self: Path, to: Path) -> Path:
        if moment == "before":
            next_part()
        else:
            monkeypatch.setattr(os, "link", link_with_it)
        return rename(self, to)

    def link_with_it(file: Path, to: Path) -> None:
        if moment == "after":
            link(file, to)
        next_part()
        if moment == "between":
            link(file, to)

    monkeypatch.setattr(Path, "rename", rename_after)
    hot = HotFolder(folder, journal, settle_s=0, sorter=Sorter(folder.parent / "out", root=folder))
    assert judge_all(hot, 30) == ["a.png", "a.png"]
    contents = {file.name: file.read_bytes() for file in (folder.parent / "out/OK").iterdir()}
    expected = {"a.png": b"two"} if moment == "before" else {"a.png": b"one", "a-2.png": b"two"}
    assert contents == expected  # in the first case the writer itself has replaced the one that was judged
    assert list(folder.iterdir()) == []


@posix
@pytest.mark.parametrize("dies_in", ["rename", "copyfile", "sync", "link", "unlink"])
@pytest.mark.parametrize("across", [False, True])
def test_a_kill_while_sorting_leaves_one_copy_and_nothing_half(
    dies_in: str, across: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder / "sub/a.png", b"x" * 1000, mtime=1)
    put(tmp_path / "out/OK/sub/a.png", b"earlier")
    if across:
        across_file_systems(monkeypatch, folder)

    def judge() -> None:
        journal = Journal(tmp_path / "a.journal")
        judge_all(HotFolder(folder, journal, settle_s=0, sorter=Sorter(tmp_path / "out", root=folder)))
        journal.close()

    owner: Any = {"copyfile": shutil, "sync": sorting, "link": os}.get(dies_in, Path)
    works = getattr(owner, dies_in)

    def die(*args: Any, **options: Any) -> None:
        works(*args, **options)
        os._exit(0)

    def die_before(*args: Any, **options: Any) -> None:
        os._exit(0)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(owner, dies_in, die_before if dies_in == "unlink" else die)
        judge()
        os._exit(1)  # it was never called
    died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert died == (across or dies_in not in ("copyfile", "sync"))
    judge()
    contents = {file.name: file.read_bytes() for file in (tmp_path / "out/OK/sub").iterdir()}
    assert contents == {"a.png": b"earlier", "a-2.png": b"x" * 1000}
    assert [p.name for p in (tmp_path / "out/OK").iterdir()] == ["sub"]
    assert [str(p.relative_to(folder)) for p in folder.rglob("*")] == ["sub"]


def test_a_folder_that_cannot_be_sorted_into_is_one_line(folder: Path) -> None:
    with pytest.raises(SortError, match="expected a folder to sort into, got a file"):
        Sorter(put(folder / "a.png"))
    with pytest.raises(SortError, match="expected another folder"):
        Sorter(folder, root=folder)


def test_a_disk_that_is_full_when_the_folder_to_sort_into_is_made_is_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(SortError, match="got No space left on device") as error:
        Sorter(tmp_path / "out")
    assert error.value.exit_code == 4


def test_a_move_that_fails_is_said_and_the_file_is_not_judged_again(
    folder: Path, journal: Journal, messages: list[str]
) -> None:
    sorter = Sorter(folder.parent / "out", root=folder)
    put(folder.parent / "out/OK", b"a file in the way")
    put(folder / "a.png")
    hot = HotFolder(folder, journal, settle_s=0, sorter=sorter)
    assert judge_all(hot) == ["a.png"]
    assert judge_all(hot) == []
    assert len(messages) == 1
    assert "cannot be moved" in messages[0]
    assert (folder / "a.png").is_file()


def test_a_file_that_changed_while_it_was_judged_is_not_sorted_by_the_old_verdict(
    folder: Path, journal: Journal
) -> None:
    path = put(folder / "a.png", b"good", mtime=1)
    hot = HotFolder(folder, journal, settle_s=0, sorter=Sorter(folder.parent / "out", root=folder))
    files = hot.files(looks(60))
    next(files)
    put(path, b"defective", mtime=2)
    hot.done(path, "OK")
    assert next(files) == path
    hot.done(path, "NG")
    assert list(files) == []
    assert (folder.parent / "out/NG/a.png").read_bytes() == b"defective"
    assert not (folder.parent / "out/OK").exists()
