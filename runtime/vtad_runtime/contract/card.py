"""The inspection card: the one contract between training, export and the edge.

One JSON document travels inside every artefact (ONNX ``metadata_props["vtad.card"]``, a run folder's ``card.json``).
It says what the model was trained on, what pixels it takes, what its outputs mean, where the threshold lies and what
was proven about the export. Standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed

# A card of an older vtad has every field that has no default; one with a default may be added under the same number.
# Schema 2, still read: without digests. Schema 1, still read: the density map was called nll_map, and the score rule was the one
# below, said nowhere.
SCHEMA = 3
WITHOUT_DIGESTS = (1, 2)
UNIT = "z-score (standard deviations of good pictures)"  # of the score and the maps
OLD_NAMES = {"nll_map": "density_map", "units of normal variation": UNIT}
OLD_SCORE_RULE = {"cell": 8, "top_share": 0.01}
FURTHEST = 20.0  # standard deviations of the calibration scores from the threshold to the nearest of them
FURTHEST_WITHOUT_SCORES = 1e6
SMALLEST_ROI = 8  # pixels a side
AGAIN = "copy the file again, or make it anew"  # what to do with a damaged one
ONNX_KEY = "vtad.card"  # the name of the card in ONNX metadata_props, and in a Core ML package's user-defined metadata
REFERENCES_KEY = "vtad.references"  # that of the reference pictures beside it

FullScale = Literal[1023, 4095, 16383, 65535]  # the highest value of a camera of 10, 12, 14 or 16 bits
FULL_SCALE: FullScale = 65535
BudgetRule = Literal["guaranteed", "estimated"]  # how a threshold follows from the false-alarm budget
USUAL_RULE: BudgetRule = "estimated"  # unless somebody asks for the other
Rule = Literal[BudgetRule, "misses", "by hand"]
ComputeUnits = Literal["CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY", "ALL"]  # of Core ML, by coremltools' names


class CardError(VtadError):
    """A card that is missing, damaged, incomplete or of another schema. The message is one line."""


@dataclass(frozen=True)
class Identity:
    """Which detector this is."""

    category: str  # the name of the data folder, e.g. "pill"
    created: str  # ISO 8601, UTC
    vtad_version: str
    git_commit: str | None  # of the checkout that trained it, if any
    config: dict[str, Any]  # every value of the training configuration
    data_fingerprint: str  # sha256 over the sha256 of every training file


@dataclass(frozen=True)
class Input:
    """Which pixels the graph takes: uint8 RGB, (B, 3, height, width). Scale and mean live inside the graph."""

    name: str
    width: int  # pixels
    height: int  # pixels
    colour: Literal["rgb"]
    resize: Literal["area-linear"]  # cv2 INTER_AREA when shrinking, INTER_LINEAR when growing
    fit: Literal["stretch", "letterbox", "centre_crop"]
    roi: tuple[int, int, int, int] | None  # x, y, width, height in source pixels, cut before fitting
    full_scale: FullScale = FULL_SCALE  # the value of white in a picture of 16 bits


@dataclass(frozen=True)
class Output:
    """One output of the graph."""

    name: str
    shape: tuple[int | str, ...]  # "batch" for the free axis
    unit: str


@dataclass(frozen=True)
class ScoreRule:
    """How the graph takes the score from the heatmap: the mean of its highest cells."""

    cell: int  # pixels a side of one cell, at the model's resolution
    top_share: float  # of the cells: those whose mean is the score, at least one


@dataclass(frozen=True)
class Estimate:
    """A threshold for a budget by a model of the scores' tail; its false alarms lie between two shares, 95 % confidence."""

    threshold: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Calibration:
    """Scores of good images turned into a decision: NG if and only if score > threshold."""

    scores: tuple[float, ...]  # of good images that it had not learnt from, or not whole (cross-fitted), ascending
    false_alarms: float  # the budget asked for, a share of good images
    achievable: float  # the smallest share these images can vouch for, 1 / (n + 1), or the budget if that is larger
    threshold: float  # in units of the score
    pixel_threshold: float  # heatmap level from which a region is drawn, a z-score
    images: int
    rule: Rule = "guaranteed"  # what the threshold was chosen by: the budget, known bad parts, or a person
    guaranteed: float | None = None  # the threshold of the conformal rule
    estimated: Estimate | None = None  # that of the tail; None with fewer than twenty scores
    defective: int = 0  # known bad parts that were judged as well
    max_misses: float | None = None  # the share of bad parts that may be missed, where that was the rule

    @property
    def chosen(self) -> str:
        """How the threshold was chosen, in words."""
        pictures = f"{self.images} good" + (f" and {self.defective} bad pictures" if self.defective else " pictures")
        match self.rule:
            case "by hand":
                return f"by hand; the card holds the scores of {pictures}"
            case "misses":
                return f"for at most {percent(self.max_misses or 0)} misses, from {pictures}"
            case "guaranteed":
                return f"for at most {percent(self.achievable)} false alarms, from {pictures}"
            case "estimated":
                return f"for about {percent(self.false_alarms)} false alarms, estimated from {pictures}"

    @property
    def both_rules(self) -> str | None:
        """What either rule makes of the budget, in words; None where nothing was estimated."""
        if self.guaranteed is None or self.estimated is None:
            return None
        found = self.estimated
        return (
            f"guaranteed {self.guaranteed:.4g}; estimated {found.threshold:.4g}, with false alarms of "
            f"{round(100 * found.lowest, 2):.2g} to {100 * found.highest:.2g} %"
        )

    @property
    def plausible(self) -> tuple[float, float]:
        """Between which thresholds one has to do with these scores."""
        reach = FURTHEST * max(_deviation(self.scores), 1e-3) if self.scores else FURTHEST_WITHOUT_SCORES
        lowest, highest = (self.scores[0], self.scores[-1]) if self.scores else (0.0, 0.0)
        return lowest - reach, highest + reach

    def p_value(self, score: float) -> float:
        """Conformal p-value (1 + #{calibration >= score}) / (n + 1): the share of good images that look this odd."""
        at_least = sum(1 for s in self.scores if s >= score)
        return (1 + at_least) / (self.images + 1)


