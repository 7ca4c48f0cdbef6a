"""What must hold of files, however a program ended: whole under their names, or hidden parts that the next start sweeps."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import safe_open

from vtad_runtime.contract.disk.files import PART
from vtad_runtime.engine.integrity import integrity

from .programs import Ended, names_below


class Broken(Exception):
    """A promise that does not hold."""


class Promises:
    """Counts what was checked. Every method raises Broken where a promise does not hold."""

    def __init__(self) -> None:
        self.checked = 0

    def that(self, holds: bool, said: str) -> None:
        """One promise; `said` is what is wrong where it does not hold."""
        self.checked += 1
        if not holds:
            raise Broken(said)

    def ended(self, ended: Ended, *codes: int) -> None:
        """A process ended with one of these exit codes, and without a traceback."""
        last = ended.errors.strip().splitlines()[-1:] or [""]
        self.that(ended.exit_code in codes, f"{ended.command}: exit code {ended.exit_code}, not {codes}: {last[0]}")
        self.that("Traceback" not in ended.errors + ended.output, f"{ended.command}: a traceback: {ended.errors}")

    def whole(self, folder: Path) -> None:
        """Every file below a folder is whole, or is hidden and a part."""
        for file in _files(folder):
            if file.name.endswith(".part"):
                self.that(PART.fullmatch(file.name) is not None, f"{file}: half written, and never swept")
            elif read := READ.get(file.suffix):
                self.that(file.stat().st_size > 0 or file.suffix in GROWING, f"{file}: empty")
                try:
                    read(file)
                except Exception as e:
                    raise Broken(f"{file}: not whole: {type(e).__name__}: {e}") from e

    def swept(self, *folders: Path) -> None:
        """No part is left."""
        left = [str(file) for folder in folders for file in _files(folder) if file.name.endswith(".part")]
        self.that(not left, f"half written and not swept: {left}")

    def same(self, before: dict[str, str], folder: Path) -> None:
        """The files that were there are there, byte for byte."""
        now = digests(folder)
        changed = [name for name, digest in before.items() if now.get(name) != digest]
        self.that(not changed, f"{folder}: changed or gone: {changed}")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it."""
    return {f.relative_to(folder).as_posix(): digest(f) for f in _files(folder) if not f.name.endswith(".part")}


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def rows(results: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file. Raises ValueError where a line is not whole."""
    text = results.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        raise ValueError("ends in half a line")
    return [json.loads(line) for line in text.splitlines()]


def _files(folder: Path) -> Iterator[Path]:
    yield from map(Path, sorted(names_below(folder)))


def _table(file: Path) -> None:
    text = file.read_text(encoding="utf-8-sig")
    widths = {len(cells) for cells in csv.reader(text.splitlines())}
    if len(widths) > 1 or (text and not text.endswith("\n")):
        raise ValueError(f"lines of {widths} cells")


def _picture(file: Path) -> None:
    data = file.read_bytes()
    if not data.endswith((b"\xff\xd9", b"IEND\xaeB`\x82")):
        raise ValueError("no end")
    if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
        raise ValueError("no picture")


def _model(file: Path) -> None:
    found = integrity(file)
    if not found.sealed or found.changed:
        raise ValueError(str(found))


def _tensors(file: Path) -> None:
    with safe_open(file, framework="np") as f:
        for name in f.keys():  # noqa: SIM118 - not a dict
            f.get_tensor(name)


GROWING = (".jsonl", ".csv")  # by whole lines, from none
READ: dict[str, Callable[[Path], object]] = {
    ".json": lambda file: json.loads(file.read_bytes()),
    ".jsonl": rows,
    ".csv": _table,
    ".jpg": _picture,
    ".png": _picture,
    ".onnx": _model,
    ".safetensors": _tensors,
}
