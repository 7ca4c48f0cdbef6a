"""Wrong ONNX files, as a converter with a fault or a disk would make them: a change of the graph or of its constants each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto], object]
Array = NDArray[Any]


LUMINANCE, CONTRAST = 1e-4, 9e-4  # the constants of SSIM for a range of 1


# Parts of a graph


def node(model: onnx.ModelProto, kind: str, within: str = "", number: int = 0) -> onnx.NodeProto:
    """An operation by its kind and a part of its name."""
    found: onnx.NodeProto = [n for n in model.graph.node if n.op_type == kind and within in n.name][number]
    return found


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """A constant by its name; "=name": the second input of the product of that name; "Mul name": what the last such takes."""
    if name.startswith("="):
        name = next(
            n for n in model.graph.node if n.name.startswith(name[1:]) and n.op_type in ("MatMul", "Conv")
        ).input[1]
    elif " " in name:
        constants, (kind, within) = {t.name for t in model.graph.initializer}, name.split(" ")
        takers = [n for n in model.graph.node if n.op_type == kind and within in n.name]
        name = [i for n in takers for i in n.input if i in constants][-1]
    found: onnx.TensorProto = next(t for t in model.graph.initializer if t.name == name)
    return found


def _attribute(kind: str, name: str, value: Any, within: str = "", number: int = 0) -> Change:
    def change(model: onnx.ModelProto) -> None:
        found = node(model, kind, within, number)
        kept = [a for a in found.attribute if a.name != name]
        assert len(kept) < len(found.attribute)
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _constant(name: str, edit: Callable[[Array], Array]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = constant(model, name)
        before = numpy_helper.to_array(tensor)
        after = np.asarray(edit(before.copy()), before.dtype, order="C")
        assert after.shape == before.shape
        assert after.tobytes() != before.tobytes()
        tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))

    return change


def _scalar(value: float, edit: Callable[[Array], Array]) -> Change:
    """A change of a number that is found by its value."""

    def change(model: onnx.ModelProto) -> None:
        values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if not t.dims}
        _constant(next(name for name, found in values.items() if np.isclose(found, value)), edit)(model)

    return change


def last_place(value: Array) -> Array:
    """One number, the largest, one unit in the last place nearer to zero."""
    at = np.unravel_index(np.abs(value).argmax(), value.shape)
    value[at] = np.nextafter(value[at], np.float32(0))
    return value


def _times(factor: float) -> Callable[[Array], Array]:
    return lambda value: value * np.float32(factor)


def _swapped_heads(value: Array) -> Array:
    """Queries of the two heads, of (E, 3E)."""
    width = value.shape[1] // 6
    return value[:, [*range(width, 2 * width), *range(width), *range(2 * width, value.shape[1])]]


def _flipped_bytes(value: Array) -> Array:
    rng, raw = np.random.default_rng(0), bytearray(value.tobytes())
    for place in rng.integers(len(raw) // 4, size=200):
        raw[4 * place] ^= 1 << int(rng.integers(8))  # of the lowest byte of a number
    return np.frombuffer(bytes(raw), value.dtype).reshape(value.shape)


def _one_bit(value: Array) -> Array:
    raw = bytearray(value.tobytes())
    raw[3] ^= 2
    return np.frombuffer(bytes(raw), value.dtype).reshape(value.shape)


def _lost_register(value: Array) -> Array:
    value[:, 0] = value[:, 1]
    return value


# Changes of wiring and of the interface


def _rename(before: str, after: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = after if value.name == before else value.name
        for n in model.graph.node:
            for side in (n.input, n.output):
                side[:] = [after if name == before else name for name in side]

    return change


def _exchange(first: str, second: str) -> Change:
    """Two values take each other's place as inputs."""

    def change(model: onnx.ModelProto) -> None:
        one, other = (constant(model, name).name if name.startswith("=") else name for name in (first, second))
        pair = {one: other, other: one}
        for n in model.graph.node:
            n.input[:] = [pair.get(name, name) for name in n.input]

    return change


def _exchange_outputs(first: str, second: str) -> Change:
    """Two outputs under each other's name."""

    def change(model: onnx.ModelProto) -> None:
        for before, after in ((first, "x"), (second, first), ("x", second)):
            for n in model.graph.node:
                for side in (n.input, n.output):
                    side[:] = [after if name == before else name for name in side]

    return change


def _input(edit: Callable[[Any], object]) -> Change:
    return lambda model: edit(model.graph.input[0].type.tensor_type)


def _output(number: int, edit: Callable[[Any], object]) -> Change:
    return lambda model: edit(model.graph.output[number].type.tensor_type)


def _float16_output(model: onnx.ModelProto) -> None:
    _rename("score", "score32")(model)
    model.graph.node.append(helper.make_node("Cast", ["score32"], ["score"], name="cast", to=TensorProto.FLOAT16))
    value = next(v for v in model.graph.output if v.name == "score32")
    value.name, value.type.tensor_type.elem_type = "score", TensorProto.FLOAT16


