"""Re-calibrates an exported model on good pictures of the line it runs at: a new file with a new card, the same weights.

Held-out pictures of the training set say how odd good parts look there; under the line's own light and camera they look
otherwise. The rule that makes a threshold of their scores is the one of the training (`conformal.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vtad_runtime.contract.card import Calibration, Card, Change, card_digest
from vtad_runtime.contract.conformal import CalibrationError, calibration, conformal_threshold, images_needed
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.files import replacing
from vtad_runtime.contract.image import ImageError
from vtad_runtime.engine.card_entry import replace_card
from vtad_runtime.engine.integrity import contents
from vtad_runtime.engine.model import ModelError
from vtad_runtime.verdict.detector import Detector

FENCE = 3.0  # interquartile ranges above the third quartile: Tukey's outer fence, beyond which a good picture is odd


@dataclass(frozen=True)
class Judged:
    """One good picture as the model sees it."""

    file: Path
    score: float
    peak: float  # maximum of the heatmap at model resolution, a z-score


@dataclass(frozen=True)
class GoodPictures:
    """What a folder of good pictures gave."""

    judged: tuple[Judged, ...]  # in the order of the files
    unusable: tuple[str, ...]  # why, one line a file: it cannot be read, or is not to be trusted
    copies: tuple[Path, ...]  # files whose bytes are those of an earlier one; they are counted once


def judge_good(detector: Detector, files: Iterable[Path]) -> GoodPictures:
    """Judge pictures of good parts. Raises ModelError.

    A picture whose file is a byte-for-byte copy of another is counted once: copies would vouch for a budget they cannot keep.
    """
    judged, unusable, copies = [], [], []
    seen: set[bytes] = set()
    for file in files:
        try:
            digest = hashlib.sha256(file.read_bytes()).digest()
            if digest in seen:
                copies.append(file)
                continue
            result = detector.file(file)
        except (ImageError, OSError) as e:
            unusable.append(str(e))
            continue
        if result.doubt is not None:
            unusable.append(f"{file}: {result.doubt}")
            continue
        seen.add(digest)
        judged.append(Judged(file, result.score, float(result.model_heatmap.max())))
    return GoodPictures(tuple(judged), tuple(unusable), tuple(copies))


def new_card(card: Card, judged: Sequence[Judged], false_alarms: float) -> Card:
    """The card with the calibration that these pictures give. Raises CalibrationError.

    `results` become None: they were measured at the old threshold. `parity` stays: the graph is the one that was proven.
    """
    for picture in judged:
        if not (math.isfinite(picture.score) and math.isfinite(picture.peak)):
            raise CalibrationError(
                f"{picture.file}: expected a finite score, got {picture.score}; export the run again"
            )
    found = calibration([j.score for j in judged], [j.peak for j in judged], false_alarms)
    return dataclasses.replace(card, calibration=found, results=None)


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
        what=f"threshold {old.threshold:.4g} -> {card.calibration.threshold:.4g} from {card.calibration.images} good pictures"
        + ("" if detector.integrity.sealed else "; it had no digests before"),
        parent=exported.card if exported else card_digest(given.card),
        changed=tuple(name for name in detector.integrity.now if name not in files),
    )
    return dataclasses.replace(card, history=(*card.history, change)).sealed(files)


def refuse_existing(out: Path) -> None:
    """Raise VtadError: a calibrated file is never written over another."""
    if out.exists() or out.is_symlink():
        raise VtadError(f"{out}: expected a new file to write to, got one that exists; name another by --out")


def odd_pictures(judged: Sequence[Judged]) -> list[Judged]:
    """Pictures whose score lies beyond Tukey's outer fence, largest first: possibly bad parts among the good."""
    scores = np.array([j.score for j in judged])
    lower, upper = np.quantile(scores, (0.25, 0.75))
    fence = upper + FENCE * max(upper - lower, 1e-6)
    return sorted((j for j in judged if j.score > fence), key=lambda j: -j.score)


def threshold_without(judged: Sequence[Judged], odd: Sequence[Judged], false_alarms: float) -> float | None:
    """The threshold if `odd` were not among the pictures; None with too few left."""
    files = {j.file for j in odd}
    try:
        return conformal_threshold([j.score for j in judged if j.file not in files], false_alarms)
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


def percent(share: float) -> str:
    """A share in per cent, to three digits."""
    return f"{100 * share:.3g} %"


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
