"""Wrong Core ML packages, as a converter with a fault or a disk would make them: a change of one thing each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from coreml_surgery import DAMAGES, Damage, argument, operations, overwrite, save

from vtad_export.coreml_format.mlpackage import specification, weight_file

GREY, BGR, FLOAT16, INT32 = 10, 30, 65552, 131104  # FeatureTypes.proto
MIL_FLOAT16 = 10  # DataType of MIL.proto


def _spec(edit: Callable[[Any], object]) -> Damage:
    def change(path: Path) -> None:
        spec = specification(path)
        before = spec.SerializeToString(deterministic=True)
        edit(spec)
        assert spec.SerializeToString(deterministic=True) != before
        save(spec, path)

    return change


def _input(edit: Callable[[Any], object]) -> Damage:
    return _spec(lambda spec: edit(spec.description.input[0].type))


def _output(number: int, edit: Callable[[Any], object]) -> Damage:
    return _spec(lambda spec: edit(spec.description.output[number]))


def _array_input(kind: Any) -> None:
    kind.multiArrayType.shape.extend([1, 3, 32, 32])
    kind.multiArrayType.dataType = 65568


def _sizes(kind: Any) -> None:
    ranges = kind.imageType.imageSizeRange
    ranges.widthRange.lowerBound = ranges.heightRange.lowerBound = 32
    ranges.widthRange.upperBound = ranges.heightRange.upperBound = 64


def _function(spec: Any) -> Any:
    return spec.mlProgram.functions["main"]


def _block(spec: Any) -> Any:
    function = _function(spec)
    return function.block_specializations[function.opset]


def _other_opset(spec: Any) -> None:
    function = _function(spec)
    function.block_specializations["CoreML7"].CopyFrom(_block(spec))
    del function.block_specializations[function.opset]
    function.opset = "CoreML7"


def _op(spec: Any, kind: str, number: int = 0) -> Any:
    return [op for op in operations(spec) if op.type == kind][number]


def _exchange(spec: Any, kind: str, first: str, second: str) -> None:
    """Two arguments of an operation in each other's place."""
    op = _op(spec, kind)
    names = [op.inputs[key].arguments[0].name for key in (first, second)]
    for key, name in zip((first, second), reversed(names), strict=True):
        op.inputs[key].arguments[0].name = name


def _exchange_results(spec: Any) -> None:
    """Heatmap and SSIM map under each other's name; the interface stays."""
    pair = {"heatmap": "ssim_map", "ssim_map": "heatmap"}
    for op in operations(spec):
        for value in op.outputs:
            value.name = pair.get(value.name, value.name)
        for argument_ in op.inputs.values():
            for binding in argument_.arguments:
                if binding.name in pair:
                    binding.name = pair[binding.name]


def _constant(kind: str, key: str, values: list[Any], number: int = 0) -> Damage:
    """What an operation takes as `key`, overwritten."""
    return _spec(lambda spec: overwrite(argument(spec, kind, key, number), values))


def _kind(before: str, after: str) -> Damage:
    return _spec(lambda spec: setattr(_op(spec, before), "type", after))


def _flipped_bytes(path: Path) -> None:
    rng, blob = np.random.default_rng(0), bytearray(weight_file(path).read_bytes())
    for place in rng.integers(len(blob) // 2, len(blob), size=200):
        blob[place] ^= 1
    weight_file(path).write_bytes(blob)


def _one_bit(path: Path) -> None:
    """The last place of one number in the middle of the largest constant."""
    blob = bytearray(weight_file(path).read_bytes())
    blob[2 * (len(blob) // 4)] ^= 1
    weight_file(path).write_bytes(blob)


def _manifest(path: Path) -> None:
    """Another file as the model."""
    file = path / "Manifest.json"
    manifest = json.loads(file.read_text())
    other = next(key for key in manifest["itemInfoEntries"] if key != manifest["rootModelIdentifier"])
    file.write_text(json.dumps(manifest | {"rootModelIdentifier": other}))


INTERFACE: dict[str, Damage] = {
    "BGR": _input(lambda t: setattr(t.imageType, "colorSpace", BGR)),
    "grey": _input(lambda t: setattr(t.imageType, "colorSpace", GREY)),
    "array for image": _input(_array_input),
    "another size": _input(lambda t: setattr(t.imageType, "width", 64)),
    "sizes between": _input(_sizes),
    "optional input": _input(lambda t: setattr(t, "isOptional", True)),
    "input of another name": _spec(lambda spec: setattr(spec.description.input[0], "name", "picture")),
    "second input": _spec(lambda spec: spec.description.input.add(name="mask")),
    "float16 output": _output(0, lambda o: setattr(o.type.multiArrayType, "dataType", FLOAT16)),
    "integer output": _output(1, lambda o: setattr(o.type.multiArrayType, "dataType", INT32)),
    "image output": _output(4, lambda o: setattr(o.type.imageType, "colorSpace", 20)),
    "output of another shape": _output(1, lambda o: o.type.multiArrayType.shape.append(1)),
    "output of another name": _output(3, lambda o: setattr(o, "name", "nll")),
    "output missing": _spec(lambda spec: spec.description.output.pop(2)),
    "outputs permuted": _spec(lambda spec: spec.description.output.reverse()),
    "one more output": _spec(lambda spec: spec.description.output.add(name="more")),
    "specification 8": _spec(lambda spec: setattr(spec, "specificationVersion", 8)),
    "specification 6": _spec(lambda spec: setattr(spec, "specificationVersion", 6)),
    "operations of iOS 17": _spec(_other_opset),
    "an extra function": _spec(lambda spec: spec.mlProgram.functions["second"].CopyFrom(_function(spec))),
    "a described function": _spec(lambda spec: spec.description.functions.add(name="second")),
    "updatable": _spec(lambda spec: setattr(spec, "isUpdatable", True)),
    "state": _spec(lambda spec: spec.description.state.add(name="memory")),
    "program with an output less": _spec(lambda spec: _block(spec).outputs.pop()),
    "program with outputs permuted": _spec(lambda spec: _block(spec).outputs.reverse()),
    "program of float16 input": _spec(
        lambda spec: setattr(_function(spec).inputs[0].type.tensorType, "dataType", MIL_FLOAT16)
    ),
    "another root in the manifest": _manifest,
}
PROGRAM: dict[str, Damage] = {
    **{damage.__name__.replace("_", " "): damage for damage in DAMAGES},
    "200 flipped bytes in the weights": _flipped_bytes,
    "one flipped bit": _one_bit,
    "heatmap and SSIM map exchanged": _spec(_exchange_results),
    "minuend and subtrahend": _spec(lambda spec: _exchange(spec, "sub", "x", "y")),
    "factors of attention": _spec(lambda spec: _exchange(spec, "matmul", "x", "y")),
    "relu for relu6": _kind("relu", "relu6"),
    "sum for mean": _kind("reduce_mean", "reduce_sum"),
    "plus for times": _kind("mul", "add"),
    "gelu by tanh": _constant("gelu", "mode", ["TANH_APPROXIMATION"]),
    "another stride": _constant("conv", "strides", [2, 2], 1),
    "another dilation": _constant("conv", "dilations", [2, 2], 1),
    "least for largest": _constant("topk", "ascending", [True]),
}
