"""An ONNX file that was written, read back: its card, its interface, its constants against the checkpoint, its batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from vtad.models.detector import Detector
from vtad_export.onnx_format.descriptions import layer_of
from vtad_export.onnx_format.graph import IR_VERSION, OPSET
from vtad_export.proof.errors import ParityError
from vtad_export.proof.interface import MAIN, Function, Interface, Port, check_card, check_interface, declared
from vtad_export.proof.material import Pixels
from vtad_export.proof.tensors import tensors_of
from vtad_runtime.contract.card import ONNX_KEY, REFERENCES_KEY, Card
from vtad_runtime.contract.references import LARGEST, largest_error
from vtad_runtime.engine.model import OUTPUTS
from vtad_runtime.engine.onnxruntime_engine import OnnxSession

BATCHES = (1, 2, 7, 64)  # of the runtime's 1 to 64
MOST_BYTES = 2e9  # that judging one batch may take
# Tensors of the arranged detector that torch.onnx folds into others. They are compared by execution only.
FOLDED = tuple(f"context_density.density.{name}" for name in ("base_log_sigma", "log_sigma", "log_spread", "offset"))
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of a batch norm
QUANTIZED, SCALE = "_quantized", "_scale"  # names of onnxruntime's quantization


@dataclass(frozen=True)
class Constants:
    """How a file holds the tensors of the checkpoint."""

    equal: int  # bit for bit, under its own name or as a part of the graph
    folded: tuple[str, ...]  # into others, by `vtad_export.folding` or by torch.onnx


def read_back(
    path: Path,
    meant: Card,
    whole: onnx.ModelProto,
    arranged: Detector,
    detector: Detector,
    pixels: Pixels,
    drift: Mapping[str, float],
    references: str | None = None,
) -> Constants:
    """Open a written file with the runtime's eyes. Raises ParityError where anything is not as it was meant; ModelError.

    `whole`: the float32 graph, which a file in int8 must be, rounded. `arranged`: the detector that it was traced from;
    `detector`: as it was trained. `pixels` (N, 3, H, W): judged in the batches of `batch_sizes`, each picture as it is alone,
    within `drift`, the largest errors by output. `references`: the reference pictures it carries.
    """
    model = onnx.load(path)
    check_interface(declared_interface(meant), interface_of(model), "onnx")
    held = compare_constants(whole, arranged, detector)
    check_rounded(model, whole)
    check_attributes(model, arranged)
    sizes = batch_sizes(meant)
    session = OnnxSession(path, at_once=sizes[-1])
    check_card(meant, session.card, "onnx")
    metadata = {p.key: p.value for p in model.metadata_props if p.key != ONNX_KEY}
    if metadata != ({} if references is None else {REFERENCES_KEY: references}):
        raise ParityError(
            f"the onnx artefact: expected a card and reference pictures as metadata, got {sorted(metadata)}; nothing was kept"
        )
    if meant.outputs[0].shape == ("batch",):
        check_batches(session, pixels, drift, sizes)
    return held


def declared_interface(card: Card) -> Interface:
    """What an ONNX file with this card must offer."""
    return declared(card, "tensor uint8", {"IR": IR_VERSION, "opset": {"": OPSET}})


def interface_of(model: onnx.ModelProto) -> Interface:
    """What a file offers; its own functions, which need no call from outside, are named too, for there must be none."""
    graph = model.graph
    constants = {t.name for t in graph.initializer}
    ports = [tuple(_port(v) for v in side if v.name not in constants) for side in (graph.input, graph.output)]
    functions = [Function(MAIN, *ports), *(Function(f.name, (), ()) for f in model.functions)]
    versions = {"IR": model.ir_version, "opset": {o.domain: o.version for o in model.opset_import}}
    return Interface(versions, tuple(functions))


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        return Port(value.name, f"{value.type.WhichOneof('value')}", ())
    kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return Port(value.name, f"tensor {kind}", tuple(d.dim_param or d.dim_value for d in tensor.shape.dim))


def compare_constants(model: onnx.ModelProto, arranged: Detector, detector: Detector) -> Constants:
    """Look up every tensor of the arranged detector in a float32 graph. Raises ParityError where one is not there bit for bit.

    It is there under its own name, or without one: as it is, or transposed, as the weights of linear layers are. All zeros and
    all ones need not be there, for the exporter takes out what does nothing: a product with 0.9999999, too. Counted are the
    tensors of the checkpoint, `detector`'s.
    """
    constants = _constants(model)
    contents = {_content(value) for value in constants.values()}
    foldable = (*FOLDED, *_normalised(arranged))
    for name, value in tensors_of(arranged).items():
        there = _held(value, contents) if name not in constants else _content(constants[name]) == _content(value)
        if not (there or name.endswith(foldable) or np.allclose(value, 0) or np.allclose(value, 1)):
            raise ParityError(f"the onnx artefact: the constant {name} is not the checkpoint's; nothing was kept")
    trained = tensors_of(detector)
    folded = tuple(name for name, value in trained.items() if not _held(value, contents))
    return Constants(len(trained) - len(folded), folded)


def _held(value: NDArray[Any], contents: set[tuple[str, bytes]]) -> bool:
    """Whether a tensor is among those of a graph, as it is or transposed."""
    return _content(value) in contents or _content(value.T) in contents


def _normalised(detector: Detector) -> list[str]:
    """Tensors of convolutions with a batch norm behind them, and of that: they become one convolution."""
    names = []
    for path, part in detector.named_modules():
        layers = list(part.named_children()) if isinstance(part, nn.Sequential) else []
        for (before, _), (after, layer) in pairwise(layers):
            if isinstance(layer, nn.BatchNorm2d):
                names += [
                    f"{path}.{name}.{tensor}" for name in (before, after) for tensor in (*STATISTICS, "weight", "bias")
                ]
    return names


def check_rounded(model: onnx.ModelProto, whole: onnx.ModelProto) -> None:
    """Raise ParityError unless a graph has the constants of the float32 graph, or these in int8 to the nearest step."""
    found = _constants(model)
    for name, value in _constants(whole).items():
        same = name in found and _content(found[name]) == _content(value)
        if not same and f"{name}{QUANTIZED}" in found and f"{name}{SCALE}" in found:
            step = found[f"{name}{SCALE}"]  # one, or one for each column
            same = bool((np.abs(found[f"{name}{QUANTIZED}"] * step - value) <= 0.5001 * step).all())
        if not same:
            raise ParityError(f"the onnx artefact: the constant {name} is not that of the graph; nothing was kept")


def check_attributes(model: onnx.ModelProto, detector: Detector) -> None:
    """Raise ParityError where an operation has other attributes than the layer that it was made of, by whose name it goes.

    The proof by execution need not see an epsilon that is a little larger, nor, for small numbers, another formula of gelu.
    """
    layers = dict(detector.named_modules())
    for node in model.graph.node:
        expected = _attributes_of(layers.get(layer_of(node)[0]), node.op_type)
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for name, value in expected.items():
            if found.get(name) != value:
                raise ParityError(
                    f"the onnx artefact: {node.name}: expected {name} {value!r}, got {found.get(name)!r}; nothing was kept"
                )


def _attributes_of(layer: nn.Module | None, kind: str) -> dict[str, Any]:
    """What an operation of this kind must have, if it is a layer's."""
    if isinstance(layer, nn.LayerNorm) and kind == "LayerNormalization":
        return {"epsilon": float(np.float32(layer.eps)), "axis": -len(layer.normalized_shape)}
    if isinstance(layer, nn.GELU) and kind == "Gelu":
        return {"approximate": layer.approximate.encode()}
    if isinstance(layer, nn.Conv2d) and kind == "Conv":
        sizes = {"strides": layer.stride, "dilations": layer.dilation, "kernel_shape": layer.kernel_size}
        return {name: list(value) for name, value in sizes.items()} | {
            "group": layer.groups
        }  # a pad before it adds to pads
    return {}


