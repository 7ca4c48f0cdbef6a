"""The tables of a benchmark, as text by cell; Markdown, LaTeX and HTML are made of the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from vtad.data.layout import MVTEC_CATEGORIES
from vtad_benchmark.results.published import MEAN, METRICS, Figures, shown_beside
from vtad_benchmark.results.row import BASELINES, COUNTED, RULES, Row
from vtad_benchmark.results.summary import FIGURES, Value, by_method, categories, over_categories, over_seeds

NONE = "-"


@dataclass(frozen=True)
class Table:
    """One table; the first cell of each line names it."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str


def tables(rows: Sequence[Row], published: Sequence[Figures]) -> list[Table]:
    """All that there is something to say in."""
    rules = [_decisions(rows, rule) for rule in RULES]
    found = [
        _ranking(rows),
        *rules,
        _maps(rows),
        *(_published(rows, published, metric) for metric in METRICS),
        _cost(rows),
        _training(rows),
        _made(rows),
    ]
    return [table for table in found if table.lines]


def against_baselines(rows: Sequence[Row]) -> list[str]:
    """A line a preset: how far it is from the better baseline of each category, the mean over categories."""
    methods = by_method(rows)
    baselines = [found for found in methods.values() if found[0].method in BASELINES]
    lines = []
    for name, found in methods.items():
        if found[0].method in BASELINES:
            continue
        gaps = []
        for title, value in FIGURES.items():
            differences = []
            for category in categories(found):
                ours = over_seeds(found, category, value)
                others = [one for rows in baselines if (one := over_seeds(rows, category, value))]
                if ours and others:
                    differences.append(ours.mean - max(one.mean for one in others))
            if differences:
                gaps.append(f"{title} {fmean(differences):+.3f}")
        if gaps:
            lines.append(f"{name} against the better baseline of each category: {', '.join(gaps)}")
    return lines


def _ranking(rows: Sequence[Row]) -> Table:
    of, methods = categories(rows), by_method(rows)
    several = len(of) > 1

    def cell(found: Sequence[Row], category: str | None) -> str:
        figures = [
            over_seeds(found, category, value) if category else over_categories(found, of, value)
            for value in FIGURES.values()
        ]
        return " / ".join(one.text() if one else NONE for one in figures) if any(figures) else NONE

    lines = [
        (name, _seeds(found), *(cell(found, category) for category in of), *([cell(found, None)] if several else []))
        for name, found in methods.items()
    ]
    return Table(
        "Does it find defects?",
        ("method", "seeds", *of, *(["mean"] if several else [])),
        tuple(lines),
        "Image AUROC / pixel AUROC / AUPRO up to a false-positive rate of 0.3; means over seeds, ± one standard deviation. "
        "A dash: undefined, as for pixels without masks.",
    )


def _decisions(rows: Sequence[Row], rule: str) -> Table:
    lines = []
    for row in rows:
        if decision := row.decision(rule):
            lines.append(
                (
                    row.category,
                    _named(row, rows),
                    str(row.seed),
                    str(row.calibration_pictures),
                    f"{decision.threshold:.3f}",
                    *(str(row.count(decision, name)) for name in COUNTED),
                )
            )
    budgets = ", ".join(dict.fromkeys(f"{row.false_alarm_budget:.1%}" for row in rows))
    return Table(
        f"Does the {rule} threshold keep its promise?",
        (
            "category",
            "method",
            "seed",
            "calibration pictures",
            "threshold",
            "false alarms",
            "missed",
            "defective, plain OK",
            "good, UNSURE",
            "good with a region",
        ),
        tuple(lines),
        f"Budget of false alarms: {budgets}. Counts of test pictures, rates, and their exact 95 % intervals. "
        "Missed: defective and not NG. Plain OK: neither NG nor UNSURE. A region is shown on what is NG or UNSURE.",
    )


def _maps(rows: Sequence[Row]) -> Table:
    columns: dict[str, Value] = {
        "SSIM map: pixel AUROC": lambda row: row.ranking.ssim_pixel_auroc,
        "SSIM map: AUPRO": lambda row: row.ranking.ssim_aupro,
        "density map: pixel AUROC": lambda row: row.ranking.density_pixel_auroc,
        "density map: AUPRO": lambda row: row.ranking.density_aupro,
    }
    return _by_category(
        "What does each map find alone?",
        [row for row in rows if row.ranking.ssim_aupro is not None],
        {title: (value, 3) for title, value in columns.items()},
        "Means over seeds, ± one standard deviation.",
    )


