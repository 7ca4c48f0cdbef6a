"""The inspection card: the one contract between training, export and the edge.

One JSON document travels inside every artefact (ONNX ``metadata_props["vtad.card"]``, a run folder's ``card.json``).
It says what the model was trained on, what pixels it takes, what its outputs mean, where the threshold lies and what
was proven about the export. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vtad_runtime.contract.errors import VtadError

# A card of an older vtad has every field that has no default; one with a default may be added under the same number.
SCHEMA = 1
ONNX_KEY = "vtad.card"  # the name of the card in ONNX metadata_props, and in a Core ML package's user-defined metadata

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


@dataclass(frozen=True)
class Output:
    """One output of the graph."""

    name: str
    shape: tuple[int | str, ...]  # "batch" for the free axis
    unit: str


@dataclass(frozen=True)
class Calibration:
    """Held-out good images turned into a decision: NG if and only if score > threshold."""

    scores: tuple[float, ...]  # of held-out good images, ascending
    false_alarms: float  # the budget asked for, a share of good images
    achievable: float  # the smallest share these images can vouch for, 1 / (n + 1), or the budget if that is larger
    threshold: float  # in units of the score
    pixel_threshold: float  # heatmap level from which a region is drawn, in units of normal variation
    images: int

    def p_value(self, score: float) -> float:
        """Conformal p-value (1 + #{calibration >= score}) / (n + 1): the share of good images that look this odd."""
        at_least = sum(1 for s in self.scores if s >= score)
        return (1 + at_least) / (self.images + 1)


@dataclass(frozen=True)
class Parity:
    """What the export proved: largest differences between torch and the artefact, over real and defective images."""

    format: str  # "onnx"
    precision: str  # "fp32"
    images_good: int
    images_defective: int
    max_error: dict[str, float]  # by output name; maps and score relative to the calibration spread
    tolerance: dict[str, float]
    verdict_flips: int


@dataclass(frozen=True)
class Card:
    """The whole document. `results` and `parity` are None until evaluated and exported.

    `compute_units` are those that a Core ML package is to run on; None, as in every other artefact, is CPU_AND_NE.
    """

    schema: int
    identity: Identity
    input: Input
    outputs: tuple[Output, ...]
    calibration: Calibration
    weights_sha256: str  # of the run folder's model.safetensors
    results: dict[str, Any] | None
    parity: Parity | None
    compute_units: ComputeUnits | None = None

    def to_json(self) -> str:
        """The card as indented JSON text; `from_json` gives an equal card back."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)

    @staticmethod
    def from_json(text: str, where: str = "card") -> Card:
        """Parse strictly. `where` names the file in errors. Raises CardError: bad JSON, other schema, wrong fields."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as e:
            raise CardError(f"{where}: expected a vtad card in JSON, got text that does not parse ({e})") from e
        if not isinstance(raw, dict):
            raise CardError(f"{where}: expected a vtad card (a JSON object), got {type(raw).__name__}")
        if raw.get("schema") != SCHEMA:
            raise CardError(
                f"{where}: expected a vtad card of schema {SCHEMA}, got {raw.get('schema')!r}; "
                "export the run again with this version of vtad, or install the version that wrote the file"
            )
        card: Card = _parse(Card, raw, "card", where)
        card.check(where)
        return card

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
            raise CardError(f"{where}: expected {c.images} ascending calibration scores, got {len(c.scores)}")
        if self.input.width < 1 or self.input.height < 1:
            raise CardError(f"{where}: expected a positive input size, got {self.input.width}x{self.input.height}")


def read_card(path: Path) -> Card:
    """The card of a run folder (`card.json`). Raises CardError when it is absent or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise CardError(f"{path}: expected a readable vtad card, got {e}") from e
    return Card.from_json(text, str(path))


def _parse(kind: Any, value: Any, field: str, where: str) -> Any:  # noqa: PLR0911 - one per JSON type
    """`value` from JSON as `kind` (dataclass, tuple, dict, union, literal or plain), or CardError naming `field`."""
    wrong = CardError(f"{where}: {field}: expected {_name(kind)}, got {value!r:.80}")
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise wrong
        hints = get_type_hints(kind)
        optional = {f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
        missing, unknown = sorted(hints.keys() - value.keys() - optional), sorted(value.keys() - hints.keys())
        if missing or unknown:
            raise CardError(f"{where}: {field}: missing fields {missing}, unknown fields {unknown}")
        return kind(**{k: _parse(t, value[k], f"{field}.{k}", where) for k, t in hints.items() if k in value})
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in args:
            raise wrong
        return value
    if origin in (Union, types.UnionType):
        for arg in args:
            try:
                return _parse(arg, value, field, where)
            except CardError:
                continue
        raise wrong
    if origin is tuple:
        if not isinstance(value, list) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise wrong
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(_parse(t, v, f"{field}[{i}]", where) for i, (t, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong
        return {k: _parse(args[1], v, f"{field}.{k}", where) for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong
    return value


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