def batch_sizes(card: Card) -> tuple[int, ...]:
    """The batches that are judged, smallest first: of large pictures fewer at a time, for all of a batch is in memory at once."""
    area = card.input.height * card.input.width / 384**2
    bytes_each = 24e6 * area * (1 + area)  # of the preset `default`: maps grow with the area, attention with its square
    most = max(2, int(MOST_BYTES / bytes_each))
    return tuple(sorted({min(size, most) for size in BATCHES}))


def check_batches(session: OnnxSession, pixels: Pixels, drift: Mapping[str, float], sizes: Sequence[int]) -> None:
    """Raise ParityError where a picture is judged otherwise in a batch of these sizes than alone. ModelError."""
    pixels = pixels[: sizes[-2]]
    alone = [vars(session.run(pixels[i : i + 1])) for i in range(len(pixels))]
    for size in sizes:
        which = [i % len(pixels) for i in range(size)]
        together = vars(session.run(pixels[which]))
        for name in OUTPUTS:
            expected = np.concatenate([alone[i][name] for i in which])
            error = largest_error(name, expected, together[name], session.card.calibration)
            if not error <= drift.get(name, LARGEST):
                raise ParityError(
                    f"the onnx artefact: {name} is {error:.2e} off in a batch of {size} pictures; nothing was kept"
                )


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _content(value: NDArray[Any]) -> tuple[str, bytes]:
    return value.dtype.str, value.tobytes()  # of a transposed array in the order of its axes
