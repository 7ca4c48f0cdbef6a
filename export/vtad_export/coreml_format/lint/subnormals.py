"""Weights that float16 holds as subnormals: an engine that takes those for 0 in sums of products loses them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vtad_export.coreml_format.lint.generations import PRODUCTS, SMALLEST_NORMAL
from vtad_export.coreml_format.mlpackage import Operation, Program


@dataclass(frozen=True)
class Subnormal:
    """How much of a weight is subnormal."""

    weight: str
    share: float  # 0..1, of its numbers that are not 0
    of_norm: float  # 0..1: their Euclidean norm, of that of the weight


def subnormals(program: Program) -> tuple[Subnormal, ...]:
    """Every float16 weight of a sum of products that has some, by its name; the most of the norm first."""
    names = {name for op in program.operations for name in weights(op)}
    found = (subnormal(name, program) for name in names)
    return tuple(sorted((s for s in found if s and s.share), key=lambda s: (-s.of_norm, s.weight)))


def weights(op: Operation) -> list[str]:
    """What a sum of products multiplies, constants or not."""
    if op.kind not in PRODUCTS:
        return []
    return [name for key, names in op.arguments.items() if key != "bias" for name in names]


def subnormal(name: str, program: Program) -> Subnormal | None:
    """Of a constant; None where it is no float16 tensor."""
    held = program.constants.get(name)
    if not isinstance(held, np.ndarray) or held.dtype != np.float16:
        return None
    size = np.abs(held.astype(np.float64))
    small = size[(size > 0) & (size < SMALLEST_NORMAL)]
    norm = float(np.linalg.norm(size))
    there = max(1, int((size > 0).sum()))
    return Subnormal(name, small.size / there, float(np.linalg.norm(small)) / (norm or 1.0))
