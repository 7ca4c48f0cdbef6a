"""JSON as typed values: what is taken, what is refused, and that an error names the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from vtad_runtime.contract.typed_json import WrongJson, typed


@dataclass(frozen=True)
class Inner:
    sides: tuple[int, int]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    share: float
    kind: Literal["a", "b"]
    inner: dict[str, Inner]
    note: str | None
    free: Any = None


WHOLE: dict[str, Any] = {
    "share": 1,
    "kind": "b",
    "inner": {"first": {"sides": [3, 4], "names": ["x"]}},
    "note": None,
    "free": [{}],
}


def test_json_becomes_dataclasses_tuples_and_floats() -> None:
    found = typed(Outer, WHOLE, "outer")
    assert found == Outer(1.0, "b", {"first": Inner((3, 4), ("x",))}, None, [{}])
    assert isinstance(found.share, float)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"share": True}, "outer.share: expected float, got True"),
        ({"share": "1"}, "outer.share: expected float, got '1'"),
        ({"kind": "c"}, "outer.kind: expected Literal['a', 'b'], got 'c'"),
        ({"note": 3}, "outer.note: expected str | None, got 3"),
        ({"inner": {"first": 3}}, "outer.inner.first: expected a JSON object, got 3"),
        (
            {"inner": {"first": {"sides": [1, 2, 3]}}},
            "outer.inner.first.sides: expected tuple[int, int], got [1, 2, 3]",
        ),
        ({"inner": {"first": {"sides": [1, 2.5]}}}, "outer.inner.first.sides[1]: expected int, got 2.5"),
        ({"inner": {"first": {"names": []}}}, "outer.inner.first: missing fields ['sides'], unknown fields []"),
        ({"more": 1}, "outer: missing fields [], unknown fields ['more']"),
    ],
)
def test_what_is_wrong_is_said_by_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongJson) as caught:
        typed(Outer, {**WHOLE, **change}, "outer")
    assert str(caught.value) == says


def test_a_field_with_a_default_may_be_absent_unless_all_are_asked_for() -> None:
    assert typed(Inner, {"sides": [1, 2]}, "inner") == Inner((1, 2))
    with pytest.raises(WrongJson, match=r"missing fields \['names'\]"):
        typed(Inner, {"sides": [1, 2]}, "inner", defaults=False)
