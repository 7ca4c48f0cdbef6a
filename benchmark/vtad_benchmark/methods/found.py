"""What a method found on one category: a row without what made it."""

from __future__ import annotations

from dataclasses import dataclass

from vtad.data.images import fingerprint
from vtad.data.layout import GOOD, CategoryFiles
from vtad_benchmark.results.row import Cost, Decision, Pictures, Ranking
from vtad_runtime.contract.card import Input


@dataclass(frozen=True)
class Found:
    """The fields of a row, by the same names."""

    pictures: Pictures
    ranking: Ranking
    calibration_pictures: int
    false_alarm_budget: float
    guaranteed: Decision
    estimated: Decision | None
    cost: Cost
    training: dict[str, float]
    export: str | None
    run: str | None
    trained_commit: str | None


def pictures(files: CategoryFiles, spec: Input, train_fingerprint: str) -> Pictures:
    """What a method was trained and judged on."""
    good = sum(image.kind == GOOD for image in files.test)
    return Pictures(
        train_good=len(files.train_good),
        good=good,
        defective=len(files.test) - good,
        without_mask=sum(image.kind != GOOD and image.mask is None for image in files.test),
        height=spec.height,
        width=spec.width,
        fit=spec.fit,
        train_fingerprint=train_fingerprint,
        test_fingerprint=fingerprint([image.path for image in files.test]),
    )
