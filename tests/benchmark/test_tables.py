"""Rows in tables: means and spreads, counts with intervals, published figures, and the same in every kind of file."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from vtad.data.layout import MVTEC_CATEGORIES
from vtad.run_folder import RunError
from vtad_benchmark.results.markup import escaped, latex, markdown
from vtad_benchmark.results.published import read_published
from vtad_benchmark.results.row import RULES, Cost, Decision, Made, Pictures, Ranking, Row
from vtad_benchmark.results.rows import read_row, read_rows, write_row
from vtad_benchmark.results.tables import Table, against_baselines, tables
from vtad_benchmark.results.writing import write_results
from vtad_runtime.contract.threshold.binomial import exact_interval

PUBLISHED = read_published()
DECISION = Decision(4.0, 3.0, false_alarms=1, misses=10, defective_ok=4, good_unsure=2, good_with_region=3)


def row(
    method: str = "default",
    seed: int = 0,
    figures: tuple[float | None, float | None, float | None] = (1.0, 0.9, 0.8),
    category: str = "cup",
    **more: Any,
) -> Row:
    image, pixel, aupro = figures
    found = Row(
        category=category,
        method=method,
        seed=seed,
        asked={},
        fingerprint="abcdef012345",
        made=Made("2026-11-27T10:00:00+00:00", "1234567890", None, "a processor, 2 cores, Linux", {"torch": "2.13.0"}),
        pictures=Pictures(100, 20, 40, 0, 64, 48, "stretch", "f1", "f2"),
        ranking=Ranking(image, 0.9, pixel, 0.5, aupro),
        calibration_pictures=99,
        false_alarm_budget=0.01,
        guaranteed=DECISION,
        estimated=None,
        cost=Cost(600.0, 3_000_000, 4_000_000, 5.5, 12.0),
        training={"epochs": 20.0, "nll": 0.5},
        export="proven",
        run=f"runs/{method}-seed{seed}/{category}/0001",
    )
    return dataclasses.replace(found, **more)


def table(rows: list[Row], title: str) -> Table:
    (found,) = (one for one in tables(rows, PUBLISHED.figures) if one.title.startswith(title))
    return found


def cells(found: Table, name: str) -> tuple[str, ...]:
    (line,) = (line for line in found.lines if line[0] == name)
    return line


def test_figures_are_means_over_seeds_with_their_standard_deviation() -> None:
    found = table([row(seed=0, figures=(0.9, 0.8, 0.7)), row(seed=1, figures=(1.0, 0.8, 0.8))], "Does it find")
    assert found.head == ("method", "seeds", "cup")
    assert cells(found, "default") == ("default", "0, 1", "0.950 ± 0.071 / 0.800 ± 0.000 / 0.750 ± 0.071")


def test_one_seed_has_no_spread_and_a_category_without_masks_no_pixel_figures() -> None:
    assert cells(table([row(figures=(0.9, None, None))], "Does it find"), "default")[2] == "0.900 / - / -"


def test_a_figure_that_one_seed_lacks_is_not_averaged() -> None:
    found = table([row(seed=0, figures=(0.9, 0.8, None)), row(seed=1)], "Does it find")
    assert cells(found, "default")[2].endswith("/ -")


def test_the_mean_over_categories_is_of_seeds_that_have_all_of_them() -> None:
    rows = [
        row(category="cup", seed=0, figures=(1.0, 1.0, 1.0)),
        row(category="lid", seed=0, figures=(0.5, 0.5, None)),
        row(category="lid", seed=1, figures=(0.0, 0.0, 0.0)),
        row("padim", category="cup"),
    ]
    found = table(rows, "Does it find")
    assert found.head == ("method", "seeds", "cup", "lid", "mean")
    assert cells(found, "default")[-1] == "0.750 / 0.750 / -"
    assert cells(found, "padim")[2:] == ("1.000 / 0.900 / 0.800", "-", "-")


def test_unlike_things_are_never_averaged() -> None:
    longer = row(seed=1, asked={"minutes": 20})
    changed = row(seed=2, fingerprint="0123456789ab")
    names = [line[0] for line in table([row(), longer, changed], "Does it find").lines]
    assert names == ["default (abcdef012345)", "default, minutes 20", "default (0123456789ab)"]


def test_presets_stand_against_the_better_baseline_of_each_category() -> None:
    rows = [
        row(figures=(0.95, 0.85, 0.75)),
        row("padim", figures=(0.9, 0.9, 0.5)),
        row("patchcore", figures=(0.8, 0.95, 0.6)),
        row(category="lid", figures=(0.95, 0.85, 0.75)),
        row("padim", category="lid", figures=(0.95, 0.85, 0.75)),
    ]
    (line,) = against_baselines(rows)
    assert line == (
        "default against the better baseline of each category: image AUROC +0.025, pixel AUROC -0.050, AUPRO +0.075"
    )


def test_counts_come_with_rate_and_exact_interval_under_each_rule() -> None:
    other = dataclasses.replace(DECISION, false_alarms=2)
    low, high = exact_interval(1, 20)
    shown = f"1 of 20, 5.0 % ({100 * low:.1f} to {100 * high:.1f} %)"
    found = row(estimated=other)
    assert cells(table([found], "Does the guaranteed"), "cup")[5] == shown
    assert cells(table([found], "Does the estimated"), "cup")[5].startswith("2 of 20, 10.0 %")
    assert cells(table([found], "Does the guaranteed"), "cup")[7].startswith("4 of 40, 10.0 %")
    flat = found.flat()
    assert (flat["guaranteed_false_alarms"], flat["guaranteed_false_alarms_rate"]) == (1, 0.05)
    assert (flat["guaranteed_false_alarms_low"], flat["guaranteed_false_alarms_high"]) == (low, high)
    assert flat["estimated_misses_rate"] == 0.25
    assert not [one for one in tables([row()], ()) if "estimated" in one.title]


def test_every_row_has_the_same_columns() -> None:
    assert row().flat().keys() == row(estimated=DECISION).flat().keys()
    assert {f"{rule}_good_with_region_low" for rule in RULES} <= row().flat().keys()


def test_a_row_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    rows = [row(), row("padim", estimated=DECISION, export=None, run=None, training={})]
    for number, one in enumerate(rows):
        write_row(tmp_path / "rows" / "job" / f"{number}.json", one)
    assert read_rows(tmp_path) == rows


def test_a_file_that_is_no_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "cup.json").write_text(json.dumps({"category": "cup"}))
    with pytest.raises(RunError, match=r"cup\.json: expected a row of vtad-bench.*remove that file"):
        read_row(tmp_path / "cup.json")


def test_every_file_says_the_same(tmp_path: Path) -> None:
    rows = [row(), row("l1", figures=(0.6, None, None), run=None, export=None)]
    said = write_results(tmp_path, rows, ["cup, default, seed 1: another process does it"])
    columns = parquet.read_table(tmp_path / "results.parquet").to_pydict()
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert list(columns) == list(written[0]) == list(rows[0].flat())
    assert columns["image_auroc"] == [1.0, 0.6]
    assert columns["aupro"] == [0.8, None]
    assert [line["aupro"] for line in written] == ["0.8", ""]
    assert (tmp_path / "tables.md").read_text() == said
    cell = "1.000 / 0.900 / 0.800"
    page = (tmp_path / "index.html").read_text()
    assert all(cell in text for text in (said, (tmp_path / "tables.tex").read_text(), page))
    assert "another process does it" in page
    assert "http" not in page


def test_the_page_links_what_a_run_folder_holds(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "default-seed0" / "cup #1" / "0001"
    (folder / "export").mkdir(parents=True)
    for name in ("report.html", "export/parity.json"):
        (folder / name).touch()
    write_results(tmp_path, [row(category="cup #1")], [])
    page = (tmp_path / "index.html").read_text()
    assert 'href="runs/default-seed0/cup%20%231/0001/report.html"' in page
    assert "parity.json" in page
    assert "metrics.json" not in page


def test_no_sign_of_a_name_breaks_a_table() -> None:
    odd = Table("A & B?", ("a|b",), (("50 % of_x",),), "")
    assert "| a\\|b |" in markdown([odd])
    assert r"50 \% of\_x \\" in latex([odd])
    assert escaped("± ~^\\{}") == r"$\pm$ \textasciitilde{}\textasciicircum{}\textbackslash{}\{\}"


def of_mvtec(category: str, seed: int = 0, **more: Any) -> Row:
    """A row on pictures that are MVTec AD's by their numbers."""
    counts = PUBLISHED.counts[category]
    found = row(category=category, seed=seed, **more)
    seen = dataclasses.replace(
        found.pictures, train_good=counts.train_good, good=counts.good, defective=counts.defective
    )
    return dataclasses.replace(found, pictures=seen)