def _bgr(model: onnx.ModelProto) -> None:
    """The input is taken for BGR; its interface stays."""
    first = node(model, "Cast")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    model.graph.node.insert(0, helper.make_node("Gather", ["image", "bgr"], ["turned"], name="turn", axis=1))
    first.input[0] = "turned"


def _grey(model: onnx.ModelProto) -> None:
    """The mean of the colours in the place of each; the interface stays."""
    taker = next(n for n in model.graph.node if "_to_copy" in n.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "colours"))
    model.graph.node.insert(3, helper.make_node("ReduceMean", ["_to_copy", "colours"], ["mean_of"], name="mean_of"))
    model.graph.node.insert(4, helper.make_node("Expand", ["mean_of", "whole"], ["grey"], name="grey"))
    model.graph.node.insert(3, helper.make_node("Shape", ["_to_copy"], ["whole"], name="whole"))
    taker.input[0] = "grey"


def _extra_function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.append(helper.make_function("vtad", "second", ["x"], ["y"], body, [helper.make_opsetid("", 20)]))
    model.opset_import.append(helper.make_opsetid("vtad", 1))


def _extra_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.UINT8, ["batch", 1, 32, 32]))


def _whole_batch(model: onnx.ModelProto) -> None:
    """The score of the first picture for all: right in batches of one, wrong in every other."""
    _rename("score", "each")(model)
    next(v for v in model.graph.output if v.name == "each").name = "score"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    model.graph.node.append(helper.make_node("Gather", ["each", "first"], ["one"], name="one"))
    model.graph.node.append(helper.make_node("Shape", ["each"], ["many"], name="many"))
    model.graph.node.append(helper.make_node("Expand", ["one", "many"], ["score"], name="same"))


def _relative(model: onnx.ModelProto) -> None:
    """The score less what it differs from the batch's mean, times a millionth: nothing in a batch of one."""
    _rename("score", "each")(model)
    next(v for v in model.graph.output if v.name == "each").name = "score"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e-2, np.float32), "little"))
    model.graph.node.append(helper.make_node("ReduceMax", ["each"], ["most"], name="most", keepdims=1))
    model.graph.node.append(helper.make_node("Mul", ["most", "little"], ["some"], name="some"))
    model.graph.node.append(helper.make_node("Add", ["each", "some"], ["more"], name="more"))
    model.graph.node.append(helper.make_node("Sub", ["more", "some"], ["less"], name="less"))
    model.graph.node.append(helper.make_node("Sub", ["less", "some"], ["score"], name="wrong"))


def noisy_score(model: onnx.ModelProto) -> None:
    """Noise of a millionth in the score, another in each run."""
    _rename("score", "each")(model)
    next(v for v in model.graph.output if v.name == "each").name = "score"
    model.graph.node.append(helper.make_node("RandomNormalLike", ["each"], ["noise"], name="noise", scale=1e-6))
    model.graph.node.append(helper.make_node("Add", ["each", "noise"], ["score"], name="noisy"))


def _dims(*sizes: int) -> Callable[[Any], object]:
    def edit(tensor: Any) -> None:
        for dim, size in zip(tensor.shape.dim, sizes, strict=True):
            if size:
                dim.dim_value = size

    return edit


