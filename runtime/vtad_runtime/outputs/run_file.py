"""run.json: what is known of a run when it starts, and what vtad-replay needs to see each picture as the run did."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.typed_json import WrongJson, typed
from vtad_runtime.verdict.alarm import AlarmRule
from vtad_runtime.verdict.geometry import Geometry

RUN_FILE = "run.json"


class RunFileError(VtadError):
    """A run.json that cannot be read. One line."""


@dataclass(frozen=True)
class MaskFile:
    """The file of --roi-mask."""

    file: str
    sha256: str


@dataclass(frozen=True)
class RunFile:
    """The whole file; docs/results.md documents the fields."""

    started: str  # ISO 8601, UTC
    source: str  # as the user named it, without a password
    kind: str  # of the source: camera, video, stream, folder, watch
    model: str
    category: str
    created: str
    threshold: float | None
    weights_sha256: str
    roi: tuple[int, int, int, int] | None  # x, y, width, height, pixels of the source
    rotate: Literal[0, 90, 180, 270]
    flip: Literal["h", "v"] | None
    roi_mask: MaskFile | None
    unsure_from: float | None  # score
    max_age_s: float | None
    frame_check: tuple[str, ...]  # those that were made
    alarm: AlarmRule | None
    model_changed: str | None = None  # what of the model's file was changed since its export
    engine: str | None = None  # what ran the model; None of older runs
    review: float | None = None  # the share that gave `unsure_from`; None of --unsure-from, and of older runs

    @property
    def geometry(self) -> Geometry:
        """What was done to each frame first."""
        return Geometry(self.roi, self.rotate, self.flip)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    @staticmethod
    def read(file: Path) -> RunFile | None:
        """Of a results folder; None where an older vtad-run left none. Raises RunFileError."""
        known = {field.name for field in dataclasses.fields(RunFile)}
        try:
            written = json.loads(file.read_bytes())
            return typed(RunFile, {k: v for k, v in dict(written).items() if k in known}, "run")
        except FileNotFoundError:
            return None
        except OSError as e:
            raise RunFileError(f"{file}: expected a readable file, got {e.strerror}; check its permissions") from e
        except (WrongJson, ValueError, TypeError) as e:
            raise RunFileError(f"{file}: expected what vtad-run writes, got a damaged file ({e})") from e
