"""What engines of ONNX files share: an entry for the verdict, and one for everything, opened when somebody asks for it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.errors import NOT_JUDGED, one_line
from vtad_runtime.engine.declared import in_batches
from vtad_runtime.engine.model import (
    Found,
    Integrity,
    ModelError,
    Outputs,
    Scored,
    checked,
    names_in,
    references_of,
)

if TYPE_CHECKING:
    from vtad_runtime.contract.references import References

Entry = TypeVar("Entry")  # what a library runs: its session, its compiled graph


class TwoEntries(ABC, Generic[Entry]):
    """One opened ONNX model. `card` is the card it carries; `integrity` whether it is as it was exported.

    Engines set these, `_verdict`, `_references` (the text in the file) and `_names` (those of the outputs in the graph).
    """

    path: Path
    card: Card
    integrity: Integrity
    engine: str
    callers: int
    _verdict: Entry
    _whole: Entry | None = None
    _references: str | None
    _names: dict[str, str]

    def __init__(self) -> None:
        self._opening = threading.Lock()

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError: the run fails or breaks the contract."""
        return self._in_turn(self._everything(), Outputs, batch)

    def verdict(self, batch: NDArray[np.uint8]) -> Scored:
        """The same for score and heatmap alone. Raises ModelError."""
        return self._in_turn(self._verdict, Scored, batch)

    def open_whole(self) -> None:
        """Open the whole graph now. Raises ModelError."""
        self._everything()

    def references(self) -> References | None:
        """The reference pictures in the file; None where there are none. Raises ReferencesError."""
        return references_of(self._references, self.card, self.path)

    @abstractmethod
    def _open_whole(self) -> Entry:
        """Raises ModelError."""

    @abstractmethod
    def _at_once(self, pictures: int) -> int:
        """How many of so many pictures the graph takes in one run."""

    @abstractmethod
    def _infer(self, entry: Entry, names: list[str], batch: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        """The outputs of these names in the graph. Raises what the library raises."""

    def _everything(self) -> Entry:
        with self._opening:
            if self._whole is None:
                self._whole = self._open_whole()
            return self._whole

    def _in_turn(self, entry: Entry, kind: type[Found], batch: NDArray[np.uint8]) -> Found:
        return in_batches(batch, self._at_once(len(batch)), lambda taken: self._run(entry, kind, taken))

    def _run(self, entry: Entry, kind: type[Found], batch: NDArray[np.uint8]) -> Found:
        names = names_in(kind)
        try:
            values = self._infer(entry, [self._names[name] for name in names], batch)
        except Exception as e:  # the libraries' errors share no base class
            raise ModelError(
                f"{self.path}: expected a run on a batch of {len(batch)}, got {one_line(e)}", NOT_JUDGED
            ) from e
        return checked(kind, dict(zip(names, values, strict=True)), len(batch), self.card, self.path)
