"""Re-calibrates an exported model on good pictures of the line it runs at: a new file with a new card, the same weights.

Good pictures of the training set say how odd good parts look there; under the line's own light and camera they look
otherwise. The rule that makes a threshold of their scores is the one of the training (`conformal.py`). Where there are known
bad parts the threshold may follow from them, or be a person's choice.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vtad_runtime.contract.card import (
    USUAL_RULE,
    BudgetRule,
    Calibration,
    Card,
    CardError,
    Change,
    card_digest,
    percent,
)
from vtad_runtime.contract.disk.files import replacing, sha256_of
from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.contract.image import ImageError
from vtad_runtime.contract.threshold.conformal import (
    CalibrationError,
    budget_threshold,
    calibration,
    fence,
    images_needed,
)
from vtad_runtime.contract.threshold.trade_off import miss_threshold
from vtad_runtime.engine.card_entry import replace_card
from vtad_runtime.engine.integrity import contents
from vtad_runtime.engine.model import ModelError
from vtad_runtime.verdict.detector import Detector

MOST_ODD = 0.1  # of the good pictures, that may be odd among them
FALSE_ALARMS = 0.01  # the budget, if no other is asked for


@dataclass(frozen=True)
class Judged:
    """One picture as the model sees it."""

    file: Path
    score: float
    peak: float  # maximum of the heatmap at model resolution, a z-score
    digest: bytes  # SHA-256 of the file


@dataclass(frozen=True)
class Pictures:
    """What a folder of pictures gave."""

    judged: tuple[Judged, ...]  # in the order of the files
    unusable: tuple[str, ...]  # why, one line a file: it cannot be read, or is not to be trusted
    copies: tuple[Path, ...]  # files whose bytes are those of an earlier one; they are counted once


def judge_pictures(detector: Detector, files: Iterable[Path]) -> Pictures:
    """Judge pictures, all of good parts or all of bad ones. Raises ModelError.

    A picture whose file is a byte-for-byte copy of another is counted once: copies would vouch for a budget they cannot keep.
    """
    judged, unusable, copies = [], [], []
    seen: set[bytes] = set()
    for file in files:
        try:
            digest = sha256_of(file)
            if digest in seen:
                copies.append(file)
                continue
            result = detector.file(file)
        except ImageError as e:
            unusable.append(str(e))
            continue
        except OSError as e:
            unusable.append(f"{file}: expected a readable picture file, got {one_line(e)}")
            continue
        if result.doubt is not None:
            unusable.append(f"{file}: {result.doubt}")
            continue
        seen.add(digest)
        judged.append(Judged(file, result.score, float(result.model_heatmap.max()), digest))
    return Pictures(tuple(judged), tuple(unusable), tuple(copies))


@dataclass(frozen=True)
class Asked:
    """What the threshold is to be chosen by: the first that is given."""

    threshold: float | None = None  # by hand
    max_misses: float | None = None  # the share of bad parts that may be missed
    false_alarms: float = FALSE_ALARMS  # the budget; the pixel threshold keeps to it in any case
    rule: BudgetRule = USUAL_RULE  # how the threshold follows from the budget

    @property
    def by_budget(self) -> bool:
        """Whether the threshold follows from the budget."""
        return self.threshold is None and self.max_misses is None


def new_card(card: Card, good: Sequence[Judged], bad: Sequence[Judged], asked: Asked) -> Card:
    """The card with the calibration that these pictures give; without good ones, with that of the card. Raises CalibrationError.

    `results` become None: they were measured at the old threshold. `parity` stays: the graph is the one that was proven.
    """
    for picture in (*good, *bad):
        if not (math.isfinite(picture.score) and math.isfinite(picture.peak)):
            raise CalibrationError(
                f"{picture.file}: expected a finite score, got {picture.score}; export the run again"
            )
    both = {j.digest for j in good} & {j.digest for j in bad}
    if both:
        named = next(j.file for j in bad if j.digest in both)
        raise CalibrationError(f"{named}: expected a part that is good or bad, got the same picture in both folders")
    found = card.calibration
    if good:
        found = calibration([j.score for j in good], [j.peak for j in good], asked.false_alarms, asked.rule)
    found = dataclasses.replace(found, defective=len(bad))
    if asked.threshold is not None:
        found = dataclasses.replace(found, threshold=asked.threshold, rule="by hand")
    elif asked.max_misses is not None:
        level = miss_threshold([j.score for j in good], [j.score for j in bad], asked.max_misses)
        found = dataclasses.replace(found, threshold=level, rule="misses", max_misses=asked.max_misses)
    new = dataclasses.replace(card, calibration=found, results=None)
    try:
        new.check()
    except CardError as e:
        raise CalibrationError(_refused(found, asked)) from e
    return new


def _refused(c: Calibration, asked: Asked) -> str:
    """Why no card may have this threshold."""
    if asked.threshold is not None:
        near = f" near the calibration scores, {c.scores[0]:.4g} to {c.scores[-1]:.4g}" if c.scores else ""
        return f"--threshold: expected a score{near}, got {asked.threshold:g}"
    return (
        f"--false-alarms: a budget of {asked.false_alarms:g} gives a threshold of {c.threshold:.4g} and a pixel threshold of "
        f"{c.pixel_threshold:.4g} on these pictures, which no detector can use; take one nearer to {FALSE_ALARMS:g}"
    )


def write_recalibrated(detector: Detector, card: Card, out: Path) -> Card:
    """Write the detector's file with another calibration as `out`, and open it before it takes its name; the card as written.

    Its digests of the files are those of the export, for the bytes are the same: what was changed in between stays changed.
    Raises VtadError, OSError; nothing is left then.
    """
    refuse_existing(out)
    with replacing(out) as beside:
        card = _signed(detector, card)
        replace_card(detector.path, card.to_json(), beside)
        _prove(detector, card, beside)
        refuse_existing(out)  # another program may have made it meanwhile
    return card


def _signed(detector: Detector, card: Card) -> Card:
    """The card with one more change in its history, and digests."""
    old, given, exported = detector.card.calibration, contents(detector.path), detector.card.digests
    files = exported.files if exported else given.files
    change = Change(
        by=f"vtad-calibrate {version('vtad')}",
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        what=f"threshold {old.threshold:.4g} -> {card.calibration.threshold:.4g}, {card.calibration.chosen}"
        + ("" if detector.integrity.sealed else "; it had no digests before"),
        parent=exported.card if exported else card_digest(given.card),
        changed=tuple(name for name in detector.integrity.now if name not in files),
    )
    return dataclasses.replace(card, history=(*card.history, change)).sealed(files)


def next_name(model: Path) -> Path:
    """Where the calibrated file is written by default: pill-calibrated.onnx of pill.onnx, pill-calibrated-2.onnx of that."""
    again = re.fullmatch(r"(.+-calibrated)(?:-(\d+))?", model.stem, re.ASCII | re.DOTALL)
    return model.with_name(f"{again[1]}-{int(again[2] or 1) + 1}.onnx" if again else f"{model.stem}-calibrated.onnx")


def refuse_existing(out: Path) -> None:
    """Raise VtadError: a calibrated file is never written over another."""
    if out.exists() or out.is_symlink():
        raise VtadError(f"{out}: expected a new file to write to, got one that exists; name another by --out")


def odd_pictures(judged: Sequence[Judged]) -> list[Judged]:
    """Pictures whose score lies beyond Tukey's outer fence, largest first: possibly bad parts among the good.

    None where more than a tenth does: then the scores are skewed, and the fence says nothing.
    """
    limit = fence([j.score for j in judged])
    odd = sorted((j for j in judged if j.score > limit), key=lambda j: -j.score)
    return odd if len(odd) <= max(1, MOST_ODD * len(judged)) else []


def threshold_without(judged: Sequence[Judged], odd: Sequence[Judged], asked: Asked) -> float | None:
    """The threshold if `odd` were not among the pictures; None with too few left."""
    files = {j.file for j in odd}
    try:
        return budget_threshold([j.score for j in judged if j.file not in files], asked.false_alarms, asked.rule)
    except CalibrationError:
        return None


def budget_lines(c: Calibration) -> list[str]:
    """What the pictures can vouch for, and how many more a budget not reached, or a smaller one, needs."""
    lines = []
    needed = images_needed(c.false_alarms)
    if c.images < needed:
        lines.append(
            f"{c.images} good pictures vouch for {percent(c.achievable)} false alarms at best; "
            f"{percent(c.false_alarms)} needs {needed}, {needed - c.images} more"
        )
    else:
        lines.append(f"{c.images} good pictures vouch for the {percent(c.false_alarms)} asked for")
    for smaller in (c.false_alarms / 2, c.false_alarms / 5):
        more = images_needed(smaller) - c.images
        if more > 0:
            lines.append(f"a budget of {percent(smaller)} needs {images_needed(smaller)}, {more} more")
    return lines


def _prove(detector: Detector, card: Card, path: Path) -> None:
    """Raise ModelError unless the file carries the card and judges a picture bit for bit as the one it was made of."""
    written = Detector(path, allow_changed=bool(detector.integrity.changed))
    spec = card.input
    shape = (spec.height, spec.width, 3)
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (before,), (after,) = detector.batch([picture]), written.batch([picture])
    same = before.score == after.score and np.array_equal(before.model_heatmap, after.model_heatmap, equal_nan=True)
    if written.card != card or not same:
        raise ModelError(f"{path}: expected the graph of {detector.path} with its new card, got another; report it")
