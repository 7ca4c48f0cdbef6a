"""Rows as a Parquet file: the columns of docs/results.md, and in its metadata which partition of which job they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vtad_runtime.contract.typed_json import WrongJson, parsed, typed

KEY = b"vtad.partition"
MS = ("capture_ms", "queue_age_ms", "prepare_ms", "infer_ms", "write_ms")
REGION = pa.struct(
    [
        *((name, pa.int32()) for name in ("x", "y", "width", "height")),
        ("area", pa.int64()),
        ("peak", pa.float64()),
        ("seen_by", pa.string()),
    ]
)
COLUMNS = pa.schema(
    [
        ("source", pa.string()),
        ("frame", pa.int64()),
        ("captured_at", pa.string()),
        ("file", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("alarm", pa.bool_()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("threshold", pa.float64()),
        ("regions", pa.list_(REGION)),
        ("dropped", pa.int64()),
        *((name, pa.float64()) for name in MS),
        ("heatmap", pa.string()),
        ("original", pa.string()),
        ("model_changed", pa.string()),
        ("category", pa.string()),
        ("weights", pa.string()),
        ("thumbnail", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Header:
    """What a file of rows says of itself."""

    number: int  # of the partition
    job: str  # its digest
    verdicts: dict[str, int]  # how often each was given


def to_parquet(rows: Sequence[dict[str, Any]], header: Header) -> bytes:
    """The whole file."""
    columns = {name: [_text(row[name]) for row in rows] for name in COLUMNS.names}
    about = {KEY: json.dumps(dataclasses.asdict(header)).encode()}
    table = pa.table(columns, schema=COLUMNS.with_metadata(about))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_header(path: Path, rows: int) -> Header | None:
    """Of a file of rows; None where there is none, or it is damaged or has not that many rows."""
    try:
        found = pq.read_metadata(path)
        header = typed(Header, parsed((found.metadata or {}).get(KEY, b"")), "header")
    except (OSError, pa.ArrowException, WrongJson):
        return None
    return header if found.num_rows == rows == sum(header.verdicts.values()) else None


def _text(value: Any) -> Any:
    """A value as the columns take it: names of files need not be valid text."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
