"""Replaces the inspection card inside an ONNX file without the onnx package: every other byte stays as it is.

An ONNX file is one protobuf message, ModelProto (onnx/onnx.proto); its field 14, `metadata_props`, repeats messages
StringStringEntryProto with key = 1 and value = 2. On the wire a field is a varint `number << 3 | type`, then its value
(https://protobuf.dev/programming-guides/encoding/). Weights lie in other fields; those are skipped and copied, never read
into memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vtad_runtime.contract.card import ONNX_KEY
from vtad_runtime.contract.errors import VtadError

METADATA_PROPS, KEY, VALUE = 14, 1, 2  # field numbers
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not used by ONNX
MAX_VARINT = 10  # bytes


class OnnxFileError(VtadError):
    """A file that is not one protobuf message with one card in it. One line."""


@dataclass(frozen=True)
class _Field:
    """One field of a message, as byte offsets."""

    number: int
    type: int
    start: int  # of the tag
    value: int  # of the value, after a length if it has one
    end: int


def replace_card(model: Path, text: str, out: Path) -> None:
    """Write `out`: the bytes of `model` with the card's JSON replaced by `text`. Raises OnnxFileError, OSError.

    `out` is written in place and must not be `model`; the caller gives a name beside and renames.
    """
    with model.open("rb") as source:
        size = source.seek(0, os.SEEK_END)
        entries = [f for f in _fields(source, 0, size, model) if f.number == METADATA_PROPS and f.type == BYTES]
        cards = [f for f in entries if _key(source, f, model) == ONNX_KEY.encode()]
        if len(cards) != 1:
            raise OnnxFileError(
                f"{model}: expected one inspection card ({ONNX_KEY}), got {len(cards)}; export it again"
            )
        (card,) = cards
        entry = _bytes_field(KEY, ONNX_KEY.encode()) + _bytes_field(VALUE, text.encode())
        with out.open("wb") as target:
            _copy(source, 0, card.start, target)
            target.write(_bytes_field(METADATA_PROPS, entry))
            _copy(source, card.end, size, target)


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


def _key(file: BinaryIO, entry: _Field, where: Path) -> bytes:
    """The key of a StringStringEntryProto."""
    for field in _fields(file, entry.value, entry.end, where):
        if field.number == KEY and field.type == BYTES:
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


def _damaged(where: Path, at: int) -> OnnxFileError:
    return OnnxFileError(f"{where}: expected an ONNX file, got one that is damaged at byte {at}; copy it again")


def _bytes_field(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | BYTES) + _encoded(len(value)) + value


def _encoded(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _copy(source: BinaryIO, start: int, end: int, target: BinaryIO) -> None:
    """Bytes start..end, a megabyte at a time."""
    source.seek(start)
    left = end - start
    while left > 0:
        data = source.read(min(left, 2**20))
        if not data:
            raise OSError(f"{source.name} became shorter while it was read")
        target.write(data)
        left -= len(data)
