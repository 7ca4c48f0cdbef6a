"""Categories of few good pictures: as many as asked, drawn by the draw's number, with the test pictures of the whole."""

from __future__ import annotations

from pathlib import Path

import click.testing

from bench.few_pictures import few_pictures
from vtad.data.layout import find_category


def test_a_category_of_few_has_that_many_and_all_test_pictures(pills: Path, tmp_path: Path) -> None:
    asked = ["--data", str(pills), "--categories", "pill", "--counts", "6,9", "--draws", "2", "--out", str(tmp_path)]
    done = click.testing.CliRunner().invoke(few_pictures, asked)
    assert done.exit_code == 0, done.output
    whole, found = find_category(pills, "pill"), find_category(tmp_path, "pill-9-1")
    assert len(found.train_good) == 9
    assert {f.name for f in found.train_good} < {f.name for f in whole.train_good}
    assert [(t.kind, t.path.name) for t in found.test] == [(t.kind, t.path.name) for t in whole.test]
    other = find_category(tmp_path, "pill-9-0")
    assert {f.name for f in found.train_good} != {f.name for f in other.train_good}
    before = sorted(tmp_path.rglob("*"))
    assert click.testing.CliRunner().invoke(few_pictures, asked).exit_code == 0  # again: nothing changes
    assert sorted(tmp_path.rglob("*")) == before
