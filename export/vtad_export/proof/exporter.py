"""What every format offers: an Exporter makes an Export, an artefact on disk with its proof."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from vtad_runtime.contract.card import Card, Parity

if TYPE_CHECKING:  # the rest of this room imports torch, which is not needed to say what a format is
    from vtad_export.proof.material import Material
    from vtad_export.proof.parity import Flip

Precision = Literal["fp32", "fp16", "int8", "palettized6", "palettized4"]
ON_REQUEST: tuple[Precision, ...] = ("palettized6", "palettized4")  # made when asked for by name only
# How far an artefact is proven: the saved file agreed with torch; or only its structure could be checked here.
Status = Literal["proven", "structure only"]


@dataclass(frozen=True)
class Request:
    """What the user wants of an artefact besides its format and precision."""

    folder: Path
    name: str | None = None  # of the file; None: by category and precision
    batch: int | None = None  # pictures at a time; None: any number where the format can, else one
    tolerance: Mapping[str, float] = field(default_factory=dict)  # largest errors by output, not the default ones
    max_flips: int | None = None  # verdicts that may differ; None: the precision's default


@dataclass(frozen=True)
class Export(ABC):
    """An artefact on disk, proven."""

    path: Path
    card: Card
    operations: int
    flipped: tuple[Flip, ...]  # images judged otherwise than by torch
    note: str | None  # set when the images are not those of the training

    @property
    def parity(self) -> Parity:
        """What the proof measured."""
        assert self.card.parity is not None
        return self.card.parity

    @property
    def status(self) -> Status:
        """How far the artefact was proven."""
        return "proven"

    @property
    @abstractmethod
    def certificate(self) -> str:
        """What was proven and how, on one screen."""


class Exporter(Protocol):
    """One format: what its artefacts are called, where they run, how each is proven; and how to make and read one.

    Saying what a format is takes neither torch nor the format's packages; `export` imports them.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    runs: ClassVar[str]  # where an artefact runs
    proofs: ClassVar[dict[Precision, str]]  # how each precision is proven, the default one first
    batches: ClassVar[bool]  # whether an artefact may take several pictures at a time

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The first is the default."""
        return tuple(self.proofs)

    def file_name(self, category: str, precision: str) -> str:
        """pill.onnx; pill-int8.onnx where the precision is not the default."""
        return f"{category}{'' if precision == self.precisions[0] else f'-{precision}'}{self.suffix}"

    def path(self, request: Request, category: str, precision: str) -> Path:
        """Where the artefact is written."""
        return request.folder / (request.name or self.file_name(category, precision))

    def available(self) -> str | None:
        """Why no artefact can be made here, in one line; None where it can."""

    def export(self, material: Material, precision: Precision, request: Request) -> Export:
        """Make and prove an artefact. Raises RunError, DataError, ParityError, WriteError; nothing is left then."""
        ...

    def read_card(self, path: Path) -> Card:
        """The card in an artefact of this format. Raises CardError or another VtadError."""
        ...


def for_batch(card: Card, batch: int) -> Card:
    """The card of an artefact that takes `batch` pictures at a time: the first axis of its outputs is that, not free."""
    return dataclasses.replace(
        card, outputs=tuple(dataclasses.replace(o, shape=(batch, *o.shape[1:])) for o in card.outputs)
    )


def for_one_picture(card: Card) -> Card:
    """The card of an artefact that takes one picture at a time."""
    return for_batch(card, 1)
