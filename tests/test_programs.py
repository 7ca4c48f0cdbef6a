"""Every program from its first to its last moment: Ctrl-C is one line and 130, stdout that takes no more is 4."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import PROJECT, ROOT
from PIL import Image
from tiny_model import bad, good, write_model

SOURCES = os.pathsep.join(map(str, (ROOT, ROOT / "benchmark", ROOT / "export", ROOT / "runtime")))
FULL = Path("/dev/full")
ARGUMENTS = {
    "vtad-data": ["check"],
    "vtad-replay": ["results", "--threshold", "1"],
    "vtad-calibrate": ["--good", "."],
    "vtad-score": [".", "--out", "out"],
}
# Ctrl-C after so many seconds of the program itself.
INTERRUPTED = (
    "import os, signal, threading, time; begun = threading.Event(); threading.Thread(target=lambda: "
    "(begun.wait(), time.sleep({s}), os.kill(os.getpid(), signal.SIGINT))).start(); begun.set(); "
)


def started(program: str, *arguments: str, before: str = "", stdout: int | None = subprocess.PIPE, folder: Path) -> str:
    """Run it in a process of its own; "code: stderr"."""
    module, name = PROJECT["scripts"][program].split(":")
    source = f"from {module} import {name}; {before}{name}()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), SOURCES]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        env=environment,
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    return f"{done.returncode}: {done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("program", PROJECT["scripts"])
def test_ctrl_c_in_the_first_half_second_is_one_line(program: str, tmp_path: Path) -> None:
    arguments = ARGUMENTS.get(program, [])
    early = started(program, *arguments, before=INTERRUPTED.format(s=0.005), folder=tmp_path)
    assert early == "130: Error: stopped by Ctrl-C\n"
    later = started(program, *arguments, before=INTERRUPTED.format(s=0.3), folder=tmp_path)
    # In an empty folder some have said their own error by then; the timer keeps their process until it rings.
    assert later.startswith("130: ")
    assert later.endswith("Error: stopped by Ctrl-C\n")
    assert "Traceback" not in later
    assert "Aborted" not in later


@pytest.mark.slow
def test_ctrl_c_of_which_a_library_makes_an_error_of_its_own_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text(
        "import os, signal\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: raise ImportError('initialization failed')\n"
    )
    assert started("vtad-run", "--folder", ".", folder=tmp_path) == "130: Error: stopped by Ctrl-C\n"


@pytest.mark.slow
@pytest.mark.parametrize("program", PROJECT["scripts"])
def test_a_wrong_option_is_one_line(program: str, tmp_path: Path) -> None:
    said = started(program, "--zzz", "http://ann:secret@host/", folder=tmp_path)
    assert re.fullmatch(r"2: Error: No such option '--zzz'; see \S+ --help\n", said)


def test_a_wrong_option_is_an_event_of_the_log(tmp_path: Path) -> None:
    code, _, said = started("vtad-run", "--log-json", "--threads", "many", folder=tmp_path).partition(": ")
    event = json.loads(said)
    assert (code, event["event"], event["exit_code"]) == ("2", "failed", 2)
    assert "'--threads': 'many' is not a valid integer" in event["message"]


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.slow
@pytest.mark.parametrize("program", PROJECT["scripts"])
def test_help_that_cannot_be_written_is_one_line(program: str, tmp_path: Path) -> None:
    with FULL.open("w") as full:
        said = started(program, "--help", stdout=full.fileno(), folder=tmp_path)
    assert said == "4: Error: stdout: cannot write: No space left on device\n"


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.slow
@pytest.mark.parametrize("rows", [(), ("--json", "-")])
def test_verdicts_that_stdout_does_not_take_end_the_run_with_4_and_lose_no_row_on_disk(
    rows: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name, picture in (("a", good()), ("b", bad())):
        Image.fromarray(picture).save(tmp_path / "in" / f"{name}.png")
    write_model(tmp_path / "m.onnx")
    run = ["--folder", "in", "--model", "m.onnx", *rows]
    with FULL.open("w") as full:
        said = started("vtad-run", *run, stdout=full.fileno(), folder=tmp_path)
    assert said.startswith("4: ")
    assert said.splitlines()[-1].endswith(
        "stdout: cannot write JSON Lines: No space left on device; lines written so far are whole; "
        "0 of 2 files have a whole result, 2 have none"
        if rows
        else "Error: stdout: cannot write: No space left on device"
    )
    reading, writing = os.pipe()
    os.close(reading)
    said = started("vtad-run", *run, stdout=writing, folder=tmp_path)
    os.close(writing)
    assert said.startswith("141: ")
    assert "Error" not in said
    said = started("vtad-run", *run, before="import sys; sys.stdout = None; ", folder=tmp_path)
    assert said.startswith("2: " if rows else "1: ")
    assert ("--json -: expected stdout to be open" in said) == bool(rows)
