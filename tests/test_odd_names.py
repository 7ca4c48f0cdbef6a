"""Every name that a file system can hold is trained on, checked and judged; what is saved of it gets a name that fits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_run import done, flags, invoke

from vtad.commands.data import data as data_command
from vtad.commands.evaluate import evaluate as evaluate_command
from vtad.commands.train import train as train_command
from vtad.data.demo import draw
from vtad.run_folder import Run
from vtad_export.commands.export import export as export_command
from vtad_runtime.commands.run import run as run_command
from vtad_runtime.contract.disk.files import LONGEST_NAME, fitting_name

LONG = "検" * 82 + ".png"  # 250 bytes
ODD = (
    "gut_\udce4.png",
    "two\nlines.png",
    "= + # % .png",
    "[1]*?.png",
    "-x.png",
    "ä ö.png",
    LONG,
)  # the first is latin-1


@pytest.mark.usefixtures("ready_graph")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file systems refuse such names")
def test_odd_names_from_training_to_verdict(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for where in ("train/good", "test/good", "test/crack"):
        folder = tmp_path / "data/pill" / where
        folder.mkdir(parents=True)
        for i, name in enumerate(ODD if where != "train/good" else (*ODD, *(f"{n}.png" for n in range(5)))):
            kind = None if where.endswith("good") else "crack"
            Image.fromarray(draw((len(where), i), 64, kind, 1.0).rgb).save(folder / name)
    assert done(data_command, "check", "--category", "pill").rstrip().endswith("ok")
    done(train_command, "--category", "pill", *flags(epochs=1))
    done(evaluate_command)
    done(export_command, "--run", run.path, "--data", "data")  # of a run whose graph need not be traced
    result = invoke(run_command, "--folder", "data/pill/test", "--save", "all")
    assert result.exit_code in (0, 1), result.output
    rows = [json.loads(line) for line in Path("results/0001/results.jsonl").read_bytes().splitlines()]
    assert len(rows) == 2 * len(ODD)
    saved = [row["heatmap"] for row in rows]
    assert None not in saved
    assert len(set(saved)) == len(rows)
    assert all(len(os.fsencode(Path(name).name)) <= LONGEST_NAME for name in saved)


def test_names_that_fit_stay_and_longer_ones_are_cut_and_told_apart() -> None:
    assert fitting_name("part.png", ".jpg") == "part.png.jpg"
    first, second = (fitting_name("検" * 84 + end, ".jpg") for end in ("a", "b"))
    assert first != second
    assert first.endswith(".jpg")
    assert len(os.fsencode(first)) <= LONGEST_NAME
