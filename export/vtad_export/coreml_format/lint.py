"""Neural Engine lint: which operations of a package likely run on it, which not, why, and what to do. Advisory only.

Apple publishes no table of what its Neural Engine runs, so every rule names where it comes from:
[1] Apple, "Deploying Transformers on the Apple Neural Engine", 2022, and apple/ml-ane-transformers: layout, rank, last axis.
[2] sbryngelson/ane-guide, chapters 4, 17 and 35, appendix A: limits and operations by generation, read from the compiler's
    tables and measured on an M1, an M2 and an M5; the rest is predicted from those tables.
[3] hollance/neural-engine, docs/supported-devices.md: which chips share an engine. What it says of the M3 differs from [2];
    the rules below are the same for both readings.
"Likely eligible" is all that rules can say; only a Mac or a phone decides (vtad-export --device-check). A shape that varies
never gets here: `read_program` refuses it.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vtad_export.coreml_format.mlpackage import Operation, Program, Value


@dataclass(frozen=True)
class Generation:
    """Engines that the rules treat alike."""

    chips: str
    max_side: int  # elements of one axis [2]
    max_kernel_width: int  # of a float16 convolution [2]
    max_kernel_height: int  # [2]


GENERATIONS = (
    Generation("A12/A13", 16384, 13, 29),
    Generation("A14/M1", 16384, 13, 29),
    Generation("A15/M2", 16384, 16, 32),
    Generation("A16/M3", 16384, 16, 32),
    Generation("A17 Pro/M4 and later", 65536, 16, 32),
)
COLUMNS = 116  # of the report
A12, A14, A15 = 0, 1, 2
REFERENCE = A14  # the generation that `Lint.likely_eligible` and `Lint.flops_share` speak of

MAX_RANK = 4  # [1]; [2] measured five, but neither convolution nor matrix product takes more than four
ALIGNED = 32  # float16 values in the 64 bytes that the last axis is padded to [1]

# The first generation that runs an operation, after [2], chapter 35 (families) and appendix A (operations).
_FIRST = {
    A12: "abs add avg_pool cast clip concat conv conv_transpose exp gelu identity linear log matmul max_pool maximum "
    "minimum mul pad relu relu6 sigmoid slice_by_index softplus split square sub tanh transpose",
    # Before that there is no reshape but a flatten, no division by a tensor, no reduction, no shuffle of pixels.
    A14: "batch_norm erf expand_dims instance_norm layer_norm pixel_shuffle pixel_unshuffle real_div reduce_log_sum_exp "
    "reduce_max reduce_mean reduce_min reduce_sum reshape rsqrt scaled_dot_product_attention softmax sqrt squeeze",
    # The sampling hardware: until then resizing, gathering and sorting are done in software.
    A15: "gather gather_along_axis resize_bilinear resize_nearest_neighbor topk upsample_bilinear "
    "upsample_nearest_neighbor",
}
FIRST_GENERATION = {kind: first for first, kinds in _FIRST.items() for kind in kinds.split()}


@dataclass(frozen=True)
class Finding:
    """One rule and the operations it holds against, on some generations."""

    rule: str
    chips: str  # "all chips", or the generations up to which it holds
    off_engine: bool  # likely runs on GPU or CPU there; otherwise likely slow
    operations: int
    flops_share: float  # 0..1
    example: str  # an operation, as in the program
    reason: str
    advice: str


@dataclass(frozen=True)
class Share:
    """What one generation likely runs on its engine."""

    chips: str
    likely_eligible: int  # operations
    flops_share: float  # 0..1, of those
    pieces: int  # runs of such operations with others between them: each is a hand-over, which costs time


@dataclass(frozen=True)
class Lint:
    """The advisory report."""

    operations: int
    gflops: float  # of one image
    likely_eligible: int  # on A14/M1
    flops_share: float  # 0..1, on A14/M1
    generations: tuple[Share, ...]
    findings: tuple[Finding, ...]

    def lines(self) -> list[str]:
        """The report as text: a line for generations that are alike, two or three for a finding."""
        alike = self._alike()
        width = max(len(chips) for chips, _ in alike)
        shares = [
            f"  {chips:<{width}}  {s.likely_eligible} of {self.operations} operations, {s.flops_share:.1%} of "
            f"{self.gflops:.2f} GFLOP, in {s.pieces} piece{'' if s.pieces == 1 else 's'}"
            for chips, s in alike
        ]
        found = []
        for f in self.findings:
            text = (
                f"{f.rule}: {f.operations} {'likely elsewhere' if f.off_engine else 'likely slower'} on {f.chips}, "
                f"{f.flops_share:.1%} of FLOPs: {f.reason}; {f.advice}"
            )
            found += textwrap.wrap(text, COLUMNS, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
        return ["Neural Engine, by rules of thumb, likely eligible:", *shares, *found]

    def _alike(self) -> list[tuple[str, Share]]:
        """Generations in a row with the same shares, under one name."""
        runs: list[list[Share]] = []
        for share in self.generations:
            if runs and dataclasses.replace(share, chips="") == dataclasses.replace(runs[-1][-1], chips=""):
                runs[-1].append(share)
            else:
                runs.append([share])
        newest = self.generations[-1]
        named = []
        for run in runs:
            first, last = run[0].chips, run[-1].chips
            if len(run) == 1:
                named.append((first, run[0]))
            else:
                named.append((f"{first} and later" if run[-1] is newest else f"{first} to {last}", run[0]))
        return named


@dataclass(frozen=True)
class _Rule:
    off_engine: bool
    reason: str
    advice: str


_RULES = {
    "dtype": _Rule(
        True,
        "the Neural Engine computes in float16",
        "kept on purpose where float16 would cancel (likelihood, SSIM, score); elsewhere export with --precision fp16",
    ),
    "rank": _Rule(
        True, f"tensors have at most {MAX_RANK} axes there", "split heads or groups into separate tensors of rank 4"
    ),
    "side": _Rule(True, "an axis is too long there", "use a smaller picture or fewer tokens"),
    "kernel": _Rule(
        True, "the kernel is too large there", "write a patch convolution as pixel_unshuffle and a 1x1 convolution"
    ),
    "reflect": _Rule(True, "padding by reflection needs hardware that is not there", "pad with a constant"),
    "operation": _Rule(
        True, "not known to run there", "let the host do it, or write it as convolutions and matrix products"
    ),
    "last axis": _Rule(
        False,
        f"rows are padded to {ALIGNED} float16 values, so a shorter last axis wastes memory and time",
        "put tokens or pixels last, channels before: (B, C, 1, S)",
    ),
}

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
    """Judge every operation of a program, for every generation."""
    values = program.declared()
    work = {op.outputs[0].name: flops(op, program, values) for op in program.operations}
    total = sum(work.values()) or 1.0
    last: dict[str, dict[str, int]] = {}  # operation -> rule -> the last generation that it breaks the rule on
    for op in program.operations:
        for number, generation in enumerate(GENERATIONS):
            for rule in _broken(op, program, values, number, generation):
                last.setdefault(op.outputs[0].name, {})[rule] = number
    shares = tuple(_share(program, number, last, work, total) for number in range(len(GENERATIONS)))
    return Lint(
        operations=len(program.operations),
        gflops=total / 1e9,
        likely_eligible=shares[REFERENCE].likely_eligible,
        flops_share=shares[REFERENCE].flops_share,
        generations=shares,
        findings=tuple(_findings(program, last, work, total)),
    )


def _share(
    program: Program, number: int, last: dict[str, dict[str, int]], work: dict[str, float], total: float
) -> Share:
    """What generation `number` likely runs on its engine."""
    eligible = [
        not any(_RULES[rule].off_engine and until >= number for rule, until in last.get(op.outputs[0].name, {}).items())
        for op in program.operations
    ]
    done = sum(
        work[op.outputs[0].name] for op, on_engine in zip(program.operations, eligible, strict=True) if on_engine
    )
    starts = [on_engine and not before for before, on_engine in zip([False, *eligible], eligible, strict=False)]
    return Share(GENERATIONS[number].chips, sum(eligible), done / total, sum(starts))


def _findings(
    program: Program, last: dict[str, dict[str, int]], work: dict[str, float], total: float
) -> Iterator[Finding]:
    """One for each rule and set of generations, the widest set first."""
    for name, rule in _RULES.items():
        for until in reversed(range(len(GENERATIONS))):
            against = [op for op in program.operations if last.get(op.outputs[0].name, {}).get(name) == until]
            if not against:
                continue
            chips = [g.chips for g in GENERATIONS[: until + 1]]
            yield Finding(
                rule=name,
                chips="all chips" if len(chips) == len(GENERATIONS) else ", ".join(chips),
                off_engine=rule.off_engine,
                operations=len(against),
                flops_share=sum(work[op.outputs[0].name] for op in against) / total,
                example=f"{against[0].kind} {against[0].outputs[0].name}",
                reason=rule.reason,
                advice=rule.advice,
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


def _broken(
    op: Operation, program: Program, values: dict[str, Value], number: int, generation: Generation
) -> Iterator[str]:
    """The rules that an operation breaks on one generation."""
    tensors = [*op.outputs, *(values[n] for names in op.arguments.values() for n in names if n in values)]
    if any(v.dtype not in (np.float16, np.bool_) for v in tensors):
        yield "dtype"
        return  # elsewhere already: what else it is does no harm
    if any(len(v.shape) > MAX_RANK for v in tensors):
        yield "rank"
    if any(side > generation.max_side for v in tensors for side in v.shape):
        yield "side"
    if number < FIRST_GENERATION.get(op.kind, len(GENERATIONS)):
        yield "operation"
    if op.kind == "pad" and number < A15 and _text(op, program, "mode") in ("reflect", "symmetric"):
        yield "reflect"
    weight = program.constants.get(op.arguments.get("weight", ("",))[0])
    if op.kind == "conv" and isinstance(weight, np.ndarray):
        height, width = weight.shape[2:]
        if width > generation.max_kernel_width or height > generation.max_kernel_height:
            yield "kernel"
    shaped = [v for v in tensors if v.shape]
    if op.kind != "reshape" and any(v.shape[-1] < ALIGNED for v in shaped):
        yield "last axis"


def _text(op: Operation, program: Program, argument: str) -> str:
    """A constant argument that is a string; "" where there is none."""
    value = program.constants.get(op.arguments.get(argument, ("",))[0])
    return value if isinstance(value, str) else ""
