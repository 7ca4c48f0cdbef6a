"""Changes to a saved Core ML package, as a damaged file or a wrong converter would make them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vtad_export.coreml_format.mlpackage import model_file, specification, weight_file

Damage = Callable[[Path], None]


def operations(spec: Any) -> Any:
    """The operations of the program, constants among them."""
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def constant(spec: Any, name: str) -> Any:
    """The value of a constant."""
    return next(op for op in operations(spec) if op.type == "const" and op.outputs[0].name == name).attributes["val"]


def argument(spec: Any, kind: str, key: str, number: int = 0) -> Any:
    """The constant that an operation of a kind, the first or a later one, takes as `key`."""
    op = [op for op in operations(spec) if op.type == kind][number]
    return constant(spec, op.inputs[key].arguments[0].name)


def save(spec: Any, path: Path) -> None:
    model_file(path).write_bytes(spec.SerializeToString())


def overwrite(value: Any, numbers: list[Any]) -> None:
    """Overwrite an immediate constant in place, of whatever type and precision."""
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field == "bytes":
        tensor.bytes.values = np.array(numbers, np.float16).tobytes()
    else:
        held = getattr(tensor, field).values
        del held[:]
        held.extend(numbers)


def changed_weight(path: Path) -> None:
    """One weight of the attention in weight.bin, larger by a half of its size and a half."""
    spec = specification(path)
    name = next(
        op.outputs[0].name
        for op in operations(spec)
        if op.type == "const" and "_encoder_0_attention_q" in op.outputs[0].name
    )
    offset = constant(spec, name).blobFileValue.offset
    blob = bytearray(weight_file(path).read_bytes())
    _, kind, _, start = struct.unpack_from("<IIQQ", blob, offset)
    dtype: Any = np.float16 if kind == 1 else np.float32
    values = np.frombuffer(blob, dtype, 1, start)
    blob[start : start + values.nbytes] = (values * 1.5 + 0.5).astype(dtype).tobytes()
    weight_file(path).write_bytes(blob)


def changed_epsilon(path: Path) -> None:
    """1e-3 in a layer norm, instead of 1e-5."""
    spec = specification(path)
    overwrite(argument(spec, "layer_norm", "epsilon"), [1e-3])
    save(spec, path)


def swapped_axis(path: Path) -> None:
    """The softmax of the attention over queries instead of keys."""
    spec = specification(path)
    axis = argument(spec, "softmax", "axis")
    overwrite(axis, [-1 if axis.immediateValue.tensor.ints.values[0] == -2 else -2])
    save(spec, path)


def wrong_scale(path: Path) -> None:
    """1/254 for 1/255."""
    spec = specification(path)
    scale = next(
        argument_name.arguments[0].name
        for op in operations(spec)
        if op.type == "mul" and any(a.name == "image" for a in op.inputs["x"].arguments)
        for key, argument_name in op.inputs.items()
        if key == "y"
    )
    overwrite(constant(spec, scale), [1 / 254])
    save(spec, path)


def dropped_register(path: Path) -> None:
    """The tokens of the picture joined by one register fewer."""
    spec = specification(path)
    name = next(
        op.outputs[0].name
        for op in operations(spec)
        if op.type == "const" and op.outputs[0].name.startswith(("p_model_registers", "b_model_channels_registers"))
    )
    value = constant(spec, name)
    axis = 1 if name.startswith("p_") else 3  # (1, R, E), or in the layout for the Neural Engine (1, E, 1, R)
    value.type.tensorType.dimensions[axis].constant.size -= 1
    offset = value.blobFileValue.offset
    blob = bytearray(weight_file(path).read_bytes())
    _, _, size, _ = struct.unpack_from("<IIQQ", blob, offset)
    count = value.type.tensorType.dimensions[axis].constant.size
    struct.pack_into("<Q", blob, offset + 8, size * count // (count + 1))
    weight_file(path).write_bytes(blob)
    save(spec, path)


DAMAGES: tuple[Damage, ...] = (changed_weight, changed_epsilon, swapped_axis, wrong_scale, dropped_register)
