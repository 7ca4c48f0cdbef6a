"""Protobuf on the wire: the fields of a message, found without reading their values; and files put together anew.

A field is a varint `number << 3 | type`, then its value (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vtad_runtime.engine.model import ModelError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not used by ONNX and Core ML
MAX_VARINT = 10  # bytes


class DamagedError(ModelError):
    """A file that is not one protobuf message. One line."""


class Field(NamedTuple):
    """One field of a message, as byte offsets."""

    number: int
    type: int
    start: int  # of the tag
    value: int  # of the value, after a length if it has one
    end: int


Piece = bytes | tuple[int, int]  # new bytes, or those of the file from one offset to another


def fields(data: bytes, start: int, end: int, where: Path) -> Iterator[Field]:
    """The fields of the message in bytes start..end, in order. Raises DamagedError."""
    at = start
    while at < end:
        tag, value = varint(data, at, where)
        number, kind = tag >> 3, tag & 7
        if kind == BYTES:
            length, value = varint(data, value, where)
            stop = value + length
        elif kind == VARINT:
            _, stop = varint(data, value, where)
        elif kind in (FIXED32, FIXED64):
            stop = value + (4 if kind == FIXED32 else 8)
        else:
            raise _damaged(where, at)
        if number == 0 or stop > end:
            raise _damaged(where, at)
        yield Field(number, kind, at, value, stop)
        at = stop


def value_of(data: bytes, field: Field) -> bytes:
    """The bytes of a field's value."""
    return data[field.value : field.end]


def varint(data: bytes, at: int, where: Path) -> tuple[int, int]:
    """The varint at `at`, and where it ends: seven bits a byte, least significant first, the eighth says that more follow.

    Raises DamagedError.
    """
    if at < len(data) and (byte := data[at]) < 0x80:  # as most are
        return byte, at + 1
    value = shift = 0
    for end in range(at, min(at + MAX_VARINT, len(data))):
        byte = data[end]
        if byte < 0x80:
            return value | byte << shift, end + 1
        value |= (byte & 0x7F) << shift
        shift += 7
    raise _damaged(where, at)


def contents_of(data: bytes, pieces: Iterable[Piece]) -> Iterator[bytes | memoryview]:
    """The content of the pieces in turn; of the file nothing is copied."""
    view = memoryview(data)
    for piece in pieces:
        yield piece if isinstance(piece, bytes) else view[slice(*piece)]


def head(number: int, length: int) -> bytes:
    """What stands before the value of a field of `length` bytes."""
    return _encoded(number << 3 | BYTES) + _encoded(length)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field of bytes."""
    return head(number, len(value)) + value


def _encoded(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _damaged(where: Path, at: int) -> DamagedError:
    return DamagedError(f"{where}: expected an exported model, got a file that is damaged at byte {at}; copy it again")