def _cost(rows: Sequence[Row]) -> Table:
    columns: dict[str, tuple[Value, int]] = {
        "training, s": (lambda row: row.cost.train_seconds, 0),
        "parameters, M": (lambda row: row.cost.parameters / 1e6, 2),
        "stored numbers, M": (lambda row: row.cost.stored_numbers / 1e6, 2),
        "GFLOP": (lambda row: row.cost.gflop, 2),
        "MB": (lambda row: row.cost.megabytes, 1),
        "a picture, ms": (lambda row: row.cost.ms, 1),
        "bare session, ms": (lambda row: row.cost.ms_session, 1),
        "ratio": (lambda row: row.cost.ratio, 2),
    }
    return _by_category(
        "What does it cost?",
        rows,
        columns,
        "Training: of a preset its learning, without statistics and calibration; of a baseline its whole fit. "
        "GFLOP: one forward pass of one picture, matrix products and convolutions, FLOP = 2 x MAC. "
        "MB: the ONNX export; of a baseline its stored numbers in float32. "
        "A picture: the export by vtad_runtime, decoding aside, on one thread, in turns with the bare onnxruntime session; "
        "medians, and the median of their ratio. On a machine that does other work beside, only the ratio holds.",
    )


def _training(rows: Sequence[Row]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row.training))
    columns: dict[str, tuple[Value, int]] = {}
    for name in names:

        def value(row: Row, name: str = name) -> float | None:
            return row.training.get(name)

        columns[name.replace("_", " ")] = (value, 0 if name == "epochs" else 4)
    return _by_category(
        "Where did training end?",
        [row for row in rows if row.training],
        columns,
        "The last epoch: squared error and 1 - SSIM of the reconstruction, NLL of the context density; norms of the tokens.",
    )


def _made(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        made = row.made
        versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
        seen = f"{row.pictures.height}x{row.pictures.width} {row.pictures.fit}"
        commit = made.commit + (f", trained by {made.trained_commit[:10]}" if made.trained_commit else "")
        lines.append(
            (row.category, _named(row, rows), str(row.seed), seen, row.fingerprint, commit, made.machine, versions)
        )
    head = ("category", "method", "seed", "input", "configuration", "commit", "machine", "versions")
    return Table("By what was it made?", head, tuple(lines), "configuration: its fingerprint.")


def _published(rows: Sequence[Row], published: Sequence[Figures], metric: str) -> Table:
    """Ours and the papers', where the pictures are MVTec AD's."""
    beside = shown_beside(rows)
    of = categories(beside)
    every = len(of) == len(MVTEC_CATEGORIES)
    value = FIGURES[METRICS[metric]]
    lines = []
    for name, found in by_method(beside).items():
        cells = [over_seeds(found, category, value) for category in of]
        cells.append(over_categories(found, of, value) if every else None)
        lines.append((f"{name}, ours", *(one.text() if one else NONE for one in cells), "this run"))
    papers = [one for one in published if one.metric == metric]
    for one in papers:
        cells_of = [f"{one.values[c]:.3f}" if c in one.values else NONE for c in (*of, MEAN)]
        lines.append((one.name, *cells_of, one.source))
    return Table(
        f"MVTec AD beside published figures: {METRICS[metric]}",
        ("method", *of, "mean of all fifteen", "source"),
        tuple(lines) if of and papers else (),
        "Papers differ in input size, pictures of training and metric: the source says which metric the paper used. "
        "Each figure was read in its authors' own text, unless the source names another place. A dash: they gave none.",
    )


def _by_category(title: str, rows: Sequence[Row], columns: dict[str, tuple[Value, int]], note: str) -> Table:
    lines = []
    for category in categories(rows):
        for name, found in by_method(rows).items():
            here = [row for row in found if row.category == category]
            cells = [(over_seeds(here, category, value), digits) for value, digits in columns.values()]
            if here:
                lines.append((category, name, _seeds(here), *(one.text(d) if one else NONE for one, d in cells)))
    kept = [i for i in range(len(columns)) if any(line[3 + i] != NONE for line in lines)]
    names = list(columns)
    return Table(
        title,
        ("category", "method", "seeds", *(names[i] for i in kept)),
        tuple((*line[:3], *(line[3 + i] for i in kept)) for line in lines),
        note,
    )


def _named(row: Row, rows: Sequence[Row]) -> str:
    return next(name for name, found in by_method(rows).items() if row in found)


def _seeds(rows: Sequence[Row]) -> str:
    return ", ".join(map(str, sorted({row.seed for row in rows})))
