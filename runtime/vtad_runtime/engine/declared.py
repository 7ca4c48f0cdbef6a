"""Whether an ONNX graph is the one that the card inside it describes, and batches of the size that it takes; for any engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import Card, CardError
from vtad_runtime.engine.model import OUTPUTS, Found, ModelError, graph_names, names_in

UINT8, FLOAT = "tensor(uint8)", "tensor(float)"  # ONNX's names


class Port(NamedTuple):
    """An input or output of a graph."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]  # a number is a fixed size

    def __str__(self) -> str:
        return f"{self.name} {self.type} {list(self.shape)}"


def card_of(text: str | None, inputs: Sequence[Port], producer: str, path: Path) -> Card:
    """The card in the metadata of a model. Raises ModelError: there is none, or it is damaged."""
    if text is None:
        raise ModelError(
            f"{path}: expected a model of vtad-export with its inspection card, got an ONNX model without one "
            f"(producer {producer or 'unknown'}, inputs {', '.join(map(str, inputs))}); vtad-export makes one"
        )
    try:
        return Card.from_json(text, str(path))
    except CardError as e:
        raise ModelError(str(e)) from e


def names_of(inputs: Sequence[Port], outputs: Sequence[Port], card: Card, path: Path) -> dict[str, str]:
    """The names in the graph by those of OUTPUTS. Raises ModelError where the graph is not the one the card describes."""
    spec, batch = card.input, batch_of(card) or "batch"
    plane = (3, spec.height, spec.width)
    got = [(i.name, i.type, i.shape[1:]) for i in inputs]
    if got != [(spec.name, UINT8, plane)] or _fixed(inputs[0].shape[0]) != _fixed(batch):
        raise ModelError(
            f"{path}: expected one input {Port(spec.name, UINT8, (batch, *plane))} as on its "
            f"card, got {', '.join(map(str, inputs)) or 'none'}; export the run again"
        )
    types = {o.name: o.type for o in outputs}
    declared, names = {o.name for o in card.outputs}, graph_names(types)
    if declared != names.keys() or any(types.get(names.get(name, "")) != FLOAT for name in OUTPUTS):
        raise ModelError(
            f"{path}: expected float outputs {', '.join(OUTPUTS)}, got {types} in the graph "
            f"and {sorted(declared)} on its card; export the run again"
        )
    return {name: names[name] for name in OUTPUTS}


def batch_of(card: Card) -> int | None:
    """How many pictures the artefact takes at a time: as many as it gives scores, by its card. None: any number."""
    return next((_fixed(o.shape[0]) for o in card.outputs if o.name == "score" and o.shape), None)


def in_batches(batch: NDArray[np.uint8], size: int, run: Callable[[NDArray[np.uint8]], Found]) -> Found:
    """Run (n, 3, height, width) so many at a time; the last ones are filled up with copies, which nobody sees."""
    if len(batch) == size:
        return run(batch)
    missing = -len(batch) % size
    filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
    return joined([run(filled[i : i + size]) for i in range(0, len(filled), size)], len(batch))


def joined(parts: Sequence[Found], pictures: int) -> Found:
    """The outputs of so many pictures, from those of the parts of their batch."""
    kind = type(parts[0])
    return kind(**{n: np.concatenate([getattr(part, n) for part in parts])[:pictures] for n in names_in(kind)})


def _fixed(batch: int | str | None) -> int | None:
    """The size of an axis; None where it is free."""
    return batch if isinstance(batch, int) else None
