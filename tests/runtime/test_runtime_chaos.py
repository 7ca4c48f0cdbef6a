"""A short chaos: a hot folder is killed, a disk is full, and the checks see what is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from tiny_model import good, write_model

from bench.chaos.programs import KILLED, Ended
from bench.chaos.promises import Broken, Promises, digests

ROOT = Path(__file__).parents[2]
PNG: bytes = cv2.imencode(".png", good())[1].tobytes()


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "damaged"),
    [
        ("a.jsonl", b'{"a": 1}\n', b'{"a": 1}\n{"a"'),
        ("a.json", b"{}", b"{"),
        ("a.csv", b"a,b\r\n1,2\r\n", b"a,b\r\n1\r\n"),
        ("a.png", PNG, PNG[:-20]),
        ("a.png", PNG, b""),
        (".0123456789ab.abcdef.12.part", b"half", None),
        ("a.part", None, b"half"),
    ],
)
def test_what_is_not_whole_is_broken(name: str, data: bytes | None, damaged: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "sub" / name
    file.parent.mkdir()
    if data is not None:
        file.write_bytes(data)
        Promises().whole(tmp_path)
    if damaged is not None:
        file.write_bytes(damaged)
        with pytest.raises(Broken, match=name):
            Promises().whole(tmp_path)


def test_a_model_that_changed_is_broken(tmp_path: Path) -> None:
    model = write_model(tmp_path / "a.onnx")
    before = digests(tmp_path)
    Promises().whole(tmp_path)
    Promises().same(before, tmp_path)
    flipped(model)
    with pytest.raises(Broken, match=r"a\.onnx: not whole"):
        Promises().whole(tmp_path)
    with pytest.raises(Broken, match=r"changed or gone: \['a\.onnx'\]"):
        Promises().same(before, tmp_path)


@pytest.mark.parametrize(("code", "errors"), [(70, ""), (0, "Traceback (most recent call last):")])
def test_a_foreign_exit_code_and_a_traceback_are_broken(code: int, errors: str) -> None:
    promises = Promises()
    promises.ended(Ended("vtad-run", KILLED, "", "", 1.0), KILLED, 0)
    with pytest.raises(Broken, match="vtad-run"):
        promises.ended(Ended("vtad-run", code, "", errors, 1.0), KILLED, 0)


def test_a_part_that_stays_is_broken(tmp_path: Path) -> None:
    (tmp_path / ".0123456789ab.abcdef.12.part").touch()
    with pytest.raises(Broken, match="not swept"):
        Promises().swept(tmp_path)


@pytest.mark.service  # a run under load
def test_a_short_chaos_breaks_no_promise() -> None:
    command = [sys.executable, "-m", "bench.chaos", "--minutes", "0", "--kinds", "hot,calibrate-full"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["hot", "calibrate-full"]
    assert all("steps    1" in line and "failures 0" in line for line in lines[1:])
