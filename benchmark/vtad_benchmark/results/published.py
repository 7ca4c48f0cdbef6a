"""What papers published about the fifteen categories of MVTec AD, from published.toml beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vtad_benchmark.results.row import Row
from vtad_runtime.contract.typed_json import typed

FILE = Path(__file__).with_name("published.toml")
MEAN = "mean"  # of the fifteen, by the paper, among the values
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
SEEN = {  # what the tables say of it
    "text": "",
    "picture": "; read from the authors' picture of the table",
    "notebook": "; read from the authors' notebook that makes the paper's tables",
    "reproduction": "; a reproduction, not the authors' figures",
}


@dataclass(frozen=True)
class Counts:
    """How many pictures a category of MVTec AD has."""

    train_good: int
    good: int
    defective: int


@dataclass(frozen=True)
class Figures:
    """One metric of one method."""

    method: str
    paper: str  # authors, title, year
    arxiv: str
    table: str  # of the paper
    metric: str  # one of METRICS
    used: str  # the metric that the paper used, in its own terms
    seen: Literal["text", "picture", "notebook", "reproduction"]  # the paper's text, the authors' own, others' code
    where: str  # the copy that was read: repository, commit and file
    values: dict[str, float]  # by category or MEAN, 0..1

    @property
    def name(self) -> str:
        """The method, and whether these are its authors' figures."""
        return f"{self.method}, {'reproduced' if self.seen == 'reproduction' else 'published'}"

    @property
    def source(self) -> str:
        """In a few words."""
        return f"arXiv {self.arxiv}, {self.table}: {self.used}{SEEN[self.seen]}"


@dataclass(frozen=True)
class Published:
    """The whole file."""

    counts: dict[str, Counts]  # by category
    figures: tuple[Figures, ...]


def read_published() -> Published:
    """The figures that come with the package."""
    return typed(Published, tomllib.loads(FILE.read_text(encoding="utf-8")), "published.toml", defaults=False)


def shown_beside(rows: Sequence[Row]) -> list[Row]:
    """The rows whose pictures are MVTec AD's by name and numbers: others may have a category of the same name."""
    counts = read_published().counts
    return [
        row
        for row in rows
        if counts.get(row.category) == Counts(row.pictures.train_good, row.pictures.good, row.pictures.defective)
    ]
