"""Damage to bytes, by seed: what disks, cables and programs do to files. `make fuzz` asks for more of it than `make test`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

ROUNDS = int(os.environ.get("VTAD_FUZZ_ROUNDS", "40"))  # of each kind of file
SEED = int(os.environ.get("VTAD_FUZZ_SEED", "0"))


def damaged(whole: bytes, kind: int, rounds: int = ROUNDS) -> Iterator[bytes]:
    """`rounds` damaged copies; `kind` is any number that tells this series from others."""
    for number in range(rounds):
        rng = np.random.default_rng((SEED, kind, number))
        yield _damage(whole, rng)


def _damage(whole: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            break
        at, sort = int(rng.integers(len(data))), int(rng.integers(7))
        size = min(len(data) - at, 1 << int(rng.integers(0, 12)))
        if sort == 0:  # single bits
            for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
                data[place] ^= 1 << int(rng.integers(8))
        elif sort == 1:  # cut off
            del data[at:]
        elif sort == 2:  # a hole of zeros, as after a power cut
            data[at : at + size] = bytes(size)
        elif sort == 3:  # a piece missing
            del data[at : at + size]
        elif sort == 4:  # a piece twice
            data[at:at] = data[at : at + size]
        elif sort == 5:  # noise
            data[at : at + size] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        else:  # noise behind the end
            data += rng.integers(0, 256, size, dtype=np.uint8).tobytes()
    return bytes(data)


@contextmanager
def or_one_line(kind: type[Exception]) -> Iterator[None]:
    """What is inside may fail with an error of this kind, whose text is one line, and with no other."""
    try:
        yield
    except kind as e:
        text = str(e)
        if "\n" in text or not text:
            raise AssertionError(f"expected one line, got {text!r}") from e
