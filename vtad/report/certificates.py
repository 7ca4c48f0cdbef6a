"""The parity certificates of a run's export folder, as vtad-export wrote them beside the artefacts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vtad.report.card_words import MAPS, UNITS
from vtad.run_folder import Run
from vtad_runtime.contract.card import Parity
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed


@dataclass(frozen=True)
class ErrorRow:
    """The largest error of one output."""

    output: str
    error: float
    allowed: float | None  # None: it decides nothing
    unit: str


@dataclass(frozen=True)
class Certificate:
    """What one export proved."""

    file: str
    parity: Parity
    method: str | None  # how, where it is not by running the file itself

    @property
    def rows(self) -> list[ErrorRow]:
        """By output."""
        allowed = self.parity.tolerance
        return [
            ErrorRow(name, error, allowed.get(name), UNITS.get(name, MAPS))
            for name, error in self.parity.max_error.items()
        ]


def certificates(run: Run) -> list[Certificate]:
    """Of every export, by file name. A file that is no certificate is left out: the page must not fail because of it."""
    found = []
    for file in sorted((run.path / "export").glob("parity*.json")):
        try:
            raw = parsed(file.read_bytes())
            inner = raw.get("parity", raw)
            parity = typed(Parity, {f.name: inner[f.name] for f in fields(Parity) if f.name in inner}, "parity")
            method = raw.get("method")
        except (OSError, WrongJson, AttributeError, TypeError):
            continue
        found.append(Certificate(file.name, parity, method if isinstance(method, str) else None))
    return found
