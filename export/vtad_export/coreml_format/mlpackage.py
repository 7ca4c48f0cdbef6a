"""Reads a saved .mlpackage back from its bytes: the ML Program of the specification, and the constants of weight.bin.

The specification is the protobuf of Core ML (MIL.proto, Model.proto). The layout of weight.bin is that of coremltools'
MILBlob/Blob/StorageFormat.hpp: at each constant's offset a 64-byte record (sentinel, type, size in bytes, data offset).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtad.run_folder import RunError
from vtad_export.proof.quiet import quiet
from vtad_runtime.contract.card import ONNX_KEY, Card, CardError
from vtad_runtime.contract.errors import VtadError

MAIN = "main"  # the function of a package that has one
SENTINEL = 0xDEADBEEF
STRING = 2
# DataType of MIL.proto
DTYPES: dict[int, type[np.generic]] = {
    1: np.bool_,
    10: np.float16,
    11: np.float32,
    21: np.int8,
    22: np.int16,
    23: np.int32,
    31: np.uint8,
    32: np.uint16,
    33: np.uint32,
}
# BlobDataType of StorageFormat.hpp
BLOB_DTYPES: dict[int, type[np.generic]] = {
    1: np.float16,
    2: np.float32,
    3: np.uint8,
    4: np.int8,
    6: np.int16,
    7: np.uint16,
    14: np.int32,
    15: np.uint32,
}

# Indices into a palette, packed without gaps, the lowest bits first: DataType of MIL.proto, BlobDataType, bits of each.
PACKED = {35: (11, 4), 38: (13, 6)}

Constant = NDArray[Any] | str


class PackageError(VtadError):
    """A package that cannot be read, or holds what the reference executor does not know. One line, naming it."""


@dataclass(frozen=True)
class Value:
    """A declared tensor."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One operation of the program; each argument is one name, or several (`values` of concat)."""

    kind: str
    arguments: dict[str, tuple[str, ...]]
    outputs: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A function of a package."""

    inputs: tuple[Value, ...]
    constants: dict[str, Constant]
    operations: tuple[Operation, ...]  # without the constants, in order
    outputs: tuple[str, ...]
    opset: str  # e.g. CoreML6, that of iOS 16
    # Constants that the file holds as int8: the size of a step, which broadcasts to the constant's shape.
    steps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    palettes: dict[str, NDArray[Any]] = field(
        default_factory=dict
    )  # of constants held as indices: their values, ascending

    def declared(self) -> dict[str, Value]:
        """Every tensor that is computed or given, by name."""
        values = [*self.inputs, *(v for op in self.operations for v in op.outputs)]
        return {v.name: v for v in values}


def coremltools() -> ModuleType:
    """The package, imported when first needed and quietly: off a Mac it warns of every native library that it lacks.

    Raises RunError when it is not installed.
    """
    try:
        with quiet():
            import coremltools as package
    except ImportError as e:
        raise RunError(
            f"Core ML packages need coremltools, which cannot be imported ({e}): pip install 'vtad[export]'"
        ) from e
    return package  # type: ignore[no-any-return]


def specification(path: Path) -> Any:
    """The protobuf of a package. Raises PackageError when it is not one."""
    if not (path / "Manifest.json").is_file():
        raise PackageError(f"{path}: expected a Core ML package (a folder with a Manifest.json), got none")
    try:
        return coremltools().utils.load_spec(str(model_file(path)))  # of the folder, it would write Manifest.json anew
    except Exception as e:  # coremltools' errors share no base class
        raise PackageError(f"{path}: expected a Core ML package, got {type(e).__name__}: {e}"[:300]) from e


def model_file(path: Path) -> Path:
    """Where the specification of a package is."""
    return path / "Data" / "com.apple.CoreML" / "model.mlmodel"


def weight_file(path: Path) -> Path:
    """Where the constants of a package are."""
    return path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def read_package_card(path: Path) -> Card:
    """The card of a saved package. Raises PackageError or CardError."""
    text = specification(path).description.metadata.userDefined.get(ONNX_KEY)
    if text is None:
        raise CardError(f"{path}: expected a package of vtad-export with its inspection card, got one without")
    return Card.from_json(text, str(path))


def read_program(path: Path, name: str | None = None) -> Program:
    """A function of a package, by default its default one, such as `main` of a package that has one. Raises PackageError."""
    spec = specification(path)
    if spec.WhichOneof("Type") != "mlProgram":
        raise PackageError(f"{path}: expected an ML Program, got a Core ML model of type {spec.WhichOneof('Type')}")
    name = name or spec.description.defaultFunctionName or MAIN
    if name not in spec.mlProgram.functions:
        held = ", ".join(spec.mlProgram.functions)
        raise PackageError(f"{path}: expected a function {name}, got {held or 'none'}")
    function = spec.mlProgram.functions[name]
    block = function.block_specializations[function.opset]
    blob = weight_file(path).read_bytes() if weight_file(path).is_file() else b""
    constants: dict[str, Constant] = {}
    steps: dict[str, NDArray[np.float32]] = {}
    palettes: dict[str, NDArray[Any]] = {}
    operations: list[Operation] = []
    for number, op in enumerate(block.operations):
        if op.blocks:
            raise PackageError(f"{path}: operation {op.type}: nested blocks are not known to the reference executor")
        if op.type.startswith("constexpr_"):
            name = op.outputs[0].name
            given = _given(op, constants, blob, f"{path}: {op.type} {name}")
            if op.type == "constexpr_lut_to_dense":
                constants[name] = _looked_up(given)
                palettes[name] = np.unique(given["lut"])
            else:
                constants[name], steps[name] = _expanded(op.type, given, f"{path}: {op.type} {name}")
            continue
        if op.type == "const":
            constants[op.outputs[0].name] = _constant(op.attributes["val"], blob, f"{path}: {op.outputs[0].name}")
            continue
        arguments: dict[str, tuple[str, ...]] = {}
        for name, argument in op.inputs.items():
            for i, binding in enumerate(argument.arguments):
                if binding.WhichOneof("binding") == "value":
                    constants[f"#{number}.{name}.{i}"] = _constant(binding.value, blob, f"{path}: {op.type} {name}")
            arguments[name] = tuple(b.name or f"#{number}.{name}.{i}" for i, b in enumerate(argument.arguments))
        operations.append(Operation(op.type, arguments, tuple(_value(o, str(path)) for o in op.outputs)))
    inputs = tuple(_value(i, str(path)) for i in function.inputs)
    return Program(inputs, constants, tuple(operations), tuple(block.outputs), function.opset, steps, palettes)


def _given(op: Any, constants: dict[str, Constant], blob: bytes, where: str) -> dict[str, NDArray[Any]]:
    """What a constant is made of."""
    given: dict[str, Constant] = {k: _constant(v, blob, where) for k, v in op.attributes.items() if k != "name"}
    for key, argument in op.inputs.items():  # from iOS 18 on they are inputs
        (binding,) = argument.arguments
        given[key] = constants[binding.name] if binding.name else _constant(binding.value, blob, where)
    return {k: v for k, v in given.items() if not isinstance(v, str)}


def _looked_up(given: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """A constant held as indices into one palette."""
    palette, indices = given["lut"].ravel(), given["indices"]
    if "shape" in given:  # before iOS 18 they are packed into bytes
        shape = [int(v) for v in given["shape"]]
        indices = _unpacked(indices.tobytes(), palette.size.bit_length() - 1, math.prod(shape)).reshape(shape)
    return np.asarray(palette[indices])


def _unpacked(packed: bytes, bits: int, count: int) -> NDArray[np.uint8]:
    """Numbers of so many bits each, the lowest first."""
    single = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    numbers: NDArray[np.uint8] = (single << np.arange(bits, dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    return numbers


def _expanded(kind: str, arrays: dict[str, NDArray[Any]], where: str) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """A constant held as int8, and the size of its steps: scale * (data - offset)."""
    if kind == "constexpr_affine_dequantize":
        data, axis = arrays["quantized_data"], int(arrays["axis"])
        shape = [
            -1 if i == axis else 1 for i in range(data.ndim)
        ]  # a scale for each slice of this axis, or one for all
        scale, offset = (np.reshape(arrays[k], shape) for k in ("scale", "zero_point"))
    elif kind == "constexpr_blockwise_shift_scale":
        data, scale = arrays["data"], arrays["scale"]
        offset = arrays.get("offset", np.zeros((), data.dtype))
        if any(s not in (1, d) for s, d in zip(scale.shape, data.shape, strict=True)):
            raise PackageError(f"{where}: blocks smaller than a slice are not known to the reference executor")
    else:
        raise PackageError(f"{where}: this kind of constant is not known to the reference executor")
    levels = data.astype(np.float32) - offset.astype(np.float32)
    return (levels * scale.astype(np.float32)).astype(scale.dtype), np.abs(scale.astype(np.float32))


def _value(named: Any, where: str) -> Value:
    kind = named.type.tensorType
    shape = []
    for dimension in kind.dimensions:
        if dimension.WhichOneof("dimension") != "constant":
            raise PackageError(f"{where}: {named.name}: expected a static shape, got one that varies")
        shape.append(dimension.constant.size)
    if kind.dataType not in DTYPES:
        raise PackageError(f"{where}: {named.name}: data type {kind.dataType} is not known to the reference executor")
    return Value(named.name, DTYPES[kind.dataType], tuple(shape))


def _constant(value: Any, blob: bytes, where: str) -> Constant:
    kind = value.type.tensorType
    if value.WhichOneof("value") == "immediateValue" and kind.dataType == STRING:
        text: str = value.immediateValue.tensor.strings.values[0]
        return text
    shape = tuple(d.constant.size for d in kind.dimensions)
    if kind.dataType in PACKED and value.WhichOneof("value") == "blobFileValue":
        blob_type, bits = PACKED[kind.dataType]
        packed = _blob_bytes(blob, value.blobFileValue.offset, blob_type, f"uint{bits}", where)
        return _unpacked(packed, bits, math.prod(shape)).reshape(shape)
    if kind.dataType not in DTYPES:
        raise PackageError(f"{where}: data type {kind.dataType} is not known to the reference executor")
    dtype = DTYPES[kind.dataType]
    if value.WhichOneof("value") == "blobFileValue":
        flat = _from_blob(blob, value.blobFileValue.offset, dtype, where)
    else:
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        raw = getattr(tensor, field).values
        flat = np.frombuffer(raw, dtype) if isinstance(raw, bytes) else np.array(list(raw), dtype)
    if flat.size != math.prod(shape):
        raise PackageError(f"{where}: expected {math.prod(shape)} values for shape {shape}, got {flat.size}")
    return flat.reshape(shape)


def _from_blob(blob: bytes, offset: int, dtype: type[np.generic], where: str) -> NDArray[Any]:
    kind = next((number for number, known in BLOB_DTYPES.items() if known is dtype), 0)
    return np.frombuffer(_blob_bytes(blob, offset, kind, dtype.__name__, where), dtype)


def _blob_bytes(blob: bytes, offset: int, expected: int, name: str, where: str) -> bytes:
    """The bytes of a constant whose record is of the type expected; `name` says what that is."""
    if offset + 64 > len(blob):
        raise PackageError(f"{where}: expected a constant at byte {offset} of weight.bin, got a file of {len(blob)}")
    sentinel, kind, size, start = struct.unpack_from("<IIQQ", blob, offset)
    if sentinel != SENTINEL or kind != expected or start + size > len(blob):
        raise PackageError(
            f"{where}: expected {name} constants at byte {offset} of weight.bin, got a record of type {kind}, "
            f"{size} bytes at {start}"
        )
    return blob[start : start + size]
