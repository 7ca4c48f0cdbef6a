"""The inspection card: it survives a round trip, and every kind of damage is one clear error."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_card

from vtad_runtime.contract.card import UNIT, Card, CardError, ScoreRule, read_card

STORED = Path(__file__).parents[1] / "data" / "schema1"


def test_a_card_survives_the_round_trip() -> None:
    card = make_card(48, 32, fit="letterbox", roi=(1, 2, 30, 20))
    assert Card.from_json(card.to_json()) == card


def changed(path: str, value: Any) -> str:
    """The card's JSON with one value replaced; `...` deletes it."""
    raw = json.loads(make_card().to_json())
    *parents, last = path.split(".")
    part = raw
    for parent in parents:
        part = part[parent]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 4, "expected a vtad card of schema 3, 2 or 1, got 4"),
        ("schema", ..., "expected a vtad card of schema 3, 2 or 1, got None"),
        ("calibration", ..., r"missing fields \['calibration'\]"),
        ("calibration.threshold", ..., r"card\.calibration: missing fields \['threshold'\]"),
        ("calibration.threshold", "high", r"card\.calibration\.threshold: expected float, got 'high'"),
        ("calibration.threshold", True, r"card\.calibration\.threshold: expected float"),
        ("calibration.images", 3, "expected 3 ascending calibration scores, got 19"),
        ("calibration.scores", [2.0, 1.0], "ascending calibration scores"),
        ("input.width", 0, "expected a positive input size"),
        ("input.width", 3.5, r"card\.input\.width: expected int"),
        ("input.colour", "bgr", r"card\.input\.colour: expected .*rgb"),
        ("input.fit", "squeeze", r"card\.input\.fit"),
        ("input.roi", [1, 2, 3], r"card\.input\.roi"),
        ("calibration.threshold", math.nan, "expected finite thresholds and scores .* got nan"),
        ("calibration.threshold", math.inf, "expected finite thresholds and scores .* got inf"),
        ("calibration.pixel_threshold", -math.inf, "expected finite thresholds"),
        ("calibration.pixel_threshold", 0.0, "a pixel threshold above 0, got 2.0 and 0.0"),
        ("calibration.scores", [0.1] * 18 + [math.inf], "calibration scores inf"),
        ("calibration.scores", [math.nan] * 19, "calibration scores nan"),
        ("score_rule", ..., r"missing fields \['score_rule'\]"),
        ("score_rule.cell", 0, "expected a score rule with cells of 1 pixel .* got 0 pixels"),
        ("score_rule.cell", 64, "to the picture's shorter side"),
        ("score_rule.top_share", 0.0, "got 8 pixels and 0.0"),
        ("score_rule.top_share", math.nan, "got 8 pixels and nan"),
        ("compute_units", "TPU", r"card\.compute_units: expected"),
        ("input.full_scale", 4096, r"card\.input\.full_scale: expected .*4095"),
        ("extra", 1, r"unknown fields \['extra'\]"),
        ("outputs", {}, r"card\.outputs"),
    ],
)
def test_each_damage_is_one_clear_error(path: str, value: Any, message: str) -> None:
    with pytest.raises(CardError, match=message) as caught:
        Card.from_json(changed(path, value), "model.onnx")
    assert str(caught.value).startswith("model.onnx: ")
    assert "\n" not in str(caught.value)


def test_a_card_from_before_compute_units_is_read() -> None:
    assert Card.from_json(changed("compute_units", ...)) == make_card()
    chosen = dataclasses.replace(make_card(), compute_units="CPU_ONLY")
    assert Card.from_json(chosen.to_json()).compute_units == "CPU_ONLY"


def test_white_in_16_bits_is_65535_on_a_card_that_does_not_say() -> None:
    assert Card.from_json(changed("input.full_scale", ...)) == make_card()
    assert Card.from_json(changed("input.full_scale", 4095)) == make_card(full_scale=4095)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"card"'])
def test_text_that_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(CardError, match="expected a vtad card"):
        Card.from_json(text)


def test_reading_a_card_file(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    with pytest.raises(CardError, match=r"card\.json: expected a readable vtad card"):
        read_card(path)
    path.write_text(make_card().to_json(), encoding="utf-8")
    assert read_card(path) == make_card()


def test_the_p_value_counts_good_images_that_look_this_odd() -> None:
    calibration = make_card().calibration  # scores 0.1 .. 1.9
    assert calibration.p_value(5.0) == 1 / 20
    assert calibration.p_value(1.9) == 2 / 20
    assert calibration.p_value(0.0) == 1.0


def of_schema_1() -> dict[str, Any]:
    """The card as a vtad of schema 1 wrote it."""
    raw = json.loads(make_card().to_json())
    text = json.dumps({key: value for key, value in raw.items() if key != "score_rule"} | {"schema": 1})
    old: dict[str, Any] = json.loads(text.replace("density_map", "nll_map").replace(UNIT, "units of normal variation"))
    return old


def test_a_card_of_schema_1_is_read_with_the_names_and_the_score_rule_of_today() -> None:
    old = of_schema_1()
    assert "nll_map" in json.dumps(old)
    assert Card.from_json(json.dumps(old)) == make_card()
    old["identity"]["category"] = "nll_map"  # what a user named stays
    assert Card.from_json(json.dumps(old)).identity.category == "nll_map"


@pytest.mark.parametrize("field", ["outputs", "calibration", "parity"])
def test_a_damaged_card_of_schema_1_is_one_clear_error(field: str) -> None:
    with pytest.raises(CardError, match=field):
        Card.from_json(json.dumps(of_schema_1() | {field: 3}))


def test_the_stored_card_of_schema_1_becomes_one_of_today() -> None:
    card = read_card(STORED / "run" / "card.json")
    assert [o.name for o in card.outputs] == ["score", "heatmap", "ssim_map", "density_map", "reconstruction"]
    assert card.score_rule == ScoreRule(cell=8, top_share=0.01)
    assert Card.from_json(card.to_json()) == card
    assert json.loads(card.to_json())["schema"] == 3


def damaged(**changes: Any) -> str:
    """A card's text with changed fields, `calibration__threshold=...`."""
    raw = json.loads(make_card().to_json())
    for name, value in changes.items():
        part, _, field = name.partition("__")
        raw[part][field] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"calibration__threshold": 1e308}, "expected a threshold near its calibration scores, 0.1 to 1.9, got 1e"),
        ({"calibration__threshold": -300.0}, "expected a threshold near its calibration scores"),
        ({"calibration__false_alarms": 40.0}, "expected a false-alarm budget between 0 and 1"),
        ({"input__roi": [0, 0, 1, 1]}, "at least 8 pixels a side, got [0, 0, 1, 1]"),
        ({"input__roi": [-4, 0, 100, 100]}, "expected a region inside the picture"),
        ({"calibration__threshold": 10**400}, "calibration.threshold: expected float, got a number of 401 digits"),
    ],
)
def test_a_damaged_card_never_turns_parts_into_good_ones(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CardError) as error:
        Card.from_json(damaged(**changes), "pill.onnx")
    assert str(error.value).startswith("pill.onnx: ")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (make_card().to_json().replace('"threshold": 2.0', '"threshold": 2.0, "threshold": 2.5'), "'threshold' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema": ' + "9" * 5000 + "}", "text that does not parse"),
        ("{", "text that does not parse"),
    ],
)
def test_text_that_is_no_clean_json_is_one_line(text: str, says: str) -> None:
    with pytest.raises(CardError) as error:
        Card.from_json(text, "pill.onnx")
    assert says in str(error.value)
    assert len(str(error.value)) < 600
