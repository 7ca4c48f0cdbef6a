"""An .aimodel on disk: reads the card and compares the hash, without Apple's packages.

A folder with main.mlirb (program and weights), main.hash (the sha256 of that) and metadata.json (the card as one string).
Apple's loader does not compare the hash: we do.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vtad_runtime.contract.card import ONNX_KEY, Card, CardError

PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"


def read_asset_card(path: Path) -> Card:
    """The card of an .aimodel whose program is what was saved; needs no package of Apple's. Raises CardError."""
    verify(path)
    try:
        found = json.loads((path / METADATA).read_text(encoding="utf-8"))
        text = next(v[ONNX_KEY] for v in found.values() if isinstance(v, dict) and ONNX_KEY in v)
    except (OSError, ValueError, AttributeError) as e:
        raise CardError(f"{path}: expected an .aimodel with readable metadata, got {e}") from e
    except StopIteration as e:
        raise CardError(f"{path}: expected an .aimodel of vtad-export with its inspection card, got one without") from e
    if not isinstance(text, str):
        raise CardError(f"{path}: expected the inspection card as one string, got {type(text).__name__}")
    return Card.from_json(text, str(path))


def verify(path: Path) -> None:
    """Raise CardError where main.hash is not the sha256 of the program: Apple's loader does not look."""
    try:
        program, stored = (path / PROGRAM).read_bytes(), (path / HASH).read_bytes()
    except OSError as e:
        raise CardError(f"{path}: expected an .aimodel (a folder with {PROGRAM} and {HASH}), got {e.strerror}") from e
    if hashlib.sha256(program).digest() != stored:
        raise CardError(f"{path}: {PROGRAM} is not the program that {HASH} was written for: copy or export it again")
