"""The Neural Engine lint: each rule finds what it is about, on the generations it is about, and weighs it by FLOPs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vtad_export.coreml_format.lint import GENERATIONS, Lint, flops, lint
from vtad_export.coreml_format.mlpackage import Constant, Operation, Program, Value

CHIPS = [g.chips for g in GENERATIONS]
HALF, FULL, INT = np.float16, np.float32, np.int32


def value(name: str, *shape: int, dtype: Any = HALF) -> Value:
    return Value(name, dtype, shape)


def one(
    kind: str, given: Value, made: Value, constants: dict[str, Constant] | None = None, **arguments: str
) -> Program:
    """A program of one operation; `arguments` name constants."""
    named: dict[str, tuple[str, ...]] = {"x": (given.name,), **{k: (v,) for k, v in arguments.items()}}
    return Program((given,), constants or {}, (Operation(kind, named, (made,)),), (made.name,), "CoreML6")


def rules(found: Lint) -> dict[str, str]:
    """Rule -> the chips it holds on."""
    return {f.rule: f.chips for f in found.findings}


def eligible(found: Lint) -> list[str]:
    """The generations that likely run the program."""
    return [s.chips for s in found.generations if s.likely_eligible == found.operations]


X, Y = value("x", 1, 8, 64, 64), value("y", 1, 8, 64, 64)


def test_a_float16_operation_of_four_axes_is_likely_eligible_everywhere() -> None:
    found = lint(one("relu", X, Y))
    assert rules(found) == {}
    assert eligible(found) == CHIPS
    assert (found.flops_share, [s.pieces for s in found.generations]) == (1.0, [1] * len(CHIPS))


@pytest.mark.parametrize("dtype", [FULL, INT])
def test_other_types_than_float16_are_elsewhere_and_nothing_else_is_held_against_them(dtype: Any) -> None:
    found = lint(one("topk", value("x", 1, 4, dtype=dtype), value("y", 1, 2, dtype=dtype)))
    assert rules(found) == {"dtype": "all chips"}
    assert found.findings[0].off_engine
    assert eligible(found) == []


def test_five_axes_are_too_many() -> None:
    found = lint(one("relu", value("x", 1, 2, 3, 4, 64), value("y", 1, 2, 3, 4, 64)))
    assert rules(found) == {"rank": "all chips"}


def test_a_long_axis_is_for_the_newest_only() -> None:
    found = lint(one("relu", value("x", 1, 8, 1, 16385), value("y", 1, 8, 1, 16385)))
    assert rules(found) == {"side": ", ".join(CHIPS[:-1])}
    assert eligible(found) == CHIPS[-1:]
    assert eligible(lint(one("relu", value("x", 1, 8, 1, 16384), value("y", 1, 8, 1, 16384)))) == CHIPS


@pytest.mark.parametrize(
    ("height", "width", "chips"),
    [(13, 13, CHIPS), (16, 13, CHIPS), (13, 14, CHIPS[2:]), (16, 16, CHIPS[2:]), (17, 17, []), (30, 1, CHIPS[2:])],
)
def test_a_large_kernel_falls_back_on_older_chips(height: int, width: int, chips: list[str]) -> None:
    weight: dict[str, Constant] = {"w": np.zeros((8, 8, height, width), HALF)}
    found = lint(one("conv", X, Y, weight, weight="w"))
    assert eligible(found) == chips
    if len(chips) < len(CHIPS):
        (finding,) = found.findings
        assert (finding.rule, finding.flops_share) == ("kernel", 1.0)
        assert "pixel_unshuffle" in finding.advice


@pytest.mark.parametrize(
    ("mode", "chips"), [("constant", CHIPS), ("reflect", CHIPS[2:]), ("symmetric", CHIPS[2:]), ("replicate", CHIPS)]
)
def test_padding_by_reflection_falls_back_before_the_sampling_hardware(mode: str, chips: list[str]) -> None:
    found = lint(one("pad", X, value("y", 1, 8, 66, 66), {"m": mode}, mode="m"))
    assert eligible(found) == chips


@pytest.mark.parametrize(
    ("kind", "chips"),
    [
        ("gelu", CHIPS),
        ("layer_norm", CHIPS[1:]),
        ("softmax", CHIPS[1:]),
        ("pixel_shuffle", CHIPS[1:]),
        ("upsample_nearest_neighbor", CHIPS[2:]),
        ("upsample_bilinear", CHIPS[2:]),
        ("topk", CHIPS[2:]),
        ("scatter", []),
        ("an_operation_of_tomorrow", []),
    ],
)
def test_an_operation_is_eligible_from_its_first_generation_on(kind: str, chips: list[str]) -> None:
    found = lint(one(kind, X, Y))
    assert eligible(found) == chips
    assert (
        rules(found).get("operation")
        == {
            len(CHIPS): None,
            0: "all chips",
            len(CHIPS) - 1: CHIPS[0],
            len(CHIPS) - 2: ", ".join(CHIPS[:2]),
        }[len(chips)]
    )


def test_a_short_last_axis_is_slow_but_eligible() -> None:
    found = lint(one("relu", value("x", 1, 64, 16, 16), value("y", 1, 64, 16, 16)))
    assert rules(found) == {"last axis": "all chips"}
    assert not found.findings[0].off_engine
    assert eligible(found) == CHIPS


def test_shares_are_by_flops_and_pieces_by_hand_overs() -> None:
    """conv (float16), softmax (float16), relu (float32), conv (float16)."""
    weight: dict[str, Constant] = {"w": np.zeros((8, 8, 3, 3), HALF)}
    a, b, c, d = (value(n, 1, 8, 64, 64) for n in "abcd")
    c = value("c", 1, 8, 64, 64, dtype=FULL)
    operations = (
        Operation("conv", {"x": ("x",), "weight": ("w",)}, (a,)),
        Operation("softmax", {"x": ("a",)}, (b,)),
        Operation("relu", {"x": ("b",)}, (c,)),
        Operation("conv", {"x": ("a",), "weight": ("w",)}, (d,)),
    )
    found = lint(Program((X,), weight, operations, ("d",), "CoreML6"))
    elements, conv = 8 * 64 * 64, 2 * 8 * 64 * 64 * 8 * 9
    total = 2 * conv + 2 * elements
    assert found.gflops == pytest.approx(total / 1e9)
    oldest, m1 = found.generations[:2]
    assert (m1.likely_eligible, m1.pieces) == (3, 2)
    assert m1.flops_share == pytest.approx((total - elements) / total)
    assert (oldest.likely_eligible, oldest.pieces) == (2, 2)
    assert oldest.flops_share == pytest.approx(2 * conv / total)
    assert (found.likely_eligible, found.flops_share) == (m1.likely_eligible, m1.flops_share)


def test_the_report_says_likely_and_why_and_what_to_do() -> None:
    lines = lint(one("softmax", X, Y)).lines()
    assert lines[0] == "Neural Engine, by rules of thumb, likely eligible:"
    assert lines[1:3] == [
        "  A12/A13           0 of 1 operations, 0.0% of 0.00 GFLOP, in 0 pieces",
        "  A14/M1 and later  1 of 1 operations, 100.0% of 0.00 GFLOP, in 1 piece",
    ]
    assert " ".join(line.strip() for line in lines[3:]) == (
        "operation: 1 likely elsewhere on A12/A13, 100.0% of FLOPs: not known to run there; "
        "let the host do it, or write it as convolutions and matrix products"
    )


def test_generations_that_are_not_alike_have_a_line_each_and_lines_are_short() -> None:
    lines = lint(one("pad", X, value("y", 1, 8, 66, 66), {"m": "reflect"}, mode="m")).lines()
    assert [line.split("  ")[1] for line in lines[1:3]] == [f"{CHIPS[0]} to {CHIPS[1]}", f"{CHIPS[2]} and later"]
    long = lint(one("topk", value("x", 1, 4, dtype=FULL), value("y", 1, 2, dtype=FULL))).lines()
    assert all(len(line) <= 120 for line in long)
    assert [line.split("  ")[1] for line in long[1:2]] == [f"{CHIPS[0]} and later"]


@pytest.mark.parametrize(
    ("kind", "constants", "expected"),
    [
        ("conv", {"weight": np.zeros((4, 8, 3, 3), HALF)}, 2 * (8 * 64 * 64) * 8 * 9),
        ("conv_transpose", {"weight": np.zeros((8, 1, 2, 2), HALF)}, 2 * (8 * 64 * 64) * 4),
        ("linear", {"weight": np.zeros((64, 64), HALF)}, 2 * (8 * 64 * 64) * 64),
        ("matmul", {"y": np.zeros((64, 64), HALF)}, 2 * (8 * 64 * 64) * 64),
        ("gelu", {}, 8 * 64 * 64),
        ("transpose", {}, 0),
    ],
)
def test_a_multiplication_with_addition_counts_two_and_moving_data_nothing(
    kind: str, constants: dict[str, Constant], expected: float
) -> None:
    named = {f"c_{k}": v for k, v in constants.items()}
    program = one(kind, X, Y, named, **{k: f"c_{k}" for k in constants})
    assert flops(program.operations[0], program, program.declared()) == expected
