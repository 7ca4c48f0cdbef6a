"""ONNX: one file with weights and card inside, uint8 in, dynamic batch; proven through the runtime itself before it is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from vtad.detector import Detector, Judgement
from vtad.run_folder import Run, make_folder, replacing, write_text
from vtad.trained import load_detector
from vtad_export.parity import Execute, ParityError, prove, samples
from vtad_runtime.card import ONNX_KEY, Card
from vtad_runtime.session import ModelError, Session

OPSET = 20
MAX_BATCH = 64


@dataclass(frozen=True)
class Export:
    """An artefact on disk, proven."""

    path: Path
    card: Card
    operations: int


def to_onnx(run: Run, path: Path | str | None = None, *, data: Path | str | None = None) -> Export:
    """Export a complete run, by default to its export/<category>.onnx, with parity.json beside it.

    `data`: where the held-out good images of the proof are, by default where the run was trained from. Raises RunError,
    CardError, DataError, or ParityError when the artefact does not agree with torch; nothing is left then.
    """
    card = run.card()
    path = Path(path) if path else run.path / "export" / f"{card.identity.category}.onnx"
    sample = samples(run, Path(data) if data else None)
    detector = load_detector(run)
    make_folder(path.parent)
    model = _graph(detector)
    with replacing(path) as beside:
        _write(model, card, beside)
        try:
            parity = prove(detector, _executor(beside), sample, card.calibration, format="onnx", precision="fp32")
            card = dataclasses.replace(card, parity=parity)
            _write(model, card, beside)
            Session(beside)  # opens, and its card is read, before it takes its place
        except ModelError as e:
            raise ParityError(f"the onnx artefact does not run: {e}; nothing was kept") from e
        write_text(path.with_name("parity.json"), json.dumps(dataclasses.asdict(parity), indent=2) + "\n")
    return Export(path, card, len(model.graph.node))


def _graph(detector: Detector) -> onnx.ModelProto:
    height, width = detector.size
    example = torch.zeros(2, 3, height, width, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    with _quiet():
        program = torch.onnx.export(
            detector,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(Judgement._fields),
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}},
        )
    assert program is not None
    model = program.model_proto
    model.producer_name = "vtad"
    onnx.checker.check_model(model)
    return model


def _write(model: onnx.ModelProto, card: Card, path: Path) -> None:
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = ONNX_KEY, card.to_json()
    path.write_bytes(model.SerializeToString())


def _executor(path: Path) -> Execute:
    session = Session(path)

    def execute(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return vars(session.run(pixels))

    return execute


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its stages and warns of its own internals; its errors are exceptions."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
