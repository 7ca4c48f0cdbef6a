"""A short soak: memory, threads and queue age of one source at full speed, and two runs that keep their files apart."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench.soak import WARM_UP, Bounds, Watched, separate, steadiness

ROOT = Path(__file__).parents[2]
STEADY = Watched(
    rows=1000,
    dropped=10,
    seconds=10.0,
    verdicts=Counter(OK=900, NG=100),
    memory_mb={WARM_UP: 100.0, 750: 101.0, 990: 100.5},
    threads={WARM_UP: 8, 750: 7, 990: 8},
    worst_queue_age_ms=20.0,
    left=[],
    exit_code=1,
)


def broken(seen: Watched) -> list[str]:
    return [finding.name for finding in steadiness(seen, 1000, Bounds()) if not finding.ok]


def test_a_run_within_its_bounds_is_ok() -> None:
    assert broken(STEADY) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"memory_mb": {WARM_UP: 100.0, 750: 102.5, 990: 100.0}}, "memory"),
        ({"memory_mb": {}}, "memory"),
        ({"threads": {WARM_UP: 8, 990: 9}}, "threads"),
        ({"left": ["vtad-capture"]}, "threads"),
        ({"left": None}, "threads"),
        ({"worst_queue_age_ms": 501.0}, "queue"),
        ({"rows": 999}, "frames"),
        ({"exit_code": 3}, "frames"),
        ({"verdicts": Counter(OK=999, ERROR=1)}, "frames"),
    ],
)
def test_each_broken_bound_is_named(change: dict[str, object], name: str) -> None:
    assert broken(replace(STEADY, **change)) == [name]  # type: ignore[arg-type]


def test_files_of_another_run_are_seen(tmp_path: Path) -> None:
    (tmp_path / "both.jsonl").write_text('{"source": "a"}\n{"source": "b"}\n')
    for number, source in (("0001", "a"), ("0002", "b")):
        pictures = tmp_path / "results" / number / "heatmaps"
        pictures.mkdir(parents=True)
        (pictures / "1.jpg").touch()
        row = f'{{"source": "{source}", "heatmap": "heatmaps/1.jpg"}}\n'
        (pictures.parent / "results.jsonl").write_text(row)
        (pictures.parent / "summary.json").touch()
    assert all(finding.ok for finding in separate(tmp_path, ["a", "b"], 1))
    (tmp_path / "results/0002/heatmaps/2.jpg").touch()
    assert [finding.name for finding in separate(tmp_path, ["a", "b"], 1) if not finding.ok] == ["0002"]


@pytest.mark.service  # a run under load
def test_a_short_soak_holds_its_bounds() -> None:
    command = [sys.executable, "-m", "bench.soak", "--frames", "560", "--queue-age-ms", "3000"]  # others work here too
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "560 of 560" in done.stdout
