"""The rules: what an operation breaks on a generation of engines, what follows, what to do, who says so and who differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vtad_export.coreml_format.lint.generations import (
    A15,
    A16,
    FIRST_GENERATION,
    GENERATIONS,
    MAX_CHANNELS,
    SMALLEST_NORMAL,
    Generation,
)
from vtad_export.coreml_format.lint.layout import channel_axes
from vtad_export.coreml_format.lint.subnormals import subnormals, weights
from vtad_export.coreml_format.lint.work import ALIGNED, taken
from vtad_export.coreml_format.mlpackage import Constant, Operation, Program, Value

MAX_RANK = 4
CROP_LIMIT = (
    65504 / 16
)  # of a value that goes through a fixed-point format with four fractional bits: guide, chapter 19

LOST = 0.01  # of the norm of a weight: float16 itself rounds by a twentieth of that

Effect = Literal["elsewhere", "slower", "no faster", "infinite", "inexact", "doubtful"]


@dataclass(frozen=True)
class Rule:
    """One rule of thumb."""

    # Likely on GPU or CPU; slow; gives infinity; loses digits; or eligible by one source and not by another.
    effect: Effect
    reason: str
    advice: str  # "" where there is nothing to do
    sources: str  # names of `sources.SOURCES`, with chapters
    differs: str = ""  # who says otherwise, and what


_FLOAT16 = "typed execution; hollance, 16-bit; guide 3"
RULES = {
    "slice": Rule(
        "infinite",
        f"a slice that starts within a row is copied times 16, so values beyond {CROP_LIMIT:.0f} become infinite",
        "let the slice start at 0, or put what is sliced off at the end",
        "guide 19 and 35",
        "guide 35 sees the danger on all chips up to the A17, guide 19 on the M1 and M2 families alone",
    ),
    "subnormal": Rule(
        "inexact",
        f"weights below {SMALLEST_NORMAL:.1e} are taken for 0 in sums of products, here {LOST:.0%} of a weight's norm or more",
        "store the weight larger by a power of two, and divide the sum by it",
        "guide 3: measured on the M1",
        "guide 3 saw the M5 keep them; the chips between are not known",
    ),
    "dtype": Rule(
        "elsewhere",
        "the Neural Engine computes in float16",
        "export with --precision fp16",
        _FLOAT16,
    ),
    "exact": Rule(
        "elsewhere",
        "the Neural Engine computes in float16, which would cancel here: kept in float32 on purpose",
        "",
        _FLOAT16,
    ),
    "int8 activations": Rule(
        "elsewhere",
        "activations in int8 are known to be faster from the A16 on",
        "",
        "quantization: measured on the A16 and A17 Pro, where products of int8 by int8 are faster still",
        "guide 17: activations are float16 on all chips",
    ),
    "rank": Rule(
        "elsewhere",
        f"tensors have at most {MAX_RANK} axes there",
        "split heads or groups into separate tensors of rank 4",
        "Apple, principle 1; ml-ane",
        "guide 17 and issue 1723 allow five, though no product or convolution takes five",
    ),
    "side": Rule("elsewhere", "an axis is too long there", "use a smaller picture or fewer tokens", "guide 17"),
    "kernel": Rule(
        "elsewhere",
        "the kernel is too large there",
        "write a patch convolution as pixel_unshuffle and a 1x1 convolution",
        "guide A",
    ),
    "reflect": Rule(
        "elsewhere",
        "padding by reflection needs hardware that is not there",
        "pad with a constant",
        "guide 17",
    ),
    "pad": Rule("elsewhere", "only rows and columns are padded there", "concatenate a constant", "guide 17"),
    "operation": Rule(
        "elsewhere",
        "not known to run there",
        "let the host do it, or write it as convolutions and matrix products",
        "guide 35 and A",
        "hollance saw upsampling run and gathering not, without naming chips",
    ),
    "dilation": Rule(
        "doubtful",
        "dilated convolutions run by the guide, and do not by hollance",
        "look with vtad-export --device-check",
        "guide 17",
        "hollance, unsupported-layers",
    ),
    "pool": Rule(
        "doubtful",
        "pooling by steps of more than 2, or over more than 13, runs by the guide, and does not by hollance",
        "look with vtad-export --device-check",
        "guide A: windows up to 29, from the M2 on 31",
        "hollance, unsupported-layers",
    ),
    "int8 weights": Rule(
        "no faster",
        "int8 weights are expanded to float16 before the engine reads them: the file is smaller, and that is all",
        "",
        "guide 7",
        "quantization measured little or no gain on the A16 and A17 Pro either",
    ),
    "channels last": Rule(
        "slower",
        f"rows are padded to 64 bytes, {ALIGNED} float16 values, and channels make short ones",
        "put tokens or pixels last, channels before: (B, C, 1, S)",
        "Apple, principle 1",
        "guide 17 has 16 bytes",
    ),
    "short rows": Rule(
        "slower",
        f"rows are padded to 64 bytes, {ALIGNED} float16 values; the layout is channels first already",
        "",
        "Apple, principle 1",
        "guide 17 has 16 bytes, so that 8, 16 or 24 values cost nothing",
    ),
}


class Checker:
    """Says which rules an operation of a program breaks.

    `largest`: the largest magnitude of each tensor that was seen when the program was executed. A tensor that is not in it may
    have any.
    """

    def __init__(self, program: Program, largest: Mapping[str, float]) -> None:
        self.values = program.declared()
        self._constants = program.constants
        self._channels = channel_axes(program)
        self._largest = largest
        self._int8 = program.steps.keys()
        self._lost = {s.weight for s in subnormals(program) if s.of_norm >= LOST}
        self._mixed = any(v.dtype is np.float16 for v in self.values.values())  # someone chose where

    def broken(self, op: Operation, number: int) -> Iterator[str]:
        """Names of the rules that `op` breaks on generation `number`."""
        generation = GENERATIONS[number]
        tensors = [*op.outputs, *taken(op, self.values)]
        if any(v.dtype not in (np.float16, np.bool_, np.int8, np.uint8) for v in tensors):
            yield "exact" if self._mixed else "dtype"
            return  # elsewhere already: what else it is does no harm
        if number < A16 and any(v.dtype in (np.int8, np.uint8) for v in tensors):
            yield "int8 activations"
        if any(len(v.shape) > MAX_RANK for v in tensors):
            yield "rank"
        if any(_too_long(v, generation) for v in tensors):
            yield "side"
        if number < FIRST_GENERATION.get(op.kind, len(GENERATIONS)):
            yield "operation"
        match op.kind:
            case "slice_by_index" | "split" if generation.crops_in_fixed_point and self._starts_within_a_row(op):
                if self._largest.get(op.arguments["x"][0], np.inf) > CROP_LIMIT:
                    yield "slice"
            case "pad":
                yield from self._pad(op, number)
            case "conv":
                yield from self._conv(op, generation)
            case "avg_pool" | "max_pool":
                if max(self._ints(op, "strides"), default=1) > 2 or max(self._ints(op, "kernel_sizes"), default=1) > 13:
                    yield "pool"
        if generation.flushes and any(name in self._lost for name in weights(op)):
            yield "subnormal"
        if number < A15 and any(name in self._int8 for names in op.arguments.values() for name in names):
            yield "int8 weights"
        yield from self._rows(op, tensors)

    def _pad(self, op: Operation, number: int) -> Iterator[str]:
        if number < A15 and self._constant(op, "mode") in ("reflect", "symmetric"):
            yield "reflect"
        if any(self._ints(op, "pad")[:-4]):
            yield "pad"

    def _conv(self, op: Operation, generation: Generation) -> Iterator[str]:
        weight = self._constant(op, "weight")
        if isinstance(weight, np.ndarray):
            height, width = weight.shape[2:]
            if width > generation.max_kernel_width or height > generation.max_kernel_height:
                yield "kernel"
        if max(self._ints(op, "dilations"), default=1) > 1:
            yield "dilation"

    def _rows(self, op: Operation, tensors: list[Value]) -> Iterator[str]:
        """Rows that are shorter than the padding. A reshape only reads and writes what others pay for."""
        short = [v for v in tensors if v.shape and v.shape[-1] < ALIGNED]
        if not short or op.kind == "reshape":
            return
        last = any(self._channels.get(v.name) == len(v.shape) - 1 for v in short)
        yield "channels last" if last else "short rows"

    def _starts_within_a_row(self, op: Operation) -> bool:
        """Whether a slice does, or any part but the first of what is split."""
        if op.kind == "split":
            return self._ints(op, "axis")[0] in (-1, len(op.outputs[0].shape) - 1)
        begin, mask = self._ints(op, "begin"), self._ints(op, "begin_mask")
        return bool(begin) and begin[-1] != 0 and not (mask and mask[-1])

    def _constant(self, op: Operation, argument: str) -> Constant | None:
        return self._constants.get(op.arguments.get(argument, ("",))[0])

    def _ints(self, op: Operation, argument: str) -> list[int]:
        """A constant argument that is a list of integers; empty where there is none."""
        value = self._constant(op, argument)
        return [int(v) for v in np.ravel(value)] if isinstance(value, np.ndarray) else []


def _too_long(value: Value, generation: Generation) -> bool:
    outer, plane = value.shape[:-2], value.shape[-2:]
    return any(side > generation.max_side for side in plane) or any(side > MAX_CHANNELS for side in outer)
