"""What an opened model is, of whatever format: its card, and two entries, for a verdict alone and for everything.

The graph takes uint8 RGB (batch, 3, height, width) and gives float32 outputs: `score` (batch,); `heatmap`, `ssim_map` and
`density_map` (batch, height, width); `reconstruction` (batch, 3, height, width) in 0..1. Score and maps are z-scores: 1 is one
standard deviation of good pictures. `batch` is free; or fixed where the export was asked to; or 1 where a picture's numbers
would depend on its neighbours: int8 rounds by the range of all that it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import OLD_NAMES, Card
from vtad_runtime.contract.errors import NOT_JUDGED, VtadError

if TYPE_CHECKING:
    from vtad_runtime.contract.references import References

IN_MEMORY = "<bytes>"  # the path of a model that was given as bytes
MAX_BATCH = 64  # the export's upper bound of the free axis
MAPS = ("heatmap", "ssim_map", "density_map")
SCORED = ("score", "heatmap")  # what a verdict needs
OUTPUTS = ("score", *MAPS, "reconstruction")


class ModelError(VtadError):
    """A model file that cannot be used, or a run of it that failed. One line: expected, got, where, what to do."""


@dataclass(frozen=True)
class Integrity:
    """What the digests say of an artefact."""

    sealed: bool  # whether there are digests: artefacts of schema 1 and 2 have none
    now: tuple[str, ...] = ()  # what is not as the digests say: names of files, "card"
    before: tuple[str, ...] = ()  # what was not when a program wrote the artefact anew, which no new digest heals

    @property
    def changed(self) -> tuple[str, ...]:
        """Everything that is not as it was exported; empty: nothing."""
        return (*self.now, *self.before)

    def __str__(self) -> str:
        if self.changed:
            return f"changed since its export: {', '.join(self.changed)}"
        return "as exported" if self.sealed else "made before digests: whether it changed since is not known"


@dataclass(frozen=True, eq=False)
class Scored:
    """What a verdict needs to know about a batch of n pictures; float32."""

    score: NDArray[np.float32]  # (n,), z-scores
    heatmap: NDArray[np.float32]  # (n, height, width), z-scores


@dataclass(frozen=True, eq=False)
class Outputs(Scored):
    """Everything that the graph says about a batch of n pictures; float32."""

    ssim_map: NDArray[np.float32]  # (n, height, width), z-scores
    density_map: NDArray[np.float32]  # (n, height, width), z-scores
    reconstruction: NDArray[np.float32]  # (n, 3, height, width), 0..1


Found = TypeVar("Found", bound=Scored)


class OpenModel(Protocol):
    """An opened model of whatever format."""

    path: Path
    card: Card
    integrity: Integrity
    engine: str  # what runs it: one of `ENGINES`, or "coreml" for a package
    callers: int  # threads that should run it at once, each with one picture; 1: batches, by all its threads

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run (n, 3, height, width) uint8 RGB, n = 1..64. Raises ModelError."""
        ...

    def verdict(self, batch: NDArray[np.uint8]) -> Scored:
        """The same for score and heatmap alone, which may cost less. Raises ModelError."""
        ...

    def open_whole(self) -> None:
        """Open now what `run` needs, so that its first call takes no longer than others. Raises ModelError."""
        ...

    def references(self) -> References | None:
        """The reference pictures inside; None where there are none. Raises ReferencesError."""
        ...


def graph_names(declared: Iterable[str]) -> dict[str, str]:
    """The outputs' names in a graph, by their names today: a graph of schema 1 has an old one."""
    return {OLD_NAMES.get(name, name): name for name in declared}


def checked(kind: type[Found], values: dict[str, NDArray[np.float32]], n: int, card: Card, path: Path) -> Found:
    """The outputs of a batch of `n`. Raises ModelError where a shape breaks the contract."""
    plane = (card.input.height, card.input.width)
    expected = {"score": (n,), **dict.fromkeys(MAPS, (n, *plane)), "reconstruction": (n, 3, *plane)}
    names = names_in(kind)
    for name in names:
        if values[name].shape != expected[name]:
            raise ModelError(
                f"{path}: output {name}: expected shape {expected[name]}, got {values[name].shape}", NOT_JUDGED
            )
    return kind(**{name: values[name] for name in names})


def names_in(kind: type[Scored]) -> tuple[str, ...]:
    """The outputs that an entry gives: SCORED or OUTPUTS."""
    return tuple(field.name for field in fields(kind))


def references_of(text: str | None, card: Card, path: Path) -> References | None:
    """The reference pictures in the text of a file's metadata; None where there are none. Raises ReferencesError."""
    if text is None:
        return None
    from vtad_runtime.contract.references import References  # Pillow, which no verdict needs

    return References.from_text(text, card, str(path))
