"""Which axis of each tensor holds the channels, where that can be told from what computes it."""

from __future__ import annotations

import numpy as np

from vtad_export.coreml_format.mlpackage import Operation, Program

_CHANNELS_FIRST = {
    "avg_pool",
    "batch_norm",
    "conv",
    "conv_transpose",
    "max_pool",
    "pixel_shuffle",
    "pixel_unshuffle",
    "upsample_bilinear",
    "upsample_nearest_neighbor",
}


def channel_axes(program: Program) -> dict[str, int]:
    """The axis of the channels by tensor; a tensor of which it is not known is left out."""
    axes = {value.name: 1 for value in program.inputs if len(value.shape) == 4}
    ranks = {name: len(value.shape) for name, value in program.declared().items()}
    for op in program.operations:
        axis = _axis(op, program, axes, ranks)
        if axis is not None:
            axes.update((made.name, axis) for made in op.outputs)
    return axes


def _axis(op: Operation, program: Program, axes: dict[str, int], ranks: dict[str, int]) -> int | None:
    """The axis of the channels in what an operation gives."""
    rank = len(op.outputs[0].shape)
    if op.kind in _CHANNELS_FIRST:
        return 1
    if op.kind == "linear":
        return rank - 1
    known = [axes[n] for names in op.arguments.values() for n in names if n in axes and ranks[n] == rank]
    if op.kind == "layer_norm":
        over = program.constants.get(op.arguments.get("axes", ("",))[0])
        return int(np.ravel(over)[0]) % rank if isinstance(over, np.ndarray) and over.size == 1 else None
    if not known or op.kind in ("reshape", "matmul", "einsum", "scaled_dot_product_attention"):
        return None
    if op.kind == "transpose":
        order = program.constants.get(op.arguments["perm"][0])
        return [int(a) % rank for a in order].index(known[0]) if isinstance(order, np.ndarray) else None
    return known[0]
