"""Reference execution of a saved Core ML package, off a Mac: every operation in numpy, every declared shape checked.

It is no device proof: it says that the program in the file computes what torch computes, not how a chip rounds. A value
declared float16 is rounded to float16 where the operation gives it; inside an operation sums are kept in float32 (so does
the Neural Engine, as far as is known). Elementwise float16 arithmetic is thereby exactly that of IEEE 754. What the M1 is known
to do otherwise in sums of products can be asked for: subnormal numbers are 0 there (sbryngelson/ane-guide, chapter 3).
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vtad_export.coreml_format.lint.generations import PRODUCT_LIMIT, PRODUCTS, SMALLEST_NORMAL
from vtad_export.coreml_format.mil_ops import OPERATIONS, Unsupported
from vtad_export.coreml_format.mlpackage import Constant, Operation, PackageError, Program, read_program

REFERENCE = "reference execution, not device proof"
FLOAT16_LIMIT = 65504.0


def rounded(x: NDArray[Any]) -> NDArray[np.float32]:
    """Values rounded to the nearest float16 (ties to even, overflow to infinity), held in float32."""
    wide = torch.from_numpy(np.require(x, np.float32, requirements=("C", "W")))
    return wide.half().float().numpy()  # as numpy's astype(float16), ten times faster


@dataclass
class Peak:
    """The largest magnitude seen of every float16 activation, and its limit; infinity and NaN count as infinity."""

    largest: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def see(self, name: str, x: NDArray[Any], limit: float) -> None:
        """Take note of a value that may be `limit` at most."""
        found = max(float(x.max()), -float(x.min())) if x.size else 0.0
        found = found if np.isfinite(found) else float("inf")
        with self._changing:
            self.largest[name], self.limits[name] = max(found, self.largest.get(name, 0.0)), limit

    @property
    def name(self) -> str:
        """The activation that comes nearest to its limit, or is the farthest beyond; "" before any was seen."""
        return max(self.largest, key=lambda name: self.largest[name] / self.limits[name], default="")

    @property
    def value(self) -> float:
        """Its magnitude."""
        return self.largest.get(self.name, 0.0)

    @property
    def limit(self) -> float:
        """What it may be: half as much where products are summed, as on the M1."""
        return self.limits.get(self.name, FLOAT16_LIMIT)


@dataclass
class Executor:
    """A package read back from disk. `flushed`: sums of products take and give 0 for subnormal float16 numbers."""

    program: Program
    flushed: bool = False
    peak: Peak = field(default_factory=Peak)

    @staticmethod
    def load(path: Path) -> Executor:
        """Read a function of a package and check that every operation is known. Raises PackageError."""
        program = read_program(path)
        if unknown := sorted({op.kind for op in program.operations} - OPERATIONS.keys()):
            raise PackageError(f"{path}: the reference executor does not know the operation {', '.join(unknown)}")
        _check_precisions(program)
        return Executor(program)

    def __post_init__(self) -> None:
        self._constants = {name: self._widened(value) for name, value in self.program.constants.items()}
        self._last_use: dict[str, int] = {}
        for number, op in enumerate(self.program.operations):
            for names in op.arguments.values():
                self._last_use.update(dict.fromkeys(names, number))
        self._last_use.update(dict.fromkeys(self.program.outputs, len(self.program.operations)))

    def __call__(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(B, 3, H, W) uint8 -> outputs by name, joined along the first axis; the package runs one image at a time."""
        # The operations are small: a thread an image, not threads that wait for each other within one operation.
        workers = min(len(pixels), os.cpu_count() or 1)
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                runs = list(pool.map(self.run, pixels[:, None].astype(np.float32)))
        finally:
            torch.set_num_threads(threads)
        return {name: np.concatenate([r[name] for r in runs]) for name in runs[0]}

    def run(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """One image (1, 3, H, W), 0..255. Raises PackageError where a value is not as declared."""
        (given,) = self.program.inputs
        if image.shape != given.shape:
            raise PackageError(f"input {given.name}: expected shape {given.shape}, got {image.shape}")
        values: dict[str, Any] = {given.name: rounded(image) if given.dtype is np.float16 else image}
        with np.errstate(all="ignore"):  # what is not finite reaches the outputs or the peak
            for number, op in enumerate(self.program.operations):
                self._execute(op, values)
                for names in op.arguments.values():
                    for name in names:
                        if self._last_use[name] == number:
                            values.pop(name, None)
        return {name: values[name] for name in self.program.outputs}

    def _execute(self, op: Operation, values: dict[str, Any]) -> None:
        label = f"{op.kind} {op.outputs[0].name}"

        def fetch(name: str) -> Any:
            if name in self._constants:
                return self._constants[name]
            if name not in values:
                raise PackageError(f"{label}: takes {name}, which nothing before it gives")
            return values[name]

        given: dict[str, Any] = {}
        for key, names in op.arguments.items():
            many = key == "values"  # the one input of MIL that is a list, that of concat
            given[key] = [fetch(n) for n in names] if many else fetch(names[0])
        flushes = self.flushed and op.kind in PRODUCTS and op.outputs[0].dtype is np.float16
        if flushes:
            given = {key: _flushed(value) for key, value in given.items()}
        try:
            results = OPERATIONS[op.kind](**given)
        except (TypeError, ValueError, RuntimeError, IndexError) as e:
            what = f"input that is not implemented: {e}" if isinstance(e, Unsupported) else f"{type(e).__name__}: {e}"
            raise PackageError(f"{label}: {what}") from e
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(op.outputs):
            raise PackageError(f"{label}: declared {len(op.outputs)} outputs, computed {len(results)}")
        for declared, result in zip(op.outputs, results, strict=True):
            if result.shape != declared.shape:
                raise PackageError(f"{label}: declared shape {declared.shape}, computed {result.shape}")
            if np.issubdtype(result.dtype, np.floating) != np.issubdtype(declared.dtype, np.floating):
                raise PackageError(f"{label}: declared {declared.dtype.__name__}, computed {result.dtype}")
            half = declared.dtype is np.float16
            if half:
                self.peak.see(declared.name, result, PRODUCT_LIMIT if op.kind in PRODUCTS else FLOAT16_LIMIT)
            held = rounded(result) if half else result.astype(declared.dtype)
            values[declared.name] = _flushed(held) if flushes else held

    @staticmethod
    def _widened(value: Constant) -> Constant:
        if isinstance(value, str) or value.dtype != np.float16:
            return value
        return value.astype(np.float32)


def _flushed(value: Any) -> Any:
    """Float16 numbers, held in float32, with 0 for subnormal ones; any other argument as it is."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        return value
    return np.where(np.abs(value) < SMALLEST_NORMAL, np.float32(0), value)


def _check_precisions(program: Program) -> None:
    """MIL changes precision by casts only: what an operation computes from is of the type that it declares."""
    dtypes = {name: value.dtype for name, value in program.declared().items()}
    for op in program.operations:
        made = op.outputs[0].dtype
        if op.kind == "cast" or not np.issubdtype(made, np.floating):
            continue
        for names in op.arguments.values():
            for name in names:
                taken = dtypes.get(name, made)
                if np.issubdtype(taken, np.floating) and taken is not made:
                    raise PackageError(
                        f"{op.kind} {op.outputs[0].name}: declared {made.__name__}, takes {taken.__name__} {name}"
                    )
