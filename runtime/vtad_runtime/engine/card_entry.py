"""The inspection card inside a file: reads it, replaces it, and takes the digest of every other byte.

Needs neither the onnx package nor coremltools. An ONNX file and the specification of a Core ML package are one protobuf message
each; the card is the value of one entry, key = 1 and value = 2, in a field of that message or of one inside it. On the wire a
field is a varint `number << 3 | type`, then its value (https://protobuf.dev/programming-guides/encoding/). Weights and graph lie
in other fields; those are skipped, hashed and copied, never held in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vtad_runtime.contract.card import ONNX_KEY
from vtad_runtime.engine.model import ModelError

# Field numbers on the way from the message to the entries.
IN_ONNX = (14,)  # ModelProto.metadata_props (onnx/onnx.proto)
IN_COREML = (2, 100, 100)  # Model.description, .metadata, .userDefined (coremltools/mlmodel/format/Model.proto)
KEY, VALUE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not used by either
MAX_VARINT = 10  # bytes
BLOCK = 2**20  # bytes read at once


class CardEntryError(ModelError):
    """A file that is not one protobuf message with one card in it. One line."""


@dataclass(frozen=True)
class CardEntry:
    """What a file holds."""

    text: str  # the card's JSON
    rest_sha256: str  # of the file without the card's entry, in hex


@dataclass(frozen=True)
class _Field:
    """One field of a message, as byte offsets."""

    number: int
    type: int
    start: int  # of the tag
    value: int  # of the value, after a length if it has one
    end: int


_Piece = bytes | tuple[int, int]  # new bytes, or those of the file from one offset to another


def read_entry(file: BinaryIO, place: tuple[int, ...], where: Path) -> CardEntry:
    """The card at `place` (IN_ONNX, IN_COREML), and the digest of the rest. Raises CardEntryError, OSError."""
    size = file.seek(0, os.SEEK_END)
    chain = _find(file, size, place, where)
    try:
        text = _part(file, chain[-1], VALUE, where).decode()
    except UnicodeDecodeError as e:
        raise CardEntryError(f"{where}: expected a card in text, got bytes that are none; copy the file again") from e
    digest = hashlib.sha256()
    for data in _bytes_of(file, _pieces(file, size, chain, b"")):
        digest.update(data)
    return CardEntry(text, digest.hexdigest())


def replace_card(model: Path, text: str, out: Path, place: tuple[int, ...] = IN_ONNX) -> None:
    """Write `out`: the bytes of `model` with the card's JSON replaced by `text`. Raises CardEntryError, OSError.

    Every other byte stays, except for the lengths of the messages around the card. `out` is written in place and must not be
    `model`; the caller gives a name beside and renames.
    """
    with model.open("rb") as source:
        size = source.seek(0, os.SEEK_END)
        chain = _find(source, size, place, model)
        entry = _bytes_field(KEY, ONNX_KEY.encode()) + _bytes_field(VALUE, text.encode())
        with out.open("wb") as target:
            for data in _bytes_of(source, _pieces(source, size, chain, _bytes_field(place[-1], entry))):
                target.write(data)


def _find(file: BinaryIO, size: int, place: tuple[int, ...], where: Path) -> tuple[_Field, ...]:
    """The card's entry, after the fields that it lies in."""
    chains: list[tuple[_Field, ...]] = [()]
    for number in place:
        chains = [
            (*chain, field)
            for chain in chains
            for field in _fields(file, *((chain[-1].value, chain[-1].end) if chain else (0, size)), where)
            if field.number == number and field.type == BYTES
        ]
    cards = [chain for chain in chains if _part(file, chain[-1], KEY, where) == ONNX_KEY.encode()]
    if len(cards) != 1:
        raise CardEntryError(
            f"{where}: expected one inspection card ({ONNX_KEY}), got {len(cards)}; export the run again"
        )
    return cards[0]


def _pieces(file: BinaryIO, size: int, chain: tuple[_Field, ...], entry: bytes) -> Iterator[_Piece]:
    """The file with another entry (empty: with none) and the lengths of the messages around it that follow."""
    grown = len(entry) - (chain[-1].end - chain[-1].start)
    heads = []
    for field in reversed(chain[:-1]):
        head = _encoded(field.number << 3 | BYTES) + _encoded(field.end - field.value + grown)
        grown += len(head) - (field.value - field.start)
        heads.append(head)
    at = 0
    for field, head in zip(chain, (*reversed(heads), entry), strict=True):
        yield at, field.start
        yield head
        at = field.value
    yield chain[-1].end, size


def _bytes_of(file: BinaryIO, pieces: Iterator[_Piece]) -> Iterator[bytes]:
    """The content of the pieces in turn, a megabyte at a time."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        file.seek(piece[0])
        left = piece[1] - piece[0]
        while left > 0:
            data = file.read(min(left, BLOCK))
            if not data:
                raise OSError("it became shorter while it was read")
            yield data
            left -= len(data)


def _fields(file: BinaryIO, start: int, end: int, where: Path) -> Iterator[_Field]:
    """The fields of the message in bytes start..end, in order."""
    at = start
    while at < end:
        file.seek(at)
        tag = _varint(file, where)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value = file.tell()
            _varint(file, where)
            stop = file.tell()
        elif kind == BYTES:
            length = _varint(file, where)
            value = file.tell()
            stop = value + length
        elif kind in (FIXED32, FIXED64):
            value = file.tell()
            stop = value + (4 if kind == FIXED32 else 8)
        else:
            raise _damaged(where, at)
        if number == 0 or stop > end:
            raise _damaged(where, at)
        yield _Field(number, kind, at, value, stop)
        at = stop


def _part(file: BinaryIO, entry: _Field, number: int, where: Path) -> bytes:
    """The key or the value of an entry."""
    for field in _fields(file, entry.value, entry.end, where):
        if field.number == number and field.type == BYTES:
            file.seek(field.value)
            return file.read(field.end - field.value)
    return b""


def _varint(file: BinaryIO, where: Path) -> int:
    """Seven bits a byte, least significant first, the eighth bit says that more follow."""
    value = 0
    for i in range(MAX_VARINT):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << (7 * i)
        if byte[0] < 0x80:
            return value
    raise _damaged(where, file.tell())


def _damaged(where: Path, at: int) -> CardEntryError:
    return CardEntryError(
        f"{where}: expected an exported model, got a file that is damaged at byte {at}; copy it again"
    )


def _bytes_field(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | BYTES) + _encoded(len(value)) + value


def _encoded(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
