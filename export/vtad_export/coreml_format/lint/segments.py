"""How often a program goes over to the engine and back, and what is handed over, if operations run where rules put them.

By data dependency: the order in which a file lists its operations means nothing. An operation waits for what it takes; those that
need no more hand-overs before them are computed together. This is the least that is possible. Core ML may prefer the GPU for all
that follows the first such operation (hollance/neural-engine, docs/unsupported-layers.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtad_export.coreml_format.lint.work import size, taken
from vtad_export.coreml_format.mlpackage import Program


@dataclass(frozen=True)
class Segments:
    """A program cut between engine and host: the CPU or GPU."""

    on_engine: int  # segments that the engine computes
    handed_over: int  # bytes a picture, to the engine and from it; each value once in each direction


def segments(program: Program, on_engine: Sequence[bool]) -> Segments:
    """`on_engine` says of each operation of the program where it runs. The program's input and outputs are the host's."""
    hand_overs = {
        value.name: 0 for value in program.inputs
    }  # before a value is there: even on the host, odd on the engine
    values = program.declared()
    crossing: set[str] = set()
    for op, engine in zip(program.operations, on_engine, strict=True):
        needed = [0 if not engine else 1]
        for value in taken(op, values):
            before = hand_overs[value.name]
            crosses = before % 2 != engine
            if crosses:
                crossing.add(value.name)
            needed.append(before + crosses)
        hand_overs.update((made.name, max(needed)) for made in op.outputs)
    crossing |= {name for name in program.outputs if hand_overs.get(name, 0) % 2}
    return Segments(
        on_engine=len({n for n in hand_overs.values() if n % 2}),
        handed_over=sum(size(values[name]) for name in crossing),
    )
