"""Whether a program is a float32 program rounded: the same operations on the same values, constants except for rounding.

The float32 package is proven to the last digits; a float16 or int8 one can only be held to its drift, which would hide a
wrong epsilon. This comparison carries the tight proof over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtad_export.coreml_format.mlpackage import Operation, Program

FREE = "output_indices_dtype"  # of topk: its indices are not used, and their integer type follows the precision

Source = tuple[Operation, int]  # an operation and which of its outputs


def difference(half: Program, full: Program, *, same_precision: bool = False) -> str | None:
    """Where the programs part, in one line; None when `half` is `full` with casts and constants rounded.

    Walks both from their outputs to the input, casts of precision skipped. `same_precision`: nothing is skipped or rounded, and
    every type and shape is the same, so that both compute the same bits.
    """
    if len(half.outputs) != len(full.outputs):
        return f"{len(half.outputs)} outputs instead of {len(full.outputs)}"
    if same_precision:
        half = replace(half, steps={}, palettes={})
    made_half, made_full = _made(half), _made(full)
    pending = list(zip(half.outputs, full.outputs, strict=True))
    seen: set[tuple[str, str]] = set()
    while pending:
        a, b = pending.pop()
        if not same_precision:
            a, b = _uncast(a, made_half), _uncast(b, made_full)
        if (a, b) in seen:
            continue
        seen.add((a, b))
        if a not in made_half or b not in made_full:
            if not _same_given(a, b, half, full) or (same_precision and _type(a, half) != _type(b, full)):
                return f"{a} is not {b} of the float32 program"
            continue
        (op_a, output_a), (op_b, output_b) = made_half[a], made_full[b]
        arguments = [{k: len(v) for k, v in op.arguments.items() if k != FREE} for op in (op_a, op_b)]
        if (op_a.kind, output_a) != (op_b.kind, output_b) or arguments[0] != arguments[1]:
            return f"{op_a.kind} {a} is not {op_b.kind} {b} of the float32 program"
        if same_precision and _declared(op_a) != _declared(op_b):
            return f"{op_a.kind} {a} gives {_declared(op_a)} instead of {_declared(op_b)}"
        for key, names in op_a.arguments.items():
            if key == FREE or (key == "perm" and _same_order(names[0], op_b.arguments[key][0], half, full)):
                continue
            pending += zip(names, op_b.arguments[key], strict=True)
    return None


def _made(program: Program) -> dict[str, Source]:
    return {v.name: (op, i) for op in program.operations for i, v in enumerate(op.outputs)}


def _declared(op: Operation) -> str:
    """Types and shapes of what an operation gives."""
    return ", ".join(f"{v.dtype.__name__} {v.shape}" for v in op.outputs)


def _type(name: str, program: Program) -> object:
    """Of a constant or an input."""
    held = program.constants.get(name)
    if held is None:
        return next((v.dtype, v.shape) for v in program.inputs if v.name == name)
    return held.dtype if isinstance(held, np.ndarray) else str


def _uncast(name: str, made: dict[str, Source]) -> str:
    """The value that a chain of casts between floating types starts from."""
    while name in made and made[name][0].kind == "cast" and np.issubdtype(made[name][0].outputs[0].dtype, np.floating):
        name = made[name][0].arguments["x"][0]
    return name


def _same_order(a: str, b: str, half: Program, full: Program) -> bool:
    """The same order of axes, which are numbered from the front (0, 1) or from the back (-2, -1)."""
    x, y = half.constants.get(a), full.constants.get(b)
    return (
        isinstance(x, np.ndarray)
        and isinstance(y, np.ndarray)
        and x.shape == y.shape
        and bool((x % x.size == y % x.size).all())
    )


def _same_given(a: str, b: str, half: Program, full: Program) -> bool:
    """The same input, or constants that are equal after rounding."""
    x, y = half.constants.get(a), full.constants.get(b)
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        if a in half.steps:  # int8 rounds to the nearest step
            step = half.steps[a]
            of_step, of_largest = (np.spacing(v.astype(x.dtype)).astype(np.float32) for v in (step, 127 * step))
            rounding = (127 * of_step + 2 * of_largest) / 2  # of the step, of the constant before, of their product
            return x.shape == y.shape and bool((np.abs(x - y) <= 0.5 * step + rounding).all())
        if a in half.palettes:
            return x.shape == y.shape and _nearest(x.astype(np.float64), y, half.palettes[a].astype(np.float64))
        return x.shape == y.shape and x.tobytes() == _rounded(y, x).tobytes()
    if x is None and y is None:
        return a == b and a in {v.name for v in half.inputs}
    return isinstance(x, str) and x == y


def _nearest(x: NDArray[Any], y: NDArray[Any], palette: NDArray[Any]) -> bool:
    """Whether every number of a palettized constant is the palette's nearest to what it was, which float16 rounded first."""
    after = np.searchsorted(palette, y).clip(0, len(palette) - 1)
    best = np.minimum(np.abs(palette[after] - y), np.abs(palette[(after - 1).clip(0)] - y))
    rounding = 2.0 * np.spacing(np.abs(y).astype(np.float16)).astype(np.float64)
    return bool((np.abs(x - y) <= best + rounding).all())


def _rounded(y: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """`y` in the type of `like`. coremltools lets no number of a short constant vanish: it writes the least one of its sign."""
    with np.errstate(over="ignore"):
        rounded = y.astype(like.dtype)
    if like.dtype != np.float16:
        return rounded
    least = np.nextafter(np.float16(0), np.float16(1))
    kept = (y != 0) & (np.abs(rounded) <= least) & (np.abs(like) == least)
    return np.where(kept, np.copysign(least, y).astype(np.float16), rounded)
