"""Neural Engine lint: which operations of a package likely run on it, which not, why, and what to do. Advisory only.

Apple publishes no rules; these are rules of thumb from its own transformer reference ("Deploying Transformers on the Apple
Neural Engine", 2022) and from what placement reports show on A14/M1 and later. Only a Mac or a phone decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vtad_export.mlpackage import Operation, Program, Value

MAX_RANK = 4
MAX_SIDE = 16384
MAX_KERNEL = 13  # older chips (before A14/M1) fall back above it
ALIGNED = 32  # float16 values in the 64 bytes that a row is padded to


@dataclass(frozen=True)
class Finding:
    """One rule and the operations it holds against."""

    rule: str
    off_engine: bool  # likely falls back to GPU or CPU; otherwise likely slow, or slow on older chips
    operations: int
    flops_share: float  # 0..1
    example: str  # an operation, as in the program
    reason: str
    advice: str


@dataclass(frozen=True)
class Lint:
    """The advisory report."""

    operations: int
    likely_eligible: int
    gflops: float  # of one image
    flops_share: float  # 0..1, of the operations likely eligible
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Rule:
    off_engine: bool
    reason: str
    advice: str


_RULES = {
    "float32": _Rule(
        True,
        "the Neural Engine computes in float16",
        "kept on purpose where float16 would cancel (likelihood, SSIM, score); elsewhere export with --precision fp16",
    ),
    "rank": _Rule(
        True, f"tensors have at most {MAX_RANK} axes there", "split heads or groups into separate tensors of rank 4"
    ),
    "side": _Rule(True, f"an axis has at most {MAX_SIDE} elements there", "use a smaller picture or fewer tokens"),
    "operation": _Rule(True, "not known to run there", "let the host do it, or write it as convolutions"),
    "reflect": _Rule(True, "padding by reflection falls back on older chips", "pad with zeros where float16 allows it"),
    "kernel": _Rule(
        False,
        f"kernels above {MAX_KERNEL} fall back on chips before A14/M1",
        "write a patch convolution as pixel_unshuffle and a 1x1 convolution",
    ),
    "last axis": _Rule(
        False,
        f"rows are padded to {ALIGNED} float16 values, so a shorter last axis wastes memory and time",
        "put tokens or pixels last, channels before: (B, C, 1, S)",
    ),
}

_OFF_ENGINE_KINDS = {"topk", "gather", "gather_nd", "scatter", "erf", "reduce_log_sum_exp", "upsample_bilinear", "sort"}
_MOVES = {
    "cast",
    "concat",
    "expand_dims",
    "identity",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reshape",
    "slice_by_index",
    "split",
    "squeeze",
    "topk",
    "transpose",
    "upsample_nearest_neighbor",
}


def lint(program: Program) -> Lint:
    """Judge every operation of a program."""
    values = program.declared()
    work = {op.outputs[0].name: flops(op, program, values) for op in program.operations}
    total = sum(work.values()) or 1.0
    against: dict[str, list[Operation]] = {}
    off: set[str] = set()
    for op in program.operations:
        for rule in _broken(op, program, values):
            against.setdefault(rule, []).append(op)
            if _RULES[rule].off_engine:
                off.add(op.outputs[0].name)
    findings = tuple(
        Finding(
            rule=name,
            off_engine=rule.off_engine,
            operations=len(ops),
            flops_share=sum(work[op.outputs[0].name] for op in ops) / total,
            example=f"{ops[0].kind} {ops[0].outputs[0].name}",
            reason=rule.reason,
            advice=rule.advice,
        )
        for name, rule in _RULES.items()
        if (ops := against.get(name))
    )
    return Lint(
        operations=len(program.operations),
        likely_eligible=len(program.operations) - len(off),
        gflops=total / 1e9,
        flops_share=1 - sum(work[name] for name in off) / total,
        findings=findings,
    )


def flops(op: Operation, program: Program, values: dict[str, Value]) -> float:  # noqa: PLR0911 - one per kind
    """Floating-point operations: two a multiplication with addition, one an element otherwise, none for moving data."""
    out = math.prod(op.outputs[0].shape)

    def shape(argument: str) -> tuple[int, ...]:
        name = op.arguments[argument][0]
        constant = program.constants.get(name)
        return constant.shape if isinstance(constant, np.ndarray) else values[name].shape

    match op.kind:
        case "conv":
            return 2.0 * out * math.prod(shape("weight")[1:])
        case "conv_transpose":
            return 2.0 * math.prod(shape("x")) * math.prod(shape("weight")[1:])
        case "linear":
            return 2.0 * out * shape("weight")[1]
        case "matmul":
            flipped = program.constants.get(op.arguments.get("transpose_x", ("",))[0])
            return 2.0 * out * shape("x")[-2 if flipped is not None and bool(flipped) else -1]
        case "scaled_dot_product_attention":
            return 2.0 * math.prod(shape("query")) * shape("key")[-2] + 2.0 * out * shape("value")[-2]
        case kind if kind in _MOVES:
            return 0.0
        case _:
            return float(max(out, math.prod(shape("x")) if "x" in op.arguments else 0))


def _broken(op: Operation, program: Program, values: dict[str, Value]) -> Iterator[str]:
    """The rules that an operation breaks."""
    tensors = [*op.outputs, *(values[n] for names in op.arguments.values() for n in names if n in values)]
    if any(v.dtype is np.float32 for v in tensors):
        yield "float32"
    if any(len(v.shape) > MAX_RANK for v in tensors):
        yield "rank"
    if any(side > MAX_SIDE for v in tensors for side in v.shape):
        yield "side"
    if op.kind in _OFF_ENGINE_KINDS:
        yield "operation"
    if op.kind == "pad" and program.constants.get(op.arguments.get("mode", ("",))[0]) == "reflect":
        yield "reflect"
    if op.kind == "conv":
        weight = program.constants.get(op.arguments["weight"][0])
        if isinstance(weight, np.ndarray) and max(weight.shape[2:]) > MAX_KERNEL:
            yield "kernel"
    half = [v for v in tensors if v.dtype is np.float16 and v.shape]
    if half and op.kind not in ("reshape", "cast") and any(v.shape[-1] < ALIGNED for v in half):
        yield "last axis"