@dataclass(frozen=True)
class Weighing:
    """What each scorer counts in the fused score, by its name, and how well the sum tells synthetic defects from good pictures.

    A quality is the mean of image AUROC and AUPRO on held-out good pictures and synthetic defects, all of them shifted.
    """

    scorers: dict[
        str, float
    ]  # weights of their z-scores over good pictures; one of 0 is pruned; none in the preset `paper`
    ssim_share: float  # of the heatmap; the rest is the density map's
    damage: float | None = None  # quality on damage; None: not kept by an earlier version
    relation: float | None = None  # quality on defects of relation; None: good pictures have no aligned parts
    parts: str = ""  # one line: of which parts such defects are drawn, or why of none

    @property
    def counts(self) -> list[str]:
        """Each scorer that counts, in words, the largest weight first."""
        ranked = sorted(self.scorers.items(), key=lambda pair: -pair[1])
        return [f"{name.replace('_', ' ').replace('gmm', 'GMM')} {weight:.3g}" for name, weight in ranked if weight]

    @property
    def qualities(self) -> str:
        """Both qualities, in words; empty where none was kept."""
        both = (("damage", self.damage), ("relation", self.relation))
        shown = [f"{name} {value:.3f}" for name, value in both if value is not None]
        return f"quality on shifted synthetic defects: {', '.join(shown)}" if shown else ""


@dataclass(frozen=True)
class Near:
    """What the export showed on images graded in strength until torch's score is within a tenth of the threshold."""

    below: int  # images
    above: int
    nearest: float  # from the threshold, in spreads of the calibration scores
    max_error: float  # of the score, in spreads too
    flips: int  # verdicts that differ: an error of the score within its tolerance can do that here


