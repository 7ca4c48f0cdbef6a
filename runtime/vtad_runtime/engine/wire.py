"""Protobuf on the wire: the fields of a message in a file, found without reading their values; and files put together anew.

A field is a varint `number << 3 | type`, then its value (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vtad_runtime.engine.model import ModelError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not used by ONNX and Core ML
MAX_VARINT = 10  # bytes
BLOCK = 2**20  # bytes read at once


class DamagedError(ModelError):
    """A file that is not one protobuf message. One line."""


@dataclass(frozen=True)
class Field:
    """One field of a message, as byte offsets."""

    number: int
    type: int
    start: int  # of the tag
    value: int  # of the value, after a length if it has one
    end: int


Piece = bytes | tuple[int, int]  # new bytes, or those of the file from one offset to another


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return file.seek(0, os.SEEK_END)


def fields(file: BinaryIO, start: int, end: int, where: Path) -> Iterator[Field]:
    """The fields of the message in bytes start..end, in order. Raises DamagedError."""
    at = start
    while at < end:
        file.seek(at)
        begins = file.read(2 * MAX_VARINT)  # tag, and length or value
        tag, size = _decoded(begins, 0, where, at)
        number, kind, value = tag >> 3, tag & 7, at + size
        if kind == VARINT:
            stop = at + _decoded(begins, size, where, at)[1]
        elif kind == BYTES:
            length, size = _decoded(begins, size, where, at)
            value = at + size
            stop = value + length
        elif kind in (FIXED32, FIXED64):
            stop = value + (4 if kind == FIXED32 else 8)
        else:
            raise _damaged(where, at)
        if number == 0 or stop > end:
            raise _damaged(where, at)
        yield Field(number, kind, at, value, stop)
        at = stop


def value_of(file: BinaryIO, field: Field) -> bytes:
    """The bytes of a field's value."""
    file.seek(field.value)
    return file.read(field.end - field.value)


def varint(file: BinaryIO, where: Path) -> int:
    """The one that begins where the file stands. Raises DamagedError."""
    at = file.tell()
    return _decoded(file.read(MAX_VARINT), 0, where, at)[0]


def _decoded(data: bytes, at: int, where: Path, place: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends: seven bits a byte, least significant first, the eighth says that more follow.

    `place`: of the data in the file, for the error. Raises DamagedError.
    """
    value = shift = 0
    for end in range(at, min(at + MAX_VARINT, len(data))):
        byte = data[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, end + 1
        shift += 7
    raise _damaged(where, place)


def contents_of(file: BinaryIO, pieces: Iterable[Piece]) -> Iterator[bytes]:
    """The content of the pieces in turn, a megabyte at a time. Raises OSError."""
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
