"""The ONNX fallback: the model of the same weights beside a package, which vtad-run takes where the package does not run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from vtad.run_folder import replacing
from vtad_export.onnx_format.exporter import to_onnx
from vtad_export.onnx_format.graph import executor_of
from vtad_export.proof.material import Fallback, Material
from vtad_runtime.engine.coreml_engine import plain_stem
from vtad_runtime.engine.model import ModelError
from vtad_runtime.engine.onnxruntime_engine import OnnxSession


def open_fallback(path: Path, weights_sha256: str) -> Fallback | None:
    """The proven ONNX artefact in a file; None where there is none of these weights."""
    try:
        session = OnnxSession(path)
    except ModelError:
        return None  # not there, not ours, or damaged
    if session.card.weights_sha256 != weights_sha256 or session.card.parity is None:
        return None
    return Fallback(path, executor_of(session), session.card.parity)


def fallback_of(package: Path, material: Material) -> Fallback:
    """The ONNX model that `vtad_runtime.engine.coreml_engine.onnx_fallback` finds for a package; made where there is none.

    What has the package's name stays if it is of these weights and what its name says. Else it is the float32 model under that
    name, less a final -int8: a copy of pill.onnx where that is there, or a new one. Raises ParityError, RunError, WriteError.
    """
    weights = material.card.weights_sha256
    own = package.with_suffix(".onnx")
    there = open_fallback(own, weights)
    if there and (there.parity.precision == "int8" or plain_stem(own.stem) == own.stem):
        return there
    path = own.with_stem(plain_stem(own.stem))
    plain = own.with_name(f"{material.card.identity.category}.onnx")
    if not open_fallback(path, weights):
        if open_fallback(plain, weights):
            with replacing(path) as beside:
                shutil.copyfile(plain, beside)
        else:
            to_onnx(material.run, path, material=material)
    if path != own:
        own.unlink(missing_ok=True)  # not what its name says, and it would be taken for this package's fallback
    fallback = open_fallback(path, weights)
    assert fallback is not None
    return fallback


@contextlib.contextmanager
def fallback_for(package: Path, material: Material) -> Iterator[Fallback]:
    """`fallback_of` a package; what was made for it goes when the block fails, and what was there before stays."""
    own = package.with_suffix(".onnx")
    mine = {own, own.with_stem(plain_stem(own.stem)), own.with_name("parity.json")}
    before = {path for path in mine if path.exists()}
    try:
        yield fallback_of(package, material)
    except BaseException:  # a signal's too
        for made in mine - before:
            made.unlink(missing_ok=True)
        raise
