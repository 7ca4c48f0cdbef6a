"""The curves that vtad-train ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtad.commands.curves import ASCII, BLOCKS, curve, curves
from vtad.report.history import training_plots
from vtad.run_folder import Run


def test_a_curve_falls_from_its_top_to_its_foot() -> None:
    assert curve([9, 6, 3, 0], 7) == ["9  █", "   ██▁", "0  ███▁"]
    assert curve([9, 6, 3, 0], 7, ASCII) == ["9  |", "   ||.", "0  |||."]


@pytest.mark.parametrize("count", [2, 7, 500])
@pytest.mark.parametrize("columns", [12, 40, 80])
def test_a_curve_is_as_wide_as_the_terminal_however_many_values(count: int, columns: int) -> None:
    lines = curve([1 / (1 + i) for i in range(count)], columns)
    assert max(map(len, lines)) <= columns
    assert len(lines[-1]) == columns
    assert set("".join(lines)) <= set(BLOCKS + "0123456789.e-")


def test_values_that_are_all_alike_are_a_low_line() -> None:
    assert curve([3, 3, 3], 6)[-1] == "3  ▁▁▁"


def written(folder: Path, *rows: dict[str, float]) -> Run:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(folder)


def test_the_loss_and_its_validation_are_named_with_the_least_value(tmp_path: Path) -> None:
    run = written(
        tmp_path,
        {"epoch": 1, "loss": 4.0, "val_loss": 2.0},
        {"epoch": 2, "loss": 3.0},
        {"epoch": 3, "loss": 2.0, "val_loss": 1.0},
        {"epoch": 4, "loss": 1.0, "val_loss": 1.5},
    )
    lines = curves(run, 40, blocks=True)
    assert lines[0] == "loss, epochs 1 to 4: 1, least 1 in 4"
    assert lines[4] == "validation, epochs 1 to 4: 1.5, least 1 in 3"
    assert len(lines) == 8


def test_one_epoch_is_no_curve_nor_is_less(tmp_path: Path) -> None:
    assert curves(Run(tmp_path), 40, blocks=True) == []
    assert curves(written(tmp_path, {"epoch": 1, "loss": 1.0, "val_loss": 1.0}), 40, blocks=True) == []


def test_a_line_that_a_power_cut_tore_is_left_out_by_all_who_read_it(tmp_path: Path) -> None:
    run = written(tmp_path, {"epoch": 1, "loss": 4.0}, {"epoch": 2, "loss": 3.0}, {"epoch": 3, "loss": 1.0})
    text = run.metrics.read_text().replace('{"epoch": 2, "loss": 3.0}', '{"epoch": 2, "lo')
    run.metrics.write_text(text + '{"epoch": 4')
    assert [row["epoch"] for row in run.epochs()] == [1, 3]
    assert curves(run)[0] == "loss, epochs 1 to 3: 1, least 1 in 3"
    assert training_plots(run)
