"""What the pages of a training and of an evaluation have in common: all that a run folder holds."""

from __future__ import annotations

import datetime
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from vtad.calibration.record import CalibrationRecord
from vtad.report.content import Entry, Explorer, ScorerRow, Words
from vtad.report.plots import histogram
from vtad.run_folder import Run
from vtad_runtime.contract.card import Card

SCORERS = {  # the glossary's name, and what it looks at
    "patch_memory": ("patch memory", "Has anything like this been seen on good parts?"),
    "feature_gmm": ("feature GMM", "The same, also where good parts vary little."),
    "position_gaussian": ("position Gaussian", "Does it belong at this position of such a picture?"),
    "context_density": ("context density", "Does it go with the rest of the picture?"),
    "segmentation_head": ("segmentation head", "Does it look like damage?"),
}
ODDEST = 10  # good pictures of the training that are named


def explorer(run: Run, card: Card, entries: Sequence[Entry], words: Words) -> Explorer:
    """The threshold explorer over these scores."""
    good, defective = ([entry.score for entry in entries if entry.defective is bad] for bad in (False, True))
    threshold = card.calibration.threshold
    wide, narrow = (histogram(good, defective, threshold, width) for width in (600, 350))
    command = f"vtad-calibrate --model {shlex.quote(printable(str(_from_here(_model(run, card)))))} --threshold"
    return Explorer(tuple(entries), card.calibration, words, command, (wide, narrow))


def scorer_rows(record: CalibrationRecord | None) -> tuple[ScorerRow, ...]:
    """By weight; none where it was not kept."""
    if record is None or record.weights is None:
        return ()
    weights = record.weights.scorers
    whole = sum(weights.values()) or 1.0
    rows = [ScorerRow(*SCORERS.get(name, (name, "")), w, w / whole) for name, w in weights.items()]
    return tuple(sorted(rows, key=lambda row: -row.weight))


def oddest(record: CalibrationRecord | None) -> tuple[tuple[str, str, bool], ...]:
    """The oddest good pictures of the training: name, score, whether held out."""
    found = record.good[:ODDEST] if record else ()
    return tuple((printable(g.file), f"{g.score:.3g}", g.held_out) for g in found)


def title(run: Run, card: Card) -> str:
    """Category and number of the run."""
    return printable(f"{card.identity.category} {run.path.absolute().name}")


def trained_on(card: Card) -> str:
    """When and how it was trained, in words."""
    try:
        when = datetime.datetime.fromisoformat(card.identity.created)
        day = f"{when.day} {when:%B %Y}"
    except ValueError:
        day = card.identity.created
    preset = card.identity.config.get("preset", "unknown")
    return f"Trained {day}, preset {preset}, threshold from {card.calibration.images} good pictures"


def printable(text: str) -> str:
    """Text that any page takes: file names may hold bytes that are no valid text, and control characters."""
    return re.sub(r"[\x00-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text.encode("utf-8", "replace").decode("utf-8"))


def _model(run: Run, card: Card) -> Path:
    """The ONNX export of the run: the newest where there are only others, else the default one, which may be still to come."""
    folder = run.path / "export"
    default = folder / f"{card.identity.category}.onnx"
    if default.is_file():
        return default
    return max(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime, default=default)


def _from_here(path: Path) -> Path:
    """As one would type it here; of a run elsewhere without the folders above: a page goes to others."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[-5:])
