"""Damaged journals and spools: what is left is used and what is lost is said, never a foreign exception."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_model import good, write_model

from fuzz.damage import ROUNDS, damaged, or_one_line
from vtad_runtime.commands.run import run
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.receivers.spool import NotDelivered, Spool
from vtad_runtime.sources.journal import Journal, Stamp

FILES = [(f"{i}.png", Stamp(100 + i, 1000 + i), "OK") for i in range(30)]


def a_journal(path: Path) -> None:
    journal = Journal(path)
    journal.begin([(name, stamp, "results.jsonl") for name, stamp, _ in FILES])
    for name, stamp, verdict in FILES:
        journal.done(name, stamp, verdict)
    journal.close()


def away(_: Sequence[bytes]) -> None:
    raise NotDelivered("nobody is there")


def a_spool(path: Path) -> None:
    spool = Spool(path, away, 2**20, "test")
    for number in range(30):
        spool.put({"id": number})
    spool.close(0.1)


def open_journal(path: Path) -> None:
    journal = Journal(path)
    known = [journal.verdict(name, stamp) for name, stamp, _ in FILES]
    assert set(known) <= {None, "OK"}
    journal.done("new.png", Stamp(1, 1), "NG")
    journal.commit()
    assert journal.verdict("new.png", Stamp(1, 1)) == "NG"
    journal.close()


def open_spool(path: Path) -> None:
    spool = Spool(path, away, 2**20, "test")
    spool.put({"id": 99})
    spool.close(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "use"), [(a_journal, open_journal), (a_spool, open_spool)])
def test_a_damaged_store_is_used_as_far_as_it_goes_or_set_aside(
    make: Callable[[Path], None], use: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "whole")
    files = [tmp_path / "whole"] if (tmp_path / "whole").is_file() else list((tmp_path / "whole").rglob("*"))
    stored = {file.relative_to(tmp_path / "whole"): file.read_bytes() for file in files if file.is_file()}
    for number, data in enumerate(damaged(max(stored.values(), key=len), kind=200, rounds=max(8, ROUNDS // 4))):
        copy = tmp_path / str(number)
        for name, content in stored.items():
            target = copy / name if str(name) != "." else copy
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data if content == max(stored.values(), key=len) else content)
        with or_one_line(VtadError):
            use(copy)


@pytest.mark.slow
def test_a_hot_folder_with_a_damaged_journal_is_watched_on_through_the_command(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    options = ["--watch", "in", "--model", str(write_model(tmp_path / "m.onnx")), "--save", "none", "--max-frames", "1"]

    def judge_one(number: int) -> None:
        """One picture comes: it gets its row, whatever became of the journal."""
        name = tmp_path / "in" / f"{number}.png"
        Image.fromarray(good()).save(name)
        done = CliRunner().invoke(run, [*options, "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert "Traceback" not in done.output

    with contextlib.chdir(tmp_path):
        judge_one(0)
        (journal,) = (tmp_path / "out").glob("*.journal")
        for number, data in enumerate(damaged(journal.read_bytes(), kind=202, rounds=max(3, ROUNDS // 20)), 1):
            journal.write_bytes(data)
            judge_one(number)
