"""The page of an evaluation: every test picture, what each threshold would cost, and all that the run holds."""

from __future__ import annotations

import heapq
from pathlib import Path

import numpy as np

from vtad.calibration.record import CalibrationRecord
from vtad.data.layout import GOOD
from vtad.data.run_data import run_data
from vtad.evaluation.at_source import Mask
from vtad.evaluation.evaluate import Evaluation, evaluate, evaluate_on
from vtad.evaluation.judging import Judged
from vtad.report.card_words import card_rows
from vtad.report.certificates import certificates
from vtad.report.content import Entry, Explorer, Headline, Kind, Page, Words, wrong_first
from vtad.report.history import training_plots
from vtad.report.library import missing
from vtad.report.of_run import explorer, oddest, printable, scorer_rows, title, trained_on
from vtad.report.page import write_page
from vtad.report.pictures import Studio, View
from vtad.report.plots import Plot, curve
from vtad.run_folder import Run
from vtad_runtime.contract.card import Calibration
from vtad_runtime.contract.threshold.trade_off import Count

MOST = 500  # pictures that are shown; the figures are of all


def evaluate_with_report(
    run: Run,
    *,
    data: Path | str | None = None,
    device: str = "auto",
) -> Evaluation:
    """`vtad.evaluation.evaluate.evaluate`, which also writes report.html into the run folder. Raises what that raises.

    Where the extra `report` is not installed there is no page: `vtad.report.library.missing` says so.
    """
    if missing():
        return evaluate(run, data=data, device=device)
    found_data = run_data(run, Path(data) if data else None)
    files = found_data.files
    seen = Seen(len(files.test), files.root, run.card().calibration)
    found = evaluate_on(run, found_data, device, seen.add)
    write_page(run, evaluation_page(run, found, seen.entries()))
    return found


class Seen:
    """The test pictures as they are judged, with views of the most telling ones."""

    def __init__(self, pictures: int, root: Path, calibration: Calibration) -> None:
        """So many pictures below `root`, judged at the threshold of this calibration."""
        self._root, self._threshold = root, calibration.threshold
        self._studio = Studio(min(pictures, MOST), calibration.pixel_threshold)
        self._entries: list[Entry] = []
        self._views: dict[int, View] = {}
        self._least: list[tuple[tuple[bool, float], int]] = []  # a heap: how telling, and which

    def add(self, judged: Judged, mask: Mask | None) -> None:
        """Take one."""
        name = printable(judged.image.path.relative_to(self._root).as_posix())
        entry = Entry(name, printable(judged.image.kind), judged.image.kind != GOOD, judged.score)
        number, away = len(self._entries), abs(entry.score - self._threshold)
        self._entries.append(entry)
        telling = (True, away) if entry.wrong(self._threshold) else (False, -away)
        if len(self._views) == MOST:
            if telling <= self._least[0][0]:
                return
            del self._views[heapq.heappop(self._least)[1]]
        heapq.heappush(self._least, (telling, number))
        self._views[number] = self._studio.view(judged, mask)

    def entries(self) -> list[Entry]:
        """All, in the order in which they were judged."""
        return [
            Entry(e.name, e.kind, e.defective, e.score, self._views.get(number))
            for number, e in enumerate(self._entries)
        ]


def evaluation_page(run: Run, found: Evaluation, entries: list[Entry]) -> Page:
    """The page of what was found on these pictures. Raises RunError, CardError."""
    card, record = run.card(), CalibrationRecord.read(run)
    threshold = card.calibration.threshold
    ordered = wrong_first(entries, threshold)
    of_scores = explorer(run, card, ordered, Words("good test pictures", "defective test pictures"))
    shown = tuple(entry for entry in ordered if entry.view is not None)
    return Page(
        title=title(run, card),
        subtitle=f"Judged on {found.scores.good} good and {found.scores.defective} defective test pictures. "
        f"{trained_on(card)}.",
        headlines=_headlines(found, of_scores),
        notes=tuple(map(printable, filter(None, (found.note, _without_mask(found))))),
        explorer=of_scores,
        gallery=shown,
        gallery_note=f"The {len(shown)} most telling of {len(entries)} pictures." if len(shown) < len(entries) else "",
        card=card,
        card_text=tuple((printable(name), printable(text)) for name, text in card_rows(card) if name != "proof"),
        test=True,
        kinds=tuple(
            Kind(printable(name), kind.images, kind.auroc, round(kind.miss_rate * kind.images))
            for name, kind in found.scores.kinds.items()
        ),
        curves=_curves(found, entries),
        training=training_plots(run),
        scorers=scorer_rows(record),
        weighing=record.weights if record is not None else None,
        oddest=oddest(record),
        certificates=tuple(certificates(run)),
    )