@dataclass(frozen=True)
class Parity:
    """What the export proved: largest differences between torch and the artefact, over real and defective images."""

    format: str  # "onnx"
    precision: str  # "fp32"
    images_good: int
    images_defective: int
    max_error: dict[str, float]  # by output name: spreads of the calibration scores, z-scores of maps, intensity
    tolerance: dict[str, float]  # an output that decides nothing has none
    verdict_flips: int  # of the good images and the synthetic defects, and of test images
    near: Near | None = None  # None on cards of earlier versions
    images_test: int = 0  # the category's own, judged where weights are compressed; 0 on cards of earlier versions


@dataclass(frozen=True)
class Digests:
    """What an artefact was when it was written, as sha256 in hex: written last, and compared when it is opened."""

    files: dict[str, str]  # by path below a package, of an ONNX file "model": every byte but the card's own entry
    card: str  # of every value on the card, these digests of the files among them


@dataclass(frozen=True)
class Change:
    """One program that wrote the artefact anew after its export."""

    by: str  # program and version
    when: str  # ISO 8601, UTC
    what: str  # one line
    parent: str  # `digests.card` of the artefact it was made of
    changed: tuple[str, ...] = ()  # what of that one was not as its digests say, and was let pass


@dataclass(frozen=True)
class Card:
    """The whole document. `results` and `parity` are None until evaluated and exported.

    `compute_units` are those that a Core ML package is to run on; None, as in every other artefact, is CPU_AND_NE.
    `digests` are None in a run folder, and in artefacts of schema 1 and 2. `history`: the oldest change first.
    """

    schema: int
    identity: Identity
    input: Input
    outputs: tuple[Output, ...]
    score_rule: ScoreRule
    calibration: Calibration
    weights_sha256: str  # of the run folder's model.safetensors
    results: dict[str, Any] | None
    parity: Parity | None
    compute_units: ComputeUnits | None = None
    digests: Digests | None = None
    history: tuple[Change, ...] = ()
    weighing: Weighing | None = None  # None on cards of earlier versions

    def to_json(self) -> str:
        """The card as indented JSON text; `from_json` gives an equal card back."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)

    @staticmethod
    def from_json(text: str, where: str = "card") -> Card:
        """Parse strictly. `where` names the file in errors. Raises CardError: bad JSON, other schema, wrong fields."""
        try:
            raw = parsed(text)
        except WrongJson as e:
            raise CardError(f"{where}: expected a vtad card in JSON: {e}; {AGAIN}") from e
        if not isinstance(raw, dict):
            raise CardError(f"{where}: expected a vtad card (a JSON object), got {type(raw).__name__}; {AGAIN}")
        if raw.get("schema") == 1:
            raw = _from_schema_1(raw)
        if raw.get("schema") not in (SCHEMA, *WITHOUT_DIGESTS):
            raise CardError(
                f"{where}: expected a vtad card of schema {SCHEMA}, 2 or 1, got {raw.get('schema')!r}; "
                "export the run again with this version of vtad, or install the version that wrote the file"
            )
        raw = {**raw, "schema": SCHEMA}
        try:
            card = typed(Card, raw, "card")
        except WrongJson as e:
            raise CardError(f"{where}: {e}; {AGAIN}") from e
        card.check(where)
        return card

    def sealed(self, files: dict[str, str]) -> Card:
        """The card with digests: of the artefact's files, as given, and of itself."""
        unsealed = dataclasses.replace(self, schema=SCHEMA, digests=Digests(files, ""))
        return dataclasses.replace(unsealed, digests=Digests(files, card_digest(unsealed.to_json())))

    def check(self, where: str = "card") -> None:
        """Raise CardError where values contradict each other."""
        c = self.calibration
        if not all(map(math.isfinite, (c.threshold, c.pixel_threshold, *c.scores))) or c.pixel_threshold <= 0:
            odd = [s for s in c.scores if not math.isfinite(s)]
            scores = f" and calibration scores {odd[0]}" if odd else ""
            raise CardError(
                f"{where}: expected finite thresholds and scores and a pixel threshold above 0, "
                f"got {c.threshold} and {c.pixel_threshold}{scores}; train and export again"
            )
        if len(c.scores) != c.images or list(c.scores) != sorted(c.scores):
            raise CardError(f"{where}: expected {c.images} ascending calibration scores, got {len(c.scores)}; {AGAIN}")
        self._check_plausible(where)
        if self.input.width < 1 or self.input.height < 1:
            raise CardError(
                f"{where}: expected a positive input size, got {self.input.width}x{self.input.height}; {AGAIN}"
            )
        cell, share = self.score_rule.cell, self.score_rule.top_share
        if not (1 <= cell <= min(self.input.width, self.input.height) and 0 < share <= 1):
            raise CardError(
                f"{where}: expected a score rule with cells of 1 pixel to the picture's shorter side and a share of them "
                f"above 0 and at most 1, got {cell} pixels and {share}; {AGAIN}"
            )

    def _check_plausible(self, where: str) -> None:
        """Raise CardError where a threshold has nothing to do with its scores, or a region with any camera.

        A file that was damaged on its way must not turn every part into a good one.
        """
        c, roi = self.calibration, self.input.roi
        if not (0 < c.false_alarms < 1 and 0 < c.achievable <= 1):
            raise CardError(
                f"{where}: expected a false-alarm budget between 0 and 1, got {c.false_alarms:g} and {c.achievable:g}; "
                "copy the file again"
            )
        lowest, highest = c.plausible
        if not lowest <= c.threshold <= highest:
            first, last = (c.scores[0], c.scores[-1]) if c.scores else (0.0, 0.0)
            raise CardError(
                f"{where}: expected a threshold near its calibration scores, {first:.4g} to {last:.4g}, got "
                f"{c.threshold:.4g}; copy or export the file again"
            )
        if roi is not None and (min(roi[:2]) < 0 or min(roi[2:]) < SMALLEST_ROI):
            raise CardError(
                f"{where}: expected a region inside the picture of at least {SMALLEST_ROI} pixels a side, got {list(roi)}; "
                "copy or export the file again"
            )


