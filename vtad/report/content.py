"""What stands on a page, before it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vtad.report.certificates import Certificate
from vtad.report.pictures import View
from vtad.report.plots import Plot
from vtad_runtime.contract.card import Calibration, Card, Weighing
from vtad_runtime.contract.threshold.conformal import REVIEW, review_level
from vtad_runtime.contract.threshold.trade_off import Choice, choice


@dataclass(frozen=True)
class Entry:
    """A picture with its score."""

    name: str  # below the category's folder; empty where there is no file of it
    kind: str  # "good" or the defect type
    defective: bool
    score: float
    view: View | None = None

    def wrong(self, threshold: float) -> bool:
        """Whether it is missed or a false alarm."""
        return (self.score > threshold) != self.defective


def wrong_first(entries: Sequence[Entry], threshold: float) -> list[Entry]:
    """Misses and false alarms, the farthest from the threshold first; then the others from the highest score down."""
    wrong = [entry for entry in entries if entry.wrong(threshold)]
    others = [entry for entry in entries if not entry.wrong(threshold)]
    return sorted(wrong, key=lambda e: -abs(e.score - threshold)) + sorted(others, key=lambda e: -e.score)


@dataclass(frozen=True)
class Headline:
    """One figure, in words."""

    label: str
    value: str
    text: str


@dataclass(frozen=True)
class Kind:
    """A row of the table of defect types."""

    name: str
    images: int
    auroc: float | None
    missed: int


@dataclass(frozen=True)
class ScorerRow:
    """How much a scorer counts."""

    name: str
    looks_at: str  # what it looks at, in words
    weight: float  # of its z-score
    share: float  # of the sum of all weights


@dataclass(frozen=True)
class Words:
    """What the pictures of a page are."""

    good: str
    defective: str


@dataclass(frozen=True)
class Explorer:
    """The threshold, what it costs, and what each other one would cost: the page's script counts by the same scores."""

    entries: tuple[Entry, ...]
    calibration: Calibration
    words: Words
    command: str  # that sets it, without the number
    histograms: tuple[Plot, Plot]  # wide, narrow

    @property
    def threshold(self) -> float:
        """The run's own."""
        return self.calibration.threshold

    @property
    def good(self) -> list[float]:
        """Scores."""
        return [entry.score for entry in self.entries if not entry.defective]

    @property
    def defective(self) -> list[float]:
        """Scores."""
        return [entry.score for entry in self.entries if entry.defective]

    @property
    def cost(self) -> Choice:
        """Of the run's own threshold."""
        return choice(self.threshold, self.good, self.defective)

    @property
    def review(self) -> float | None:
        """The score from which a picture is UNSURE where it is not NG, below any threshold that lies above it."""
        lifted = Calibration(**{**vars(self.calibration), "threshold": float("inf")})
        return review_level(lifted, REVIEW)

    def data(self) -> dict[str, Any]:
        """For the page's script."""
        lowest, highest = self.calibration.plausible
        return {
            "threshold": self.threshold,
            "review": self.review,
            "lowest": lowest,
            "highest": highest,
            "command": self.command,
            "score": [entry.score for entry in self.entries],
            "defective": [int(entry.defective) for entry in self.entries],
            "kind": [entry.kind for entry in self.entries],
            "name": [entry.name for entry in self.entries],
        }


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    subtitle: str
    headlines: tuple[Headline, ...]
    notes: tuple[str, ...]
    explorer: Explorer
    gallery: tuple[Entry, ...]  # those with a view, in their order
    gallery_note: str
    card: Card
    card_text: tuple[tuple[str, str], ...]
    test: bool  # whether it is of test pictures
    kinds: tuple[Kind, ...] = ()
    curves: dict[str, tuple[Plot, str]] = field(default_factory=dict)  # by "roc", "pr", "pro": the plot and its caption
    training: dict[str, Plot] = field(default_factory=dict)  # by title
    scorers: tuple[ScorerRow, ...] = ()
    weighing: Weighing | None = None  # with `scorers`
    oddest: tuple[tuple[str, str, bool], ...] = ()  # name, score, whether held out: good pictures of the training
    certificates: tuple[Certificate, ...] = ()
