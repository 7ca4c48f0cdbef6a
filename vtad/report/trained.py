"""The page of a training, without test pictures: scores of good pictures and of synthetic defects, the oddest good ones."""

from __future__ import annotations

from pathlib import Path

from vtad.calibration.record import CalibrationRecord, GoodScore
from vtad.data.layout import GOOD, DataError, TestImage
from vtad.evaluation.judging import judged
from vtad.fitting.device import pick_device
from vtad.inspection import advice, input_spec
from vtad.models.trained import load_detector
from vtad.report.card_words import card_rows
from vtad.report.certificates import certificates
from vtad.report.content import Entry, Explorer, Headline, Page, Words, wrong_first
from vtad.report.history import training_plots
from vtad.report.of_run import explorer, oddest, printable, scorer_rows, title, trained_on
from vtad.report.page import write_page
from vtad.report.pictures import Studio, View
from vtad.run_folder import Run, RunError
from vtad_runtime.contract.card import Card, percent

SHOWN = 24  # of the oddest good pictures


def report_training(run: Run) -> Path:
    """Write report.html of a complete run from what its folder holds, and from its pictures where they are; its path.

    Raises CardError, WriteError, and RunError, also of a run of an earlier version, which kept no scores.
    """
    record = CalibrationRecord.read(run)
    if record is None:
        raise RunError(f"{run.path}: expected the scores of a calibration, got none: train again")
    return write_page(run, training_page(run, record))


def training_page(run: Run, record: CalibrationRecord) -> Page:
    """The page of a training. Raises RunError, CardError."""
    card = run.card()
    views = _views(run, card, record.good[:SHOWN])
    good = [Entry(printable(g.file), GOOD, False, g.score, views.get(g.file)) for g in record.good]
    synthetic = [Entry("", "synthetic", True, score) for score in record.synthetic]
    ordered = wrong_first([*good, *synthetic], card.calibration.threshold)
    words = Words("good pictures of the training", "synthetic defects")
    of_scores = explorer(run, card, ordered, words)
    return Page(
        title=title(run, card),
        subtitle=f"{trained_on(card)}. No test pictures yet: vtad-eval puts its report here.",
        headlines=_headlines(record, of_scores),
        notes=tuple(filter(None, (advice(card),))),
        explorer=of_scores,
        gallery=tuple(entry for entry in ordered if entry.view is not None),
        gallery_note="Often they are the mistake in the data: look at them. The maps are those of the finished model.",
        card=card,
        card_text=tuple((printable(name), printable(text)) for name, text in card_rows(card) if name != "proof"),
        test=False,
        training=training_plots(run),
        scorers=scorer_rows(record),
        weighing=record.weights,
        oddest=oddest(record),
        certificates=tuple(certificates(run)),
    )


def _views(run: Run, card: Card, good: tuple[GoodScore, ...]) -> dict[str, View]:
    """Of good pictures, by file; none of those that are gone."""
    config = run.config()
    root = Path(config.data) / config.category
    images = [TestImage(root / g.file, GOOD, None) for g in good if (root / g.file).is_file()]
    if not images:
        return {}
    device = pick_device(config.device)
    studio = Studio(len(images), card.calibration.pixel_threshold)
    found = judged(load_detector(run, device), images, input_spec(config), device)
    try:
        return {one.image.path.relative_to(root).as_posix(): studio.view(one, None) for one in found}
    except DataError:  # one was taken away or damaged since
        return {}


def _headlines(record: CalibrationRecord, scores: Explorer) -> tuple[Headline, ...]:
    cost, calibration = scores.cost, scores.calibration
    held_out = sum(g.held_out for g in record.good)
    others = len(record.good) - held_out
    judged_by = f"Of the good pictures {held_out} were held out of the training" + (
        f", {others} judged by scorers fitted without them." if others else "."
    )
    headlines = [
        Headline("Threshold", f"{scores.threshold:.3g}", f"A part is NG above it. Chosen {calibration.chosen}."),
        Headline(
            "Good pictures above it",
            f"{cost.false_alarms.count} of {cost.false_alarms.of}",
            judged_by,
        ),
    ]
    if cost.misses.of:
        headlines.append(
            Headline(
                "Synthetic defects missed",
                f"{cost.misses.count} of {cost.misses.of}",
                f"{percent(cost.misses.share or 0)} of defects drawn on good pictures stay below it. Real ones differ.",
            )
        )
    if record.good:
        first = record.good[0]
        headlines.append(
            Headline(
                "Oddest good picture",
                f"{first.score:.3g}",
                f"{printable(first.file)}: look at it, it may be the mistake in the data.",
            )
        )
    return tuple(headlines)