def _deviation(values: tuple[float, ...]) -> float:
    """The standard deviation of a population; Python's own module of statistics takes 3 ms to import."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def card_digest(text: str) -> str:
    """Sha256 over the values of a card's JSON, in hex: `digests.card` aside, whatever the order of keys and the white space.

    Raises WrongJson.
    """
    raw = parsed(text)
    if isinstance(raw, dict) and isinstance(raw.get("digests"), dict):
        raw["digests"] = {**raw["digests"], "card": ""}
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def percent(share: float) -> str:
    """A share in per cent, to three digits."""
    return f"{100 * share:.3g} %"


def read_card(path: Path) -> Card:
    """The card of a run folder (`card.json`). Raises CardError when it is absent or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise CardError(f"{path}: expected a readable vtad card, got {e}; {AGAIN}") from e
    return Card.from_json(text, str(path))


def _from_schema_1(raw: dict[str, Any]) -> dict[str, Any]:
    """A card of schema 1 by the names of schema 2; what is wrong with it stays so."""
    new = {key: value if key == "identity" else _renamed(value) for key, value in raw.items()}
    return {**new, "schema": SCHEMA, "score_rule": OLD_SCORE_RULE}


def _renamed(value: Any) -> Any:
    """A JSON value with names of schema 1 replaced, as keys and as texts."""
    if isinstance(value, dict):
        return {OLD_NAMES.get(key, key): _renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    return OLD_NAMES.get(value, value) if isinstance(value, str) else value
