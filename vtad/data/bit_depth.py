"""How many bits of 16 the camera uses, decided once for a category: its highest value is white, in training and at the line.

Cameras of 12 bits save them in files of 16, where nothing is ever above 4095. Taken as 16 bits such pictures are almost black.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vtad.config import FULL_SCALES, Bits
from vtad.data.layout import DataError
from vtad_runtime.contract.image import ImageError, sixteen_bit_peak

DARK = 4  # good pictures whose highest value is so many times below white come out dark


@dataclass(frozen=True)
class BitDepth:
    """What was decided for a category."""

    bits: Bits
    note: str | None  # one line; None where no good picture has 16 bits


def bit_depth(files: Sequence[Path], bits: Bits = "auto") -> BitDepth:
    """The rule, over the readable ones of the good pictures: 12 where none of 16 bits has a value above 4095, else 16.

    `bits` decides where it is given. Raises DataError where a picture has a value above its white.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = zip(pool.map(_peak, files), files, strict=True)
        peak, file = max(((peak, file) for peak, file in found if peak is not None), default=(None, None))
    if peak is None:
        return BitDepth(16 if bits == "auto" else bits, None)
    chosen: Bits = bits if bits != "auto" else 12 if peak <= FULL_SCALES[12] else 16
    white, fitting = FULL_SCALES[chosen], next(b for b, highest in FULL_SCALES.items() if peak <= highest)
    if peak > white:
        raise DataError(f"{file}: expected values up to {white} (--bits {bits}), got {peak}; give --bits {fitting}")
    note = f"pictures of 16 bits: the highest value is {peak}; taken as {chosen} bits, so {white} is white"
    if DARK * peak <= white:
        note += f"; they come out dark: for a camera of {fitting} bits, vtad-train --bits {fitting}"
    return BitDepth(chosen, note)


def _peak(file: Path) -> int | None:
    try:
        return sixteen_bit_peak(file)
    except ImageError:
        return None  # whoever decodes it says so
