"""An .aimodel that was written, read back: its card, its digests, and the interface that an app would see."""

from __future__ import annotations

import re
from pathlib import Path

from vtad_export.coreai_format.asset import read_asset_card
from vtad_export.coreai_format.conversion import summary
from vtad_export.proof.interface import Function, Interface, Port, check_card, check_digests, check_interface, declared
from vtad_runtime.contract.card import Card

ARRAY = re.compile(r"NDArray \((\w+), ([\d × ]+)\)")  # as a summary writes it: NDArray (UInt8, 1 × 3 × 32 × 32)


def read_back(path: Path, meant: Card) -> None:
    """Open a written asset. Raises ParityError where anything is not as it was meant; CardError."""
    check_card(meant, read_asset_card(path), "coreai")
    check_digests(path, "coreai")
    check_interface(declared(meant, "tensor uint8", {}), interface_of(path), "coreai")


def interface_of(path: Path) -> Interface:
    """What an asset offers; of versions a summary says nothing."""
    found, functions = summary(path), []
    for name in sorted(found.function_names):
        given = (*found.function_inputs(name), *found.function_states(name))
        functions.append(
            Function(name, tuple(_port(*i) for i in given), tuple(_port(*o) for o in found.function_outputs(name)))
        )
    return Interface({}, tuple(functions))


def _port(name: str, kind: str) -> Port:
    match = ARRAY.fullmatch(kind)
    if match is None:
        return Port(name, kind, ())
    return Port(name, f"tensor {match[1].lower()}", tuple(int(size) for size in match[2].split("×")))