INTERFACE: dict[str, Change] = {
    "input of another name": _rename("image", "picture"),
    "input of float32": _input(lambda t: setattr(t, "elem_type", TensorProto.FLOAT)),
    "input of another size": _input(_dims(0, 0, 64, 64)),
    "grey input": _input(_dims(0, 1, 0, 0)),
    "channels last": _input(_dims(0, 32, 32, 3)),
    "fixed batch": _input(_dims(1, 0, 0, 0)),
    "batch by another name": _input(lambda t: setattr(t.shape.dim[0], "dim_param", "n")),
    "input of any size": _input(lambda t: setattr(t.shape.dim[2], "dim_param", "height")),
    "second input": _extra_input,
    "output of another name": _rename("density_map", "nll"),
    "output missing": lambda model: model.graph.output.pop(2),
    "outputs permuted": lambda model: model.graph.output.reverse(),
    "output of float16": _float16_output,
    "output of another shape": _output(1, _dims(0, 16, 16)),
    "one more output": lambda model: model.graph.output.append(helper.make_tensor_value_info("conv2d", 1, None)),
    "opset 21": lambda model: setattr(model.opset_import[0], "version", 21),
    "opset 19": lambda model: setattr(model.opset_import[0], "version", 19),
    "IR 9": lambda model: setattr(model, "ir_version", 9),
    "operations of somebody else": lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    "an extra function": _extra_function,
    "foreign metadata": lambda model: model.metadata_props.add(key="author", value="somebody"),
    "other reference pictures": lambda model: setattr(model.metadata_props[1], "value", "{}"),
}
WEIGHTS: dict[str, Change] = {
    f"last place of {name}": _constant(name, last_place)
    for name in (
        *(
            "model.features.pyramid.stages.0.0.weight",
            "model.features.pyramid.stages.3.2.bias",
            "model.registers.tokens",
        ),
        *("model.position", "model.encoder.0.norm1.weight", "model.encoder.0.attention.qkv.bias", "model.base_image"),
        *(
            "=model.encoder.0.attention.qkv/",
            "=model.decoder.0.mlp.2/",
            "=model.pixels/",
            "model.whitening.layer.weight",
        ),
        *(
            "model.whitening.layer.bias",
            "model.embed.weight",
            "model.patch_memory.patches.0",
            "model.position_gaussian.factor.weight",
            "model.position_gaussian.gain",
            "model.position_gaussian.directions.weight",
            "model.position_gaussian.slopes",
        ),
        *(
            "model.segmentation_head.logits.weight",
            "ssim.blur.block",
            "smooth.block",
            "up_rows",
            "density_std",
            "ssim_mean",
        ),
    )
} | {
    "200 flipped bytes in the weights": _constant("model.features.pyramid.stages.3.2.weight", _flipped_bytes),
    "one flipped bit": _constant("model.segmentation_head.second.weight", _one_bit),
    "swapped heads": _constant("=model.encoder.0.attention.qkv/", _swapped_heads),
    "a lost register": _constant("model.registers.tokens", _lost_register),
    "weights transposed in place": _constant("=model.encoder.0.attention.project/", lambda w: w.T),
    "a layer without bias": _constant("model.decoder.0.mlp.0.bias", lambda b: 0 * b),
    "another standard deviation": _constant("density_std", _times(1.001)),
    "another weight of the fusion": _constant("Mul model.patch_memory/", _times(1.01)),
    "another mean of the fusion": _constant("Sub model.patch_memory/", _times(1.01)),
    "another constant of SSIM": _scalar(CONTRAST, _times(2)),
    "another constant of SSIM's luminance": _scalar(LUMINANCE, _times(100)),
    "1/254": _scalar(1 / 255, lambda _: np.array(1 / 254)),
    "another centre of the levels": _scalar(127.5, lambda _: np.array(127.0)),
}
GRAPH: dict[str, Change] = {
    "BGR under the same interface": _bgr,
    "grey under the same interface": _grey,
    "heatmap and SSIM map exchanged": _exchange_outputs("heatmap", "ssim_map"),
    "weights of two layers exchanged": _exchange("=model.encoder.0.attention.qkv/", "=model.decoder.0.attention.qkv/"),
    "biases of two layers exchanged": _exchange("model.encoder.0.mlp.2.bias", "model.decoder.0.mlp.2.bias"),
    "rows for columns": _exchange("model.encoder.0.norm1.weight", "model.encoder.0.norm1.bias"),
    "the first score for the whole batch": _whole_batch,
    "scores that depend on the batch": _relative,
    "epsilon larger by a thousandth": _attribute("LayerNormalization", "epsilon", 1.001e-5),
    "epsilon 1e-3": _attribute("LayerNormalization", "epsilon", 1e-3),
    "softmax over queries": _attribute("Softmax", "axis", -2),
    "gelu by tanh": _attribute("Gelu", "approximate", "tanh"),
    "shuffle of pixels": _attribute("DepthToSpace", "mode", "DCR"),
    "border of a convolution": _attribute("Conv", "pads", [0, 0, 2, 2], "pyramid.stages.1.2"),
    "dilation": lambda model: [
        _attribute("Conv", "dilations", [2, 2], "pyramid.stages.1.2")(model),
        _attribute("Conv", "pads", [2, 2, 2, 2], "pyramid.stages.1.2")(model),
    ],
    "least for largest": _attribute("TopK", "largest", 0),
    "no relu": lambda model: setattr(node(model, "Relu"), "op_type", "Identity"),
    "sum for mean": lambda model: setattr(node(model, "ReduceMean", "/mean/"), "op_type", "ReduceSum"),
    "minus for plus": lambda model: setattr(node(model, "Add", number=-1), "op_type", "Sub"),
    "least for nearest": lambda model: setattr(node(model, "ReduceMax"), "op_type", "ReduceMin"),
    "cells of another size": _attribute("AveragePool", "kernel_shape", [4, 4]),
    "order of axes": lambda model: node(model, "Transpose", number=1).attribute[0].ints.reverse(),
}
# What lies below the tolerances of the proof: seen by the digests of a file that was sealed, and by nothing before.
BELOW: dict[str, Change] = {
    "the constant of SSIM's luminance in the last place": _scalar(LUMINANCE, last_place),
    "last place of a weight of the fusion": _constant("Mul model.patch_memory/", last_place),
}
