"""`vtad-calibrate`: what it does, and what it says of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.command_line.command import say
from vtad_runtime.contract.disk.files import try_writing
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, one_line
from vtad_runtime.contract.progress import watched
from vtad_runtime.contract.threshold.trade_off import choice, table, trade_off
from vtad_runtime.engine.coreml_engine import onnx_fallback
from vtad_runtime.engine.opening import newest_model
from vtad_runtime.review.recalibration import (
    Asked,
    Judged,
    budget_lines,
    judge_pictures,
    new_card,
    next_name,
    odd_pictures,
    refuse_existing,
    threshold_without,
    write_recalibrated,
)
from vtad_runtime.sources.folder import find
from vtad_runtime.verdict.detector import Detector

SHOWN = 10  # files named of each kind


def calibrate_run(
    model: Path | None,
    good: Path | None,
    asked: Asked,
    out: Path | None,
    *,
    bad: Path | None = None,
    allow_changed: bool = False,
) -> Card:
    """Judge the pictures of `good` and `bad`, write the model with its new threshold, and say so; the new card.

    Without `good` the threshold must be chosen by hand. Raises VtadError.
    """
    path = model or newest_model()
    target = out or next_name(path)
    files = [find(folder).files if folder else () for folder in (good, bad)]
    try:
        if target.suffix.lower() != ".onnx":
            raise VtadError(f"{target}: expected a file name that ends with .onnx; name one by --out")
        refuse_existing(target)
        try_writing(target.parent)
        detector = _open(path, "" if model else ", the newest export", allow_changed)
        of_good, of_bad = (_judged(detector, found) for found in files)
        card = new_card(detector.card, of_good, of_bad, asked)
        card = write_recalibrated(detector, card, target)
    except VtadError as e:
        if e.exit_code != NOT_WRITTEN:
            e.exit_code = USAGE
        raise
    except BrokenPipeError:  # of stdout
        raise
    except OSError as e:
        raise VtadError(f"{target}: could not be written: {one_line(e)}; name another by --out", NOT_WRITTEN) from e

    before, after = detector.card.calibration, card.calibration
    say(
        f"threshold {before.threshold:.4g} -> {after.threshold:.4g}, pixel threshold {before.pixel_threshold:.4g} -> "
        f"{after.pixel_threshold:.4g}"
    )
    say(f"the threshold is chosen {after.chosen}")
    for line in budget_lines(after) if of_good and asked.by_budget else []:
        say(line)
    if of_good and (both := after.both_rules):
        say(both)
    if after.scores and not (of_good and asked.by_budget):
        say(f"of these good pictures it calls NG: {choice(after.threshold, after.scores, ()).false_alarms}")
    if of_bad:
        say("trade-off, each rate with its exact 95 % interval:")
        scores = list(after.scores), [j.score for j in of_bad]
        for line in table(trade_off(*scores, also=after.threshold), after.threshold):
            say(line)
    if of_good:
        _tell_odd(of_good, asked, after.threshold)
    if detector.card.results is not None:
        say("results on the card dropped: they were measured at the old threshold")
    newest = " (vtad-run without --model takes it from now on)" if model is None and out is None else ""
    if detector.integrity.changed:
        say(f"{target}: {detector.integrity}, and stays so: it opens with --allow-changed only", err=True)
    say(f"written: {target}{newest}")
    return card


def _judged(detector: Detector, files: Sequence[Path]) -> tuple[Judged, ...]:
    """Pictures, of good parts or of bad ones. Raises VtadError."""
    found = judge_pictures(detector, watched(files, "judging"))
    _list("left out", found.unusable)
    _list("left out, a copy of another picture", found.copies)
    return found.judged


def _open(path: Path, which: str, allow_changed: bool) -> Detector:
    """The model to calibrate. Raises VtadError."""
    if path.suffix.lower() == ".mlpackage":
        fallback = onnx_fallback(path)
        raise VtadError(
            f"{path}: expected an .onnx model, got a Core ML package: calibrate its ONNX fallback "
            f"(--model {fallback if fallback.exists() else 'the .onnx that vtad-export wrote with it'})"
        )
    detector = Detector(path, allow_changed=allow_changed)
    c = detector.card.calibration
    say(
        f"model: {path}{which}; {detector.card.identity.category}, "
        f"threshold {c.threshold:.4g} from {c.images} good pictures"
    )
    return detector


def _tell_odd(judged: tuple[Judged, ...], asked: Asked, threshold: float) -> None:
    odd = odd_pictures(judged)
    _list("odd among the good, is it a bad part?", [f"{j.file} score {j.score:.4g}" for j in odd])
    without = threshold_without(judged, odd, asked) if odd and asked.by_budget else None
    if without is not None and without < threshold:
        say(
            f"without the odd ones the threshold would be {without:.4g}; take bad parts out and calibrate again",
            err=True,
        )


def _list(what: str, names: Sequence[object]) -> None:
    for name in names[:SHOWN]:
        say(f"{what}: {name}", err=True)
    if len(names) > SHOWN:
        say(f"{what}: and {len(names) - SHOWN} more", err=True)
