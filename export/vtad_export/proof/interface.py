"""What a program that uses an artefact touches: functions, names, types, shapes, colour order, versions. Declared here alone.

An exporter reads the interface of what it has written from the bytes, and holds it to this declaration: arithmetic that agrees
with torch is no use to an app whose input became grey, or whose output became float16.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtad.models.detector import Judgement
from vtad_export.proof.errors import ParityError
from vtad_runtime.contract.card import Card
from vtad_runtime.engine.integrity import integrity

MAIN = "main"  # the function of an artefact that has one
EVERYTHING: Mapping[str, Sequence[str]] = {MAIN: Judgement._fields}


@dataclass(frozen=True)
class Port:
    """One input or output."""

    name: str
    kind: str  # "tensor uint8", "tensor float32", "image RGB"
    shape: tuple[int | str, ...]  # "batch" for the free axis


@dataclass(frozen=True)
class Function:
    """What can be called."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Interface:
    """The whole of an artefact's."""

    versions: Mapping[str, object]  # of the format and its operations
    functions: tuple[Function, ...]  # by name


def declared(
    card: Card,
    input_kind: str,
    versions: Mapping[str, object],
    functions: Mapping[str, Sequence[str]] = EVERYTHING,
    output_kind: str = "tensor float32",
) -> Interface:
    """The interface of an artefact with this card: one picture of the card's size in, the outputs of each function out."""
    height, width = card.input.height, card.input.width
    shapes: dict[str, tuple[int | str, ...]] = {o.name: o.shape for o in card.outputs}
    batch = shapes["score"][0]
    plane = (batch, height, width)
    expected = {
        **dict.fromkeys(Judgement._fields, plane),
        "score": (batch,),
        "reconstruction": (batch, 3, height, width),
    }
    if shapes != expected:
        raise ParityError(f"the card: expected outputs {expected}, got {shapes}; nothing was kept")
    given = (Port(card.input.name, input_kind, (batch, 3, height, width)),)
    return Interface(
        versions,
        tuple(
            Function(name, given, tuple(Port(o, output_kind, expected[o]) for o in outputs))
            for name, outputs in sorted(functions.items())
        ),
    )


def check_interface(expected: Interface, found: Interface, format: str) -> None:
    """Raise ParityError where an artefact's interface is not the declared one: the first thing that differs."""
    pairs: list[tuple[str, object, object]] = [("versions", dict(expected.versions), dict(found.versions))]
    pairs.append(("functions", [f.name for f in expected.functions], [f.name for f in found.functions]))
    for one, other in zip(expected.functions, found.functions, strict=False):
        for side in ("inputs", "outputs"):
            pairs.append((f"{side} of {one.name}", _words(getattr(one, side)), _words(getattr(other, side))))
    for what, want, got in pairs:
        if want != got:
            raise ParityError(f"the {format} artefact: expected {what} {want}, got {got}; nothing was kept")


def check_card(meant: Card, found: Card, format: str) -> None:
    """Raise ParityError where the card in an artefact is not, value for value, the one that was meant."""
    differing = [
        field.name for field in dataclasses.fields(Card) if getattr(meant, field.name) != getattr(found, field.name)
    ]
    if differing:
        raise ParityError(
            f"the {format} artefact: the card is not the one that was written: {', '.join(differing)}; nothing was kept"
        )


def check_digests(path: Path, format: str) -> None:
    """Raise ParityError where a written artefact is not as its digests say. VtadError."""
    if (found := integrity(path)).changed:
        raise ParityError(f"the {format} artefact: {found}; nothing was kept")


def _words(ports: tuple[Port, ...]) -> list[str]:
    return [f"{port.name} {port.kind} {'x'.join(map(str, port.shape))}" for port in ports]
