"""The part of an ONNX file that computes the score and the heatmap: what a verdict does not need is left out, and costs nothing.

onnxruntime runs every node of the graph that it opened, whichever outputs are asked for. Weights lie on disk once: the part is
made in memory. Numbers of fields: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vtad_runtime.engine.declared import FLOAT, Port
from vtad_runtime.engine.model import SCORED
from vtad_runtime.engine.wire import (
    BYTES,
    VARINT,
    DamagedError,
    Field,
    Piece,
    contents_of,
    fields,
    head,
    value_of,
    varint,
)

GRAPH = 7  # of ModelProto
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12  # of GraphProto
TAKES, GIVES, ATTRIBUTE = 1, 2, 5  # of NodeProto: input, output, attribute
SUBGRAPHS = (6, 11)  # of AttributeProto: g, graphs
TENSOR_NAME = 8  # of TensorProto
VALUE_NAME, VALUE_TYPE = 1, 2  # of ValueInfoProto
TENSOR, ELEMENT = 1, 1  # of TypeProto: tensor_type; of that: elem_type
FLOAT_ELEMENT = 1  # TensorProto.FLOAT


class Part(NamedTuple):
    """The part of a file."""

    model: bytes  # a whole ONNX file, with everything of the other one except what is not needed
    outputs: tuple[Port, ...]  # of the file; shapes are left out


@dataclass
class _Graph:
    """What a graph is made of, by the offsets of its fields."""

    nodes: list[tuple[Field, list[str], list[str]]] = field(default_factory=list)  # with what it takes and gives
    initializers: list[tuple[Field, str]] = field(default_factory=list)
    outputs: list[tuple[Field, Port]] = field(default_factory=list)
    inputs: set[str] = field(default_factory=set)
    # With the shapes of values: by these onnxruntime fuses what lies between.
    rest: list[Field] = field(default_factory=list)


def verdict_part(model: bytes) -> Part | None:
    """The part of an ONNX file that gives `SCORED`.

    None where there is none to take: everything is needed, an operation has a graph of its own, or it is no such file.
    """
    where = Path()
    try:
        top = list(fields(model, 0, len(model), where))
        graphs = [f for f in top if f.number == GRAPH and f.type == BYTES]
        if len(graphs) != 1 or (graph := _read(model, graphs[0], where)) is None:
            return None
    except (DamagedError, UnicodeDecodeError):
        return None  # the engine says what it is instead
    needed = _needed(graph)
    nodes = [node for node, _, gives in graph.nodes if needed.intersection(gives)]
    outputs = [value for value, port in graph.outputs if port.name in SCORED]
    if len(nodes) == len(graph.nodes) or len(outputs) != len(SCORED):
        return None
    kept = [*nodes, *(tensor for tensor, name in graph.initializers if name in needed), *outputs, *graph.rest]
    inside: list[Piece] = [(f.start, f.end) for f in sorted(kept, key=lambda f: f.start)]
    length = sum(f.end - f.start for f in kept)
    pieces: list[Piece] = [(0, graphs[0].start), head(GRAPH, length), *inside, (graphs[0].end, len(model))]
    return Part(b"".join(contents_of(model, pieces)), tuple(port for _, port in graph.outputs))


def _needed(graph: _Graph) -> set[str]:
    """The names of all values on the way to `SCORED`."""
    makers = {name: takes for _, takes, gives in graph.nodes for name in gives}
    needed, ahead = set(graph.inputs), list(SCORED)
    while ahead:
        name = ahead.pop()
        if name and name not in needed:  # an input that is left out has no name
            needed.add(name)
            ahead += makers.get(name, ())
    return needed


def _read(data: bytes, place: Field, where: Path) -> _Graph | None:
    """A graph; None where an operation has a graph of its own. Raises DamagedError, UnicodeDecodeError."""
    graph = _Graph()
    for f in fields(data, place.value, place.end, where):
        if f.type != BYTES or f.number not in (NODE, INITIALIZER, INPUT, OUTPUT):
            graph.rest.append(f)
        elif f.number == NODE:
            parts = list(fields(data, f.value, f.end, where))
            attributes = [a for part in parts if part.number == ATTRIBUTE for a in _inside(data, part, where)]
            if any(a.number in SUBGRAPHS for a in attributes):
                return None
            takes, gives = ([value_of(data, p).decode() for p in parts if p.number == n] for n in (TAKES, GIVES))
            graph.nodes.append((f, takes, gives))
        elif f.number == INITIALIZER:
            graph.initializers.append((f, _text(data, f, TENSOR_NAME, where)))
        elif f.number == INPUT:
            graph.inputs.add(_text(data, f, VALUE_NAME, where))
            graph.rest.append(f)
        elif f.number == OUTPUT:
            graph.outputs.append((f, _port(data, f, where)))
    return graph


def _port(data: bytes, value: Field, where: Path) -> Port:
    element = 0
    for kind in _inside(data, value, where):
        for tensor in _inside(data, kind, where) if kind.number == VALUE_TYPE else ():
            for f in _inside(data, tensor, where) if tensor.number == TENSOR else ():
                if f.number == ELEMENT and f.type == VARINT:
                    element, _ = varint(data, f.value, where)
    type_of_it = FLOAT if element == FLOAT_ELEMENT else f"tensor of element type {element}"
    return Port(_text(data, value, VALUE_NAME, where), type_of_it, ())


def _inside(data: bytes, message: Field, where: Path) -> Iterator[Field]:
    """The fields of a message inside another."""
    return fields(data, message.value, message.end, where) if message.type == BYTES else iter(())


def _text(data: bytes, message: Field, number: int, where: Path) -> str:
    """A text in a message; empty where there is none."""
    found = [f for f in _inside(data, message, where) if f.number == number and f.type == BYTES]
    return value_of(data, found[-1]).decode() if found else ""
