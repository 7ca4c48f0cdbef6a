"""The detector as an ONNX graph: uint8 in, a free batch; and the file with the card in it, opened by the runtime's engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from vtad.models.detector import Detector, Judgement
from vtad_export.onnx_format.descriptions import describe, name_nodes
from vtad_export.proof.errors import ParityError
from vtad_export.proof.material import Execute, Values
from vtad_export.proof.quiet import quiet
from vtad_runtime.contract.card import ONNX_KEY, REFERENCES_KEY, Card
from vtad_runtime.engine.integrity import write_sealed
from vtad_runtime.engine.model import MAX_BATCH, SCORED
from vtad_runtime.engine.onnxruntime_engine import OnnxSession

OPSET, IR_VERSION = 20, 10


def onnx_graph(detector: Detector) -> onnx.ModelProto:
    """Input uint8 (batch, 3, H, W), outputs by the names of `Judgement`."""
    height, width = detector.size
    example = torch.zeros(2, 3, height, width, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    with quiet():
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
    name_nodes(model)
    onnx.checker.check_model(model)
    return model


def fix_batch(model: onnx.ModelProto, batch: int) -> None:
    """Let a graph take `batch` pictures at a time in place of any number."""
    del model.graph.value_info[:]  # shapes within the graph follow from those of its input
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.checker.check_model(model)


def write_graph(model: onnx.ModelProto, card: Card, path: Path, references: str | None = None) -> Card:
    """Save a graph with its card, its reference pictures and the digests of all; else nothing but names and descriptions.

    The card as written. Raises OSError.
    """
    describe(model, card)
    for key, text in ((ONNX_KEY, card.to_json()), (REFERENCES_KEY, references)):
        if text is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, text
    path.write_bytes(model.SerializeToString())
    return write_sealed(path, card)


def executor(path: Path) -> Execute:
    """Runs a saved file as vtad_runtime does, by both entries: the whole graph, and its part for a verdict. Raises ModelError.

    ParityError where these give another score or heatmap, be it by one bit.
    """
    session = OnnxSession(path)
    whole = executor_of(session)

    def execute(pixels: NDArray[np.uint8]) -> Values:
        everything, verdict = whole(pixels), vars(session.verdict(pixels))
        for name in SCORED:
            if everything[name].tobytes() != verdict[name].tobytes():
                off = np.abs(verdict[name] - everything[name]).max()
                raise ParityError(
                    f"the onnx artefact: expected from its part for a verdict the {name} of the whole, bit for bit, got one "
                    f"that is {off:.2e} off; nothing was kept"
                )
        return everything

    return execute


def executor_of(session: OnnxSession) -> Execute:
    """Runs an opened model: (B, 3, H, W) uint8 -> outputs by name."""

    def execute(pixels: NDArray[np.uint8]) -> Values:
        return vars(session.run(pixels))

    return execute
