"""The ONNX fallback: the model that judges as a package does, beside it; vtad-run takes it where the package does not run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from vtad.run_folder import not_written
from vtad_export.onnx_format.exporter import to_onnx
from vtad_export.onnx_format.graph import executor_of
from vtad_export.proof.material import Fallback, Material
from vtad_runtime.contract.card import Card
from vtad_runtime.contract.disk.files import room_beside
from vtad_runtime.engine.coreml_engine import plain_stem
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.onnxruntime_engine import OnnxSession


def open_fallback(path: Path, card: Card) -> Fallback | None:
    """The proven ONNX artefact in a file; None where there is none that judges the same pictures by the same rule as `card`."""
    try:
        session = OnnxSession(path)
    except ModelError:
        return None  # not there, not ours, or damaged
    found = session.card
    if found.parity is None or _judgement(found) != _judgement(card):
        return None
    return Fallback(path, executor_of(session), found.parity)


def _judgement(card: Card) -> tuple[object, ...]:
    """What a verdict follows from: weights, the pixels they take, and the threshold, which may have been calibrated anew."""
    return card.weights_sha256, card.input, card.calibration


@contextlib.contextmanager
def fallback_for(package: Path, material: Material) -> Iterator[Fallback]:
    """The ONNX model that `vtad_runtime.engine.coreml_engine.onnx_fallback` finds for a package; made where there is none.

    What has the package's name stays if it judges as the package and is what its name says. Else it is the float32 model
    under that name, less a final -int8: a copy of pill.onnx if that judges so, or a new one. What is made takes its place when
    the block ends well; before that, and when it fails, all files are as they were. Raises ParityError, RunError, WriteError.
    """
    card = material.card
    own = package.with_suffix(".onnx")
    there = open_fallback(own, card)
    if there and (there.parity.precision == "int8" or plain_stem(own.stem) == own.stem):
        yield there
        return
    path = own.with_stem(plain_stem(own.stem))
    if there := open_fallback(path, card):
        yield there
    else:
        with _room(path) as room:
            _make(room / path.name, path.with_stem(material.card.identity.category), material)
            made = open_fallback(room / path.name, card)
            assert made is not None
            yield dataclasses.replace(made, path=path)
    if path != own:
        own.unlink(missing_ok=True)  # not what its name says, and it would be taken for this package's fallback


def _make(path: Path, plain: Path, material: Material) -> None:
    if open_fallback(plain, material.card):
        shutil.copyfile(plain, path)
    else:
        to_onnx(material.run, path, material=material)


@contextlib.contextmanager
def _room(path: Path) -> Iterator[Path]:
    """A folder beside `path`; its files take their places beside `path` when the block ends well. Raises WriteError."""
    try:
        with room_beside(path) as room:
            yield room
            for made in room.iterdir():
                made.replace(path.with_name(made.name))
    except OSError as e:
        raise not_written(path, e) from e
