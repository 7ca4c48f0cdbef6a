"""Published figures: each has a source, their means are those of their categories, and the docs say the same."""

from __future__ import annotations

from statistics import fmean

import pytest
from documents import ROOT

from vtad.data.layout import MVTEC_CATEGORIES
from vtad_benchmark.results.published import MEAN, METRICS, Figures, read_published

PUBLISHED = read_published()
WHOLE = {*MVTEC_CATEGORIES, MEAN}
ROUNDING = 1e-3 + 1e-9  # both the categories and the mean are rounded to the third decimal


def of(seen: tuple[str, ...]) -> dict[str, dict[str, Figures]]:
    """By method, then by metric."""
    found: dict[str, dict[str, Figures]] = {}
    for figures in PUBLISHED.figures:
        if figures.seen in seen:
            metrics = found.setdefault(figures.method, {})
            assert figures.metric not in metrics, (figures.method, figures.metric)
            metrics[figures.metric] = figures
    return found


AUTHORS = of(("text", "picture", "notebook"))
REPRODUCED = of(("reproduction",))


def test_every_figure_names_what_was_read_and_is_of_mvtec_ad() -> None:
    for figures in PUBLISHED.figures:
        assert figures.metric in METRICS
        assert all((figures.paper, figures.arxiv, figures.table, figures.used))
        copy = figures.where.split(", ")  # repository, commit, file
        assert len(copy) == 3 or figures.where.startswith("the submission to "), figures.where
        assert figures.values.keys() in (WHOLE, {MEAN})
        assert all(0.6 < value <= 1 for value in figures.values.values())
        assert ("a reproduction" in figures.source) == (figures.method in REPRODUCED and "reproduced" in figures.name)


def test_whole_rows_stand_where_the_papers_give_them() -> None:
    rows = {
        (method, metric): figures.values.keys() == WHOLE
        for method, metrics in AUTHORS.items()
        for metric, figures in metrics.items()
    }
    image, pixel, aupro = METRICS
    every = {(m, metric) for m in ("NSA", "PatchCore-25%", "PatchCore-1%", "Dinomaly") for metric in METRICS}
    localized = {("VT-ADL", pixel), ("PaDiM", pixel), ("PaDiM", aupro)}
    by_draem = {(m, metric) for m in ("DRAEM", "PaDiM, judged by DRAEM's authors") for metric in (image, pixel)}
    assert {key for key, whole in rows.items() if whole} == every | localized | by_draem
    efficient = {(m, metric) for m in ("EfficientAD-S", "EfficientAD-M") for metric in (image, aupro)}
    assert {key for key, whole in rows.items() if not whole} == efficient | {("PaDiM", image)}
    assert {(m, metric) for m, metrics in REPRODUCED.items() for metric in metrics} == efficient


@pytest.mark.parametrize(
    "figures", [f for f in PUBLISHED.figures if len(f.values) > 1], ids=lambda f: f"{f.name} {f.metric}"
)
def test_a_mean_is_the_mean_of_its_categories(figures: Figures) -> None:
    mean = fmean(value for name, value in figures.values.items() if name != MEAN)
    assert figures.values[MEAN] == pytest.approx(mean, abs=ROUNDING)


def test_reproductions_are_near_what_they_reproduce() -> None:
    for method, metrics in REPRODUCED.items():
        for metric, figures in metrics.items():
            assert figures.values[MEAN] == pytest.approx(AUTHORS[method][metric].values[MEAN], abs=0.005)


def test_pictures_are_counted_as_the_paper_counts_them() -> None:
    assert PUBLISHED.counts.keys() == set(MVTEC_CATEGORIES)
    counts = PUBLISHED.counts.values()
    sums = [sum(getattr(one, name) for one in counts) for name in ("train_good", "good", "defective")]
    assert sums == [3629, 467, 1258]


def test_the_documents_say_the_same() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    lines = text.partition("## What do papers report on MVTec AD?")[2].splitlines()
    for suffix, methods in (("", AUTHORS), (", reproduced", REPRODUCED)):
        for method, metrics in methods.items():
            cells = []
            for name in (MEAN, "bottle"):
                found = [metrics[m].values.get(name) if m in metrics else None for m in METRICS]
                cells.append(" / ".join("-" if value is None else f"{value:.3f}" for value in found))
            (line,) = (one for one in lines if one.startswith(f"| {method}{suffix} | "))
            assert line.endswith(f" | {cells[0]} | {cells[1]} |")
