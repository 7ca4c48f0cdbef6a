"""Whether an artefact is as it was written: its files and its card against the digests on the card.

For .onnx, .mlpackage and .aimodel alike, by the standard library alone. The card and the JSON files of a package are compared by
their values, not their bytes: coremltools writes Manifest.json anew whenever it opens a package. Hidden files (as .DS_Store)
are none of the artefact's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from vtad_runtime.contract.card import AGAIN, ONNX_KEY, WITHOUT_DIGESTS, Card, card_digest
from vtad_runtime.contract.disk.files import replacing, sha256_of
from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.contract.typed_json import WrongJson, parsed
from vtad_runtime.engine.card_entry import IN_COREML, IN_ONNX, CardEntryError, read_entry, replace_card
from vtad_runtime.engine.model import IN_MEMORY, Integrity, ModelError

ONE_FILE = "model"  # the name of an ONNX file among the digests, whatever it is called on disk
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"  # of a Core ML package, with the card inside
MANIFEST, METADATA = "Manifest.json", "metadata.json"  # of a Core ML package; of an .aimodel, with the card inside
PACKAGES = (".mlpackage", ".aimodel")


class Contents(NamedTuple):
    """An artefact as it lies on disk."""

    card: str  # its JSON
    files: dict[str, str]  # sha256 in hex, without the card


def contents(model: Path | bytes, name: Path | None = None) -> Contents:
    """The card and the digests of all else, of a file, a package, or the bytes of an ONNX file; `name` is what errors call it.

    Raises VtadError: there is no such artefact, or it has no card.
    """
    where = name or _name(model)
    try:
        if isinstance(model, bytes):
            entry = read_entry(model, IN_ONNX, where)
            return Contents(entry.text, {ONE_FILE: entry.rest_sha256})
        return _package(model) if model.suffix in PACKAGES else _file(model)
    except OSError as e:
        raise CardEntryError(f"{where}: expected an exported model, got {one_line(e)}; look at its permissions") from e


def integrity(model: Path | bytes, name: Path | None = None) -> Integrity:
    """Compare an artefact with the digests on its card; `name` is what errors call it.

    Raises VtadError where it has no card that can be read.
    """
    found = contents(model, name)
    card = Card.from_json(found.card, str(name or _name(model)))
    before = tuple(f"{name} before {change.by}" for change in card.history for name in change.changed)
    if card.digests is None:
        old = parsed(found.card).get("schema") in WITHOUT_DIGESTS
        return Integrity(sealed=False) if old else Integrity(False, ("its digests are gone",), before)
    stored = card.digests.files
    names = sorted(stored.keys() | found.files.keys())
    changed = [name for name in names if stored.get(name) != found.files.get(name)]
    if card_digest(found.card) != card.digests.card:
        changed.append("card")
    return Integrity(True, tuple(changed), before)


def write_sealed(model: Path, card: Card) -> Card:
    """Write a card into an .onnx or .mlpackage in place, with the digests of the rest and of itself; the card as written.

    Raises CardEntryError, OSError.
    """
    card = card.sealed(contents(model).files)
    file, place = (model / SPECIFICATION, IN_COREML) if model.suffix in PACKAGES else (model, IN_ONNX)
    with replacing(file) as beside:
        replace_card(file, card.to_json(), beside, place)
    return card


def opened(model: Path | bytes, where: Path, allow_changed: bool) -> Integrity | None:
    """The integrity of a model that is about to be opened; None where it has no card to compare it by.

    Raises ModelError where it is not as it was exported, unless `allow_changed`.
    """
    try:
        found = integrity(model, where)
    except VtadError:
        return None  # the engine says what it is instead
    if not allow_changed:
        refuse_changed(where, found)
    return found


def refuse_changed(where: Path, found: Integrity) -> None:
    """Raise ModelError where an artefact is not as it was written."""
    if found.changed:
        raise ModelError(
            f"{where}: expected the model as it was exported, got one {found}; copy it again or export the run again, "
            "or open it as it is by --allow-changed (in Python allow_changed=True)"
        )


def whole_file(path: Path) -> bytes:
    """An ONNX file, read once for all that is done with it. Raises ModelError."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise ModelError(f"{path}: expected an .onnx model file, got {got}; vtad-export makes one")
    try:
        return path.read_bytes()
    except OSError as e:
        raise ModelError(
            f"{path}: expected an .onnx model file, got one that cannot be read ({one_line(e)}); look at its permissions"
        ) from e


def _name(model: Path | bytes) -> Path:
    return Path(IN_MEMORY) if isinstance(model, bytes) else model


def _file(model: Path) -> Contents:
    entry = read_entry(model.read_bytes(), IN_ONNX, model)
    return Contents(entry.text, {ONE_FILE: entry.rest_sha256})


def _package(model: Path) -> Contents:
    text, files = "", {}
    for path in sorted(model.rglob("*")):
        name = path.relative_to(model).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in name.split("/")):
            continue
        if name == SPECIFICATION:
            entry = read_entry(path.read_bytes(), IN_COREML, model)
            text, files[name] = entry.text, entry.rest_sha256
        elif name == METADATA and model.suffix == ".aimodel":
            text, files[name] = _json_with_card(path)
        else:
            files[name] = _json(path) if name == MANIFEST else _plain(path)
    if not text:
        raise CardEntryError(f"{model}: expected an exported model with its inspection card, got one without; {AGAIN}")
    return Contents(text, files)


def _plain(path: Path) -> str:
    return sha256_of(path).hex()


def _json(path: Path) -> str:
    """The digest of a JSON file's values; of its bytes where it is none."""
    try:
        return _of_values(parsed(path.read_bytes()))
    except WrongJson:
        return _plain(path)


def _json_with_card(path: Path) -> tuple[str, str]:
    """The card in the metadata of an .aimodel, and the digest of the rest. Raises CardEntryError."""
    try:
        raw = parsed(path.read_bytes())
    except WrongJson as e:
        raise CardEntryError(f"{path}: {e}; {AGAIN}") from e
    sections = [v for v in raw.values() if isinstance(v, dict) and ONNX_KEY in v] if isinstance(raw, dict) else []
    if len(sections) != 1 or not isinstance(text := sections[0].pop(ONNX_KEY), str):
        raise CardEntryError(f"{path}: expected one inspection card ({ONNX_KEY}) in text; export the run again")
    return text, _of_values(raw)


def _of_values(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
