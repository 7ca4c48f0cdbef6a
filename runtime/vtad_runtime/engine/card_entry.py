"""The inspection card inside a file: reads it, replaces it, and takes the digest of every other byte.

Needs neither the onnx package nor coremltools. An ONNX file and the specification of a Core ML package are one protobuf message
each; the card is the value of one entry, key = 1 and value = 2, in a field of that message or of one inside it. On the wire a
field is a varint `number << 3 | type`, then its value (https://protobuf.dev/programming-guides/encoding/). Weights and graph lie
in other fields; those are skipped, hashed and copied as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vtad_runtime.contract.card import ONNX_KEY
from vtad_runtime.engine.wire import (
    BYTES,
    DamagedError,
    Field,
    Piece,
    bytes_field,
    contents_of,
    fields,
    head,
    value_of,
)

# Field numbers on the way from the message to the entries.
IN_ONNX = (14,)  # ModelProto.metadata_props (onnx/onnx.proto)
IN_COREML = (2, 100, 100)  # Model.description, .metadata, .userDefined (coremltools/mlmodel/format/Model.proto)
KEY, VALUE = 1, 2


class CardEntryError(DamagedError):
    """A file that has not one card in it. One line."""


class CardEntry(NamedTuple):
    """What a file holds."""

    text: str  # the card's JSON
    rest_sha256: str  # of the file without the card's entry, in hex


def read_entry(data: bytes, place: tuple[int, ...], where: Path) -> CardEntry:
    """The card at `place` (IN_ONNX, IN_COREML) in a file, and the digest of the rest. Raises DamagedError."""
    chain = _find(data, place, where)
    try:
        text = _part(data, chain[-1], VALUE, where).decode()
    except UnicodeDecodeError as e:
        raise CardEntryError(f"{where}: expected a card in text, got bytes that are none; copy the file again") from e
    digest = hashlib.sha256()
    for part in contents_of(data, _pieces(data, chain, b"")):
        digest.update(part)
    return CardEntry(text, digest.hexdigest())


def replace_card(model: Path, text: str, out: Path, place: tuple[int, ...] = IN_ONNX) -> None:
    """Write `out`: the bytes of `model` with the card's JSON replaced by `text`. Raises DamagedError, OSError.

    Every other byte stays, except for the lengths of the messages around the card. `out` is written in place and must not be
    `model`; the caller gives a name beside and renames.
    """
    data = model.read_bytes()
    chain = _find(data, place, model)
    entry = bytes_field(KEY, ONNX_KEY.encode()) + bytes_field(VALUE, text.encode())
    with out.open("wb") as target:
        target.writelines(contents_of(data, _pieces(data, chain, bytes_field(place[-1], entry))))


def _find(data: bytes, place: tuple[int, ...], where: Path) -> tuple[Field, ...]:
    """The card's entry, after the fields that it lies in."""
    chains: list[tuple[Field, ...]] = [()]
    for number in place:
        chains = [
            (*chain, field)
            for chain in chains
            for field in fields(data, *((chain[-1].value, chain[-1].end) if chain else (0, len(data))), where)
            if field.number == number and field.type == BYTES
        ]
    cards = [chain for chain in chains if _part(data, chain[-1], KEY, where) == ONNX_KEY.encode()]
    if len(cards) != 1:
        raise CardEntryError(
            f"{where}: expected one inspection card ({ONNX_KEY}), got {len(cards)}; export the run again"
        )
    return cards[0]


def _pieces(data: bytes, chain: tuple[Field, ...], entry: bytes) -> Iterator[Piece]:
    """The file with another entry (empty: with none) and the lengths of the messages around it that follow."""
    grown = len(entry) - (chain[-1].end - chain[-1].start)
    heads = []
    for field in reversed(chain[:-1]):
        heads.append(head(field.number, field.end - field.value + grown))
        grown += len(heads[-1]) - (field.value - field.start)
    at = 0
    for field, new in zip(chain, (*reversed(heads), entry), strict=True):
        yield at, field.start
        yield new
        at = field.value
    yield chain[-1].end, len(data)


def _part(data: bytes, entry: Field, number: int, where: Path) -> bytes:
    """The key or the value of an entry."""
    for field in fields(data, entry.value, entry.end, where):
        if field.number == number and field.type == BYTES:
            return value_of(data, field)
    return b""