def _headlines(found: Evaluation, scores: Explorer) -> tuple[Headline, ...]:
    cost, image = scores.cost, found.scores.image
    headlines = []
    if cost.false_alarms.of:
        headlines.append(
            Headline(
                "False alarms",
                f"{cost.false_alarms.count} of {cost.false_alarms.of}",
                f"good parts are called NG{_rate(cost.false_alarms)}",
            )
        )
    if cost.misses.of:
        review = scores.threshold if scores.review is None else scores.review
        seen = sum(review < score <= scores.threshold for score in scores.defective)
        person = f" Of these, a person sees {seen} as UNSURE." if seen else ""
        headlines.append(
            Headline(
                "Missed",
                f"{cost.misses.count} of {cost.misses.of}",
                f"defective parts are not called NG{_rate(cost.misses)}{person}",
            )
        )
    if image.auroc is not None:
        headlines.append(
            Headline(
                "Telling good from defective",
                f"{image.auroc:.3f}",
                f"Of 100 pairs of a good and a defective part, the defective one scores higher in {100 * image.auroc:.1f} "
                "(image AUROC).",
            )
        )
    if found.heatmap.aupro is not None:
        headlines.append(
            Headline(
                "Showing where",
                f"{found.heatmap.aupro:.3f}",
                "The share of a defect that the heatmap marks, averaged over all defects and over up to 30\N{NO-BREAK SPACE}% "
                "of good pixels marked with it (AUPRO).",
            )
        )
    return tuple(headlines)


def _rate(count: Count) -> str:
    """Its share and the interval of the truth, in words."""
    low, high = (100 * end for end in count.interval)
    share = f": {100 * (count.share or 0):.1f} %."
    truth = f" The true rate lies between {low:.1f} and {high:.1f} %, with 95 % confidence."
    return f"{share}{truth}".replace(" %", "\N{NO-BREAK SPACE}%")


def _without_mask(found: Evaluation) -> str | None:
    some = found.without_mask
    return f"{some} defective pictures have no mask and count in the figures of pictures only." if some else None


def _curves(found: Evaluation, entries: list[Entry]) -> dict[str, tuple[Plot, str]]:
    """ROC and precision-recall of the scores, and the per-region overlap of the heatmap; those that are defined."""
    curves: dict[str, tuple[Plot, str]] = {}
    image = found.scores.image
    if image.auroc is not None:
        score = np.array([entry.score for entry in entries])
        bad = np.array([entry.defective for entry in entries])
        order = np.argsort(-score, kind="stable")
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # of each distinct score
        hits = np.cumsum(bad[order])[last]
        alarms = last + 1 - hits
        recall, precision = hits / bad.sum(), hits / (hits + alarms)
        roc = [(0.0, 0.0), *zip((alarms / (~bad).sum()).tolist(), recall.tolist(), strict=True)]
        pr = [(0.0, float(precision[0])), *zip(recall.tolist(), precision.tolist(), strict=True)]
        curves["roc"] = (
            curve(roc, "false alarms, share of good pictures", "found, share of defective ones"),
            f"ROC: area {image.auroc:.3f}",
        )
        curves["pr"] = (
            curve(pr, "found, share of defective pictures", "defective, share of those called NG"),
            f"Precision and recall: average precision {image.average_precision:.3f}",
        )
    if found.pro_curve:
        curves["pro"] = (
            curve(found.pro_curve, "good pixels that are marked, share", "a defect's share that is marked", 0.3),
            f"Per-region overlap of the heatmap: AUPRO {found.heatmap.aupro:.3f}",
        )
    return curves
