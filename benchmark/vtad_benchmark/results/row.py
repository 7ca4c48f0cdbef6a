"""A row: everything that one job found, and by what. Plain data; on disk a JSON object a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vtad_runtime.contract.threshold.trade_off import Count

BASELINES = ("padim", "patchcore", "l1", "ssim")  # methods that are no preset
RULES = ("guaranteed", "estimated")  # of the threshold
COUNTED = ("false_alarms", "misses", "defective_ok", "good_unsure", "good_with_region")  # of a decision


@dataclass(frozen=True)
class Made:
    """By what a row was made."""

    when: str  # ISO 8601, UTC
    commit: str  # of the checkout that judged, "-dirty" where files were changed; "unknown" outside one
    trained_commit: str | None  # of the checkout that trained the run, where that is known
    machine: str  # processor, cores, system
    versions: dict[str, str]  # by package


@dataclass(frozen=True)
class Pictures:
    """What it was trained and judged on."""

    train_good: int
    good: int  # of the test pictures
    defective: int
    without_mask: int  # defective ones that count as pictures only
    height: int  # pixels that the method sees
    width: int
    fit: str
    train_fingerprint: str
    test_fingerprint: str


@dataclass(frozen=True)
class Ranking:
    """How well pictures and pixels are ranked; None where that is undefined, as for pixels without masks."""

    image_auroc: float | None
    image_ap: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    aupro: float | None  # up to a false-positive rate of 0.3
    ssim_pixel_auroc: float | None = None  # of the SSIM map alone
    ssim_aupro: float | None = None
    density_pixel_auroc: float | None = None  # of the density map alone
    density_aupro: float | None = None


@dataclass(frozen=True)
class Decision:
    """What one threshold makes of the test pictures; NG above it, UNSURE from `unsure_from` up to it."""

    threshold: float
    unsure_from: float | None  # None: there is no review band
    false_alarms: int  # good pictures that are NG
    misses: int  # defective pictures that are not NG
    defective_ok: int  # defective pictures that are plain OK
    good_unsure: int  # good pictures that are UNSURE
    good_with_region: int  # good pictures that are NG or UNSURE: on these a region is shown


@dataclass(frozen=True)
class Cost:
    """What it takes to train, to keep and to run."""

    train_seconds: float  # of a preset: learning, without statistics and calibration; of a baseline: its whole fit
    parameters: int
    stored_numbers: int  # weights, statistics, stored patches
    gflop: float  # one forward pass of one picture; FLOP = 2 x MAC, of matrix products and convolutions
    megabytes: float  # of the export; of a baseline: its stored numbers in float32
    ms: float | None = None  # a picture by the export and vtad_runtime, one thread, median
    ms_session: float | None = None  # of it the bare onnxruntime session
    ratio: float | None = None  # of the two, taken in turns, median


@dataclass(frozen=True)
class Row:
    """One method on one category with one seed."""

    category: str
    method: str
    seed: int
    asked: dict[str, Any]  # what was asked of the method beside its defaults
    fingerprint: str  # of every value of its configuration, the category, the seed and the folders aside
    made: Made
    pictures: Pictures
    ranking: Ranking
    calibration_pictures: int  # good pictures that set the thresholds
    false_alarm_budget: float
    guaranteed: Decision
    estimated: Decision | None  # None: too few calibration pictures to estimate a threshold
    cost: Cost
    training: dict[str, float]  # where it ended: epochs, losses, token norms
    export: str | None  # "proven", or why there is none; None: a baseline
    run: str | None  # its folder, below the folder of results; None: a baseline

    @property
    def label(self) -> str:
        """The method, and what was asked of it beside its defaults."""
        return ", ".join([self.method, *(f"{name} {value}" for name, value in self.asked.items())])

    def decision(self, rule: str) -> Decision | None:
        """By one of RULES."""
        return self.guaranteed if rule == "guaranteed" else self.estimated

    def count(self, decision: Decision, name: str) -> Count:
        """One of COUNTED, of how many pictures."""
        of = self.pictures.defective if name in ("misses", "defective_ok") else self.pictures.good
        return Count(of, getattr(decision, name))

    def flat(self) -> dict[str, Any]:
        """One value a column. Counts come with their rate and its exact 95 % interval."""
        found: dict[str, Any] = {
            "category": self.category,
            "method": self.method,
            "seed": self.seed,
            "asked": " ".join(f"{name}={value}" for name, value in self.asked.items()),
            "fingerprint": self.fingerprint,
        }
        for part in (self.made, self.pictures, self.ranking):
            found |= dataclasses.asdict(part)
        versions = found.pop("versions")
        found |= {"calibration_pictures": self.calibration_pictures, "false_alarm_budget": self.false_alarm_budget}
        for rule in RULES:
            decision = self.decision(rule)
            for name in ("threshold", "unsure_from"):
                found[f"{rule}_{name}"] = getattr(decision, name) if decision else None
            for name in COUNTED:
                count = self.count(decision, name) if decision else None
                low, high = count.interval if count else (None, None)
                values = {"": count and count.count, "_rate": count and count.share, "_low": low, "_high": high}
                found |= {f"{rule}_{name}{end}": value for end, value in values.items()}
        found |= dataclasses.asdict(self.cost)
        found |= {f"training_{name}": value for name, value in self.training.items()}
        found |= {"export": self.export, "run": self.run}
        return found | {f"version_{name}": version for name, version in versions.items()}
