"""What an operation costs: floating-point operations, and bytes of activations read and written."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vtad_export.coreml_format.mlpackage import Operation, Program, Value

ALIGNED = 32  # float16 values in 64 bytes

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


def taken(op: Operation, values: dict[str, Value]) -> Iterator[Value]:
    """The activations that an operation reads, each once."""
    yield from (values[n] for n in dict.fromkeys(n for names in op.arguments.values() for n in names) if n in values)


def size(value: Value) -> int:
    """Bytes."""
    return math.prod(value.shape) * np.dtype(value.dtype).itemsize


def padding(value: Value) -> int:
    """Bytes that fill the rows of a float16 tensor up to ALIGNED values, where rows are not joined."""
    rows, length = math.prod(value.shape[:-1]), value.shape[-1] if value.shape else ALIGNED
    return rows * (-length % ALIGNED) * 2


def traffic(op: Operation, values: dict[str, Value]) -> int:
    """Bytes of activations that an operation reads and writes; weights are not among them."""
    return sum(map(size, (*taken(op, values), *op.outputs)))


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
        case "einsum":  # nchw,nwhu->nchu: w is summed over
            return 2.0 * out * shape("values")[-1]
        case "scaled_dot_product_attention":
            return 2.0 * math.prod(shape("query")) * shape("key")[-2] + 2.0 * out * shape("value")[-2]
        case kind if kind in _MOVES:
            return 0.0
        case _:
            return float(max(out, math.prod(shape("x")) if "x" in op.arguments else 0))