def test_published_figures_stand_beside_ours_where_the_pictures_are_the_same() -> None:
    found = table([of_mvtec("bottle"), row(category="tile")], "MVTec AD beside published figures: pixel AUROC")
    assert found.head == ("method", "bottle", "mean of all fifteen", "source")
    assert cells(found, "default, ours") == ("default, ours", "0.900", "-", "this run")
    (ours_first, *papers) = found.lines
    assert ours_first[0] == "default, ours"
    assert len(papers) == sum(figures.metric == "pixel_auroc" for figures in PUBLISHED.figures)
    (dinomaly,) = (line for line in papers if line[0].startswith("Dinomaly"))
    assert dinomaly[1:3] == ("0.992", "0.984")
    assert "arXiv 2405.14325, table A9: pixel AUROC; one model for all fifteen" in dinomaly[3]
    image = table([of_mvtec("bottle")], "MVTec AD beside published figures: image AUROC")
    assert cells(image, "EfficientAD-S, published")[1:3] == ("-", "0.988")
    assert "a reproduction, not the authors' figures" in cells(image, "EfficientAD-S, reproduced")[3]
    assert not [one for one in tables([row(category="bottle")], PUBLISHED.figures) if "published" in one.title]


def test_a_mean_over_mvtec_ad_is_of_all_fifteen() -> None:
    rows = [of_mvtec(category, figures=(1.0, 0.5, 0.5)) for category in MVTEC_CATEGORIES]
    found = table(rows, "MVTec AD beside published figures: image AUROC")
    assert cells(found, "default, ours")[-2] == "1.000"
