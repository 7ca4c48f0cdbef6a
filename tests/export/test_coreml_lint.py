"""The Neural Engine lint: each rule finds what it is about, on the generations it is about, and says what it costs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from vtad_export.coreml_format.lint.generations import GENERATIONS
from vtad_export.coreml_format.lint.report import Lint, lint
from vtad_export.coreml_format.lint.rules import RULES
from vtad_export.coreml_format.lint.segments import segments
from vtad_export.coreml_format.lint.sources import SOURCES
from vtad_export.coreml_format.lint.subnormals import subnormals
from vtad_export.coreml_format.lint.work import flops
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


def chain(*kinds: tuple[str, str, str]) -> Program:
    """Operations on (1, 8, 64, 64): kind, what it takes, joined by +, and what it gives: lower case float16, upper float32."""
    operations = [
        Operation(
            kind,
            dict(zip("xy", ((n,) for n in given.split("+")), strict=False)),
            (value(made, 1, 8, 64, 64, dtype=HALF if made.islower() else FULL),),
        )
        for kind, given, made in kinds
    ]
    return Program((X,), {}, tuple(operations), (kinds[-1][2],), "CoreML6")


def rules(found: Lint) -> dict[str, str]:
    """Rule -> the chips it holds on."""
    return {f.rule: f.chips for f in found.findings}


def eligible(found: Lint) -> list[str]:
    """The generations that likely run the program."""
    return [s.chips for s in found.generations if s.likely_eligible == found.operations]


X, Y = value("x", 1, 8, 64, 64), value("y", 1, 8, 64, 64)
BYTES = 8 * 64 * 64 * 2  # of one of them


def test_a_float16_operation_of_four_axes_is_likely_eligible_everywhere() -> None:
    found = lint(one("relu", X, Y))
    assert rules(found) == {}
    assert eligible(found) == CHIPS
    for share in found.generations:
        assert (share.flops_share, share.bytes_share, share.segments, share.elsewhere) == (1.0, 1.0, 1, ())


@pytest.mark.parametrize("dtype", [FULL, INT])
def test_other_types_than_float16_are_elsewhere_and_nothing_else_is_held_against_them(dtype: Any) -> None:
    found = lint(one("topk", value("x", 1, 4, dtype=dtype), value("y", 1, 2, dtype=dtype)))
    assert rules(found) == {"dtype": "all chips"}
    assert found.findings[0].effect == "elsewhere"
    assert eligible(found) == []
    assert found.generations[0].elsewhere == ("y",)


def test_float32_in_a_float16_program_is_there_on_purpose_and_no_advice_is_given() -> None:
    (whole,) = lint(chain(("relu", "x", "A"), ("relu", "A", "B"))).findings
    assert (whole.rule, whole.operations, whole.advice) == ("exact", 2, "")
    (alone,) = lint(one("relu", value("x", 1, 8, 64, 64, dtype=FULL), value("y", 1, 8, 64, 64, dtype=FULL))).findings
    assert (alone.rule, alone.advice) == ("dtype", "export with --precision fp16")


def test_five_axes_are_too_many() -> None:
    found = lint(one("relu", value("x", 1, 2, 3, 4, 64), value("y", 1, 2, 3, 4, 64)))
    assert rules(found) == {"rank": "all chips"}


def test_a_long_row_is_for_the_newest_only_and_channels_may_be_more() -> None:
    found = lint(one("relu", value("x", 1, 8, 1, 16385), value("y", 1, 8, 1, 16385)))
    assert rules(found) == {"side": ", ".join(CHIPS[:-1])}
    assert eligible(found) == CHIPS[-1:]
    assert eligible(lint(one("relu", value("x", 1, 8, 1, 16384), value("y", 1, 8, 1, 16384)))) == CHIPS
    assert eligible(lint(one("relu", value("x", 1, 65536, 1, 32), value("y", 1, 65536, 1, 32)))) == CHIPS
    assert eligible(lint(one("relu", value("x", 1, 65537, 1, 32), value("y", 1, 65537, 1, 32)))) == []


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


@pytest.mark.parametrize(("pad", "chips"), [([0, 0, 0, 0, 1, 1, 1, 1], CHIPS), ([0, 0, 1, 1, 0, 0, 0, 0], [])])
def test_channels_are_not_padded_there(pad: list[int], chips: list[str]) -> None:
    found = lint(one("pad", X, Y, {"m": "constant", "p": np.array(pad, INT)}, mode="m", pad="p"))
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


@pytest.mark.parametrize(
    ("begin", "mask", "largest", "infinite"),
    [
        ([0, 0, 0, 4], None, 5000.0, True),
        ([0, 0, 0, 4], None, None, True),  # the program was not executed: any value is possible
        ([0, 0, 0, 4], None, 4094.0, False),
        ([0, 0, 0, 4], [False, False, False, True], 5000.0, False),  # from the first value, whatever `begin` says
        ([0, 0, 4, 0], None, 5000.0, False),
        ([0, 4, 0, 0], None, 5000.0, False),
    ],
)
def test_a_slice_that_starts_within_a_row_of_large_values_becomes_infinite_on_some_chips(
    begin: list[int], mask: list[bool] | None, largest: float | None, infinite: bool
) -> None:
    constants: dict[str, Constant] = {"b": np.array(begin, INT), "m": np.array(mask or [False] * 4)}
    program = one("slice_by_index", X, value("y", 1, 8, 64, 60), constants, begin="b", begin_mask="m")
    found = lint(program, {} if largest is None else {"x": largest})
    assert rules(found) == ({"slice": "A14/M1, A15/M2"} if infinite else {})
    assert eligible(found) == CHIPS  # it runs there, and gives infinity


@pytest.mark.parametrize(
    ("axis", "largest", "infinite"), [(3, 5000.0, True), (-1, 5000.0, True), (3, 4094.0, False), (1, 5000.0, False)]
)
def test_so_do_the_parts_of_rows_that_are_split(axis: int, largest: float, infinite: bool) -> None:
    operation = Operation("split", {"x": ("x",), "axis": ("a",)}, (Y, value("z", 1, 8, 64, 64)))
    program = Program((value("x", 1, 8, 64, 128),), {"a": np.array(axis, INT)}, (operation,), ("y", "z"), "CoreML6")
    assert rules(lint(program, {"x": largest})) == ({"slice": "A14/M1, A15/M2"} if infinite else {})


@pytest.mark.parametrize(("strides", "doubtful"), [([2, 2], False), ([8, 8], True)])
def test_where_sources_differ_the_finding_says_so_and_the_operation_counts_as_eligible(
    strides: list[int], doubtful: bool
) -> None:
    constants: dict[str, Constant] = {"s": np.array(strides, INT), "k": np.array(strides, INT)}
    found = lint(one("avg_pool", value("x", 1, 8, 512, 512), Y, constants, strides="s", kernel_sizes="k"))
    assert rules(found) == ({"pool": "all chips"} if doubtful else {})
    assert eligible(found) == CHIPS
    if doubtful:
        assert "[guide A: windows up to 29, from the M2 on 31; otherwise hollance" in found.findings[0].line()


def test_int8_weights_are_read_as_such_from_the_m2_on() -> None:
    weight = np.zeros((8, 8, 3, 3), HALF)
    program = one("conv", X, Y, {"w": weight}, weight="w")
    rounded = dataclasses.replace(program, steps={"w": np.ones((8, 1, 1, 1), FULL)})
    assert rules(lint(program)) == {}
    found = lint(rounded)
    assert rules(found) == {"int8 weights": "A12/A13, A14/M1"}
    assert eligible(found) == CHIPS


def test_int8_activations_are_for_the_newer_ones() -> None:
    found = lint(one("quantize", X, value("y", 1, 8, 64, 64, dtype=np.int8)))
    assert rules(found) == {"int8 activations": ", ".join(CHIPS[:3]), "operation": ", ".join(CHIPS[:3])}
    assert eligible(found) == CHIPS[3:]


@pytest.mark.parametrize(("small", "lost"), [(0.0, False), (3e-5, True), (5e-7, False)])
def test_a_weight_whose_norm_lies_below_normal_float16_is_lost_on_the_older_chips(small: float, lost: bool) -> None:
    weight = np.full((8, 8, 1, 1), small, HALF)
    weight[0, 0] = 1e-3
    program = one("conv", X, Y, {"w": weight}, weight="w")
    found = lint(program)
    assert rules(found) == ({"subnormal": ", ".join(CHIPS[:4])} if lost else {})
    assert eligible(found) == CHIPS
    assert [(s.weight, s.share) for s in subnormals(program)] == ([("w", 63 / 64)] if small else [])


def test_what_is_added_or_multiplied_by_element_is_not_lost() -> None:
    tiny: dict[str, Constant] = {"w": np.full((8, 8, 1, 1), 1e-3, HALF), "b": np.full(8, 3e-5, HALF)}
    assert rules(lint(one("conv", X, Y, tiny, weight="w", bias="b"))) == {}
    assert rules(lint(one("mul", X, Y, tiny, y="b"))) == {}


def test_a_dilated_convolution_is_in_doubt() -> None:
    constants: dict[str, Constant] = {"w": np.zeros((8, 8, 3, 3), HALF), "d": np.array([2, 2], INT)}
    assert rules(lint(one("conv", X, Y, constants, weight="w", dilations="d"))) == {"dilation": "all chips"}
    assert rules(lint(one("conv", X, Y, {**constants, "d": np.array([1, 1], INT)}, weight="w", dilations="d"))) == {}


def test_short_rows_are_slow_but_eligible_and_the_advice_is_for_channels_that_come_last() -> None:
    narrow = value("x", 1, 64, 16, 16), value("y", 1, 64, 16, 16)
    found = lint(one("conv", *narrow, {"w": np.zeros((64, 64, 3, 3), HALF)}, weight="w"))
    assert rules(found) == {"short rows": "all chips"}
    assert (found.findings[0].effect, found.findings[0].advice) == ("slower", "")
    assert eligible(found) == CHIPS
    last = lint(one("linear", value("x", 1, 576, 16), value("y", 1, 576, 24), {"w": np.zeros((24, 16))}, weight="w"))
    assert rules(last) == {"channels last": "all chips"}
    assert "(B, C, 1, S)" in last.findings[0].advice


def test_channels_are_followed_through_a_transpose() -> None:
    turned = value("t", 1, 64, 64, 8)
    operations = (
        Operation("transpose", {"x": ("x",), "perm": ("p",)}, (turned,)),
        Operation("relu", {"x": ("t",)}, (value("y", 1, 64, 64, 8),)),
    )
    found = lint(Program((X,), {"p": np.array([0, 2, 3, 1], INT)}, operations, ("y",), "CoreML6"))
    assert {f.rule: f.operations for f in found.findings} == {"channels last": 2}


def test_padding_that_weighs_nothing_is_not_worth_a_line() -> None:
    many = [("relu", "x", "a"), ("relu", "a", "b"), ("relu", "b", "c")]
    program = chain(*many)
    short = Operation("reduce_mean", {"x": ("c",)}, (value("d", 1, 8, 1, 1),))
    found = lint(Program((X,), {}, (*program.operations, short), ("d",), "CoreML6"))
    assert rules(found) == {"operation": CHIPS[0]}


def test_shares_are_by_flops_and_by_bytes() -> None:
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
    assert found.activations_mb == pytest.approx(9 * BYTES / 1e6)  # three times two float16 tensors, once two and one
    oldest, m1 = found.generations[:2]
    assert (m1.likely_eligible, m1.segments, m1.elsewhere) == (3, 1, ("c",))  # the last conv waits for nothing but `a`
    assert m1.flops_share == pytest.approx((total - elements) / total)
    assert m1.bytes_share == pytest.approx(6 / 9)
    assert m1.handed_over_mb == pytest.approx(3 * BYTES / 1e6)  # x goes in, b and d come out
    assert (oldest.likely_eligible, oldest.segments) == (2, 1)
    assert oldest.flops_share == pytest.approx(2 * conv / total)


def cut(*kinds: tuple[str, str, str]) -> tuple[int, float]:
    """Segments on the engine, and what is handed over, in tensors of float16."""
    program = chain(*kinds)
    on_engine = [all(v.islower() for v in (made, *given.split("+"))) for _, given, made in kinds]
    found = segments(program, on_engine)
    return found.on_engine, found.handed_over / BYTES


def test_segments_follow_the_data_and_not_the_order_of_the_file() -> None:
    engine_first = [("relu", "x", "a"), ("relu", "a", "b"), ("exp", "x", "C"), ("exp", "C", "D")]
    interleaved = [engine_first[i] for i in (0, 2, 1, 3)]
    assert cut(*engine_first) == cut(*interleaved) == (1, 1)  # x goes in; D, the output, is the host's


def test_the_engine_is_called_anew_for_what_waits_for_the_host() -> None:
    there_and_back = [("relu", "x", "a"), ("cast", "a", "B"), ("exp", "B", "C"), ("cast", "C", "d"), ("relu", "d", "e")]
    assert cut(*there_and_back) == (2, 4)  # x in, a out, d in, e out
    beside = [*there_and_back[:4], ("relu", "x", "f"), ("add", "d+f", "g")]
    assert cut(*beside) == (2, 4)  # f is computed with a, and waits on the engine


def test_what_many_take_is_handed_over_once() -> None:
    assert cut(("relu", "x", "a"), ("cast", "a", "B"), ("cast", "a", "C"), ("add", "B+C", "D")) == (1, 2)


def test_every_rule_names_sources_that_are_listed_with_their_addresses() -> None:
    for rule in RULES.values():
        assert [name for name in SOURCES if name in rule.sources], rule
        if rule.differs:
            assert [name for name in SOURCES if name in rule.differs], rule
    assert all(source.address.startswith("https://") for source in SOURCES.values())


def test_the_report_says_likely_and_why_and_what_to_do_and_who_says_so() -> None:
    lines = lint(one("softmax", X, Y)).lines()
    assert lines[0] == "Neural Engine, by rules of thumb, likely eligible of 0.00 GFLOP and 0 MB:"
    assert lines[1:3] == [
        "  A12/A13           0 of 1 operations, 0.0% of FLOPs, 0.0% of bytes; 0 segments, 0.0 MB handed over",
        "  A14/M1 and later  1 of 1 operations, 100.0% of FLOPs, 100.0% of bytes; 1 segment, 0.1 MB handed over",
    ]
    assert " ".join(line.strip() for line in lines[3:]) == (
        "operation: 1 likely elsewhere on A12/A13, 100.0% of FLOPs, 100.0% of bytes: not known to run there; let the host "
        "do it, or write it as convolutions and matrix products [guide 35 and A; otherwise hollance saw upsampling run and "
        "gathering not, without naming chips]"
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
