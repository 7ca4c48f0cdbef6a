"""golden.json: what the golden samples were when they were recorded - the model, the software, and each part."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vtad_runtime.contract.disk.files import write_whole
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.typed_json import WrongJson, parsed, typed
from vtad_runtime.line.view import View

SCHEMA = 1
SOFTWARE = ("vtad", "onnxruntime", "opencv-python-headless", "opencv-python", "pillow", "simplejpeg", "numpy")


class GoldenError(VtadError):
    """Golden samples that cannot be used. One line: expected, got, where, what to do."""


@dataclass(frozen=True)
class Part:
    """One golden picture as it was judged."""

    sha256: str  # of the picture file
    width: int  # pixels
    height: int  # pixels
    score: float
    verdict: str
    view: View


@dataclass(frozen=True)
class Model:
    """The model that judged them."""

    file: str
    sha256: str  # of the model file
    weights_sha256: str  # from its card: stays the same when a model is re-calibrated
    threshold: float


@dataclass(frozen=True)
class Record:
    """The whole file."""

    recorded: str  # ISO 8601, UTC
    model: Model
    software: dict[str, str]  # versions, and the machine
    parts: dict[str, Part]  # by path below the folder, e.g. good/1.png

    def write(self, path: Path) -> None:
        """Save, whole or not at all. Raises GoldenError."""
        text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=2, allow_nan=False) + "\n"
        try:
            write_whole(path, text.encode())
        except (OSError, UnicodeEncodeError) as e:
            raise GoldenError(
                f"{path}: could not be written: {getattr(e, 'strerror', None) or e}; the first check records the scores there"
            ) from e

    @staticmethod
    def read(path: Path) -> Record:
        """Raises GoldenError: unreadable, damaged, of another schema."""
        try:
            raw = parsed(path.read_bytes())
            if not isinstance(raw, dict) or raw.pop("schema", None) != SCHEMA:
                raise ValueError(f"expected schema {SCHEMA}")
            record = typed(Record, raw, "record")
            for name, part in record.parts.items():
                view = part.view
                if not all(map(math.isfinite, (part.score, view.brightness, *view.colour, view.contrast, view.focus))):
                    raise ValueError(f"a number is missing in {name}")
            return record
        except OSError as e:
            raise GoldenError(f"{path}: expected a readable file, got {e.strerror}; check its permissions") from e
        except (ValueError, WrongJson) as e:
            raise GoldenError(
                f"{path}: expected scores recorded by vtad-run, got a damaged file or one of another version ({e}); "
                "delete it to record anew"
            ) from e


def software() -> dict[str, str]:
    """Versions of what decodes, resizes and runs, and the processor's kind: each may move a score."""
    found = {"machine": f"{platform.system()} {platform.machine()}"}
    for name in SOFTWARE:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def sha256(path: Path) -> str:
    """Hex digest of a file; of a folder (a package), of its files' names and contents."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if file != path:
            digest.update(os.fsencode(f"{file.relative_to(path).as_posix()}\0"))
        with file.open("rb") as f:
            while block := f.read(2**20):
                digest.update(block)
    return digest.hexdigest()
