"""A Core ML package that was written, read back: its card, its manifest, and the interface that an app would see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtad_export.coreml_format.choices import Target
from vtad_export.coreml_format.mlpackage import DTYPES, PackageError, read_package_card, specification
from vtad_export.proof.errors import ParityError
from vtad_export.proof.interface import (
    EVERYTHING,
    MAIN,
    Function,
    Interface,
    Port,
    check_card,
    check_digests,
    check_interface,
    declared,
)
from vtad_runtime.contract.card import Card
from vtad_runtime.engine.integrity import MANIFEST

# Specification version and operation set, by coremltools' table; a Mac's is that of the phone of its year.
VERSIONS = {"iOS16": (7, "CoreML6"), "iOS17": (8, "CoreML7"), "iOS18": (9, "CoreML8"), "iOS26": (10, "CoreML9")}
PHONES = {"macOS13": "iOS16", "macOS14": "iOS17", "macOS15": "iOS18", "macOS26": "iOS26"}
ROOT = "com.apple.CoreML/model.mlmodel"  # what the manifest is to call the model, below Data
# FeatureTypes.proto
MULTIARRAYS = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}
COLOURS = {10: "grey", 20: "RGB", 30: "BGR", 40: "grey float16"}

DEFAULT = "explain"  # the function that an app gets that asks for none, where there are several

Functions = Mapping[str, Sequence[str]]


def read_back(path: Path, meant: Card, target: Target, functions: Functions = EVERYTHING) -> None:
    """Open a written package. Raises ParityError where anything is not as it was meant; PackageError, CardError.

    `functions`: the outputs of each.
    """
    check_card(meant, read_package_card(path), "coreml")
    check_digests(path, "coreml")
    if root := _root(path):
        raise ParityError(
            f"the coreml artefact: expected {ROOT} as the model of {MANIFEST}, got {root}; nothing was kept"
        )
    spec = specification(path)
    check_interface(declared_interface(meant, target, functions), interface_of(spec), "coreml")
    check_interface(declared_program(meant, target, functions), program_of(spec), "coreml")


def declared_interface(card: Card, target: Target, functions: Functions = EVERYTHING) -> Interface:
    """What an app must find in a package with this card: a picture in, levels of 0 to 255, and float32 out."""
    versions: dict[str, object] = {"specification": VERSIONS[PHONES.get(target, target)][0]}
    if len(functions) > 1:
        versions["default function"] = DEFAULT
    return declared(card, "image RGB", versions, functions)


def declared_program(card: Card, target: Target, functions: Functions = EVERYTHING) -> Interface:
    """What its program must take and give: Core ML turns the picture into float32."""
    opset = VERSIONS[PHONES.get(target, target)][1]
    return declared(card, "tensor float32", {"operations": dict.fromkeys(sorted(functions), opset)}, functions)


def interface_of(spec: Any) -> Interface:
    """What the description of a package offers."""
    description = spec.description
    given = [(f.name, f.input, f.output, f.state) for f in description.functions] or [
        (MAIN, description.input, description.output, description.state)
    ]
    functions = [
        Function(name, tuple(_feature(i) for i in (*inputs, *state)), tuple(_feature(o) for o in outputs))
        for name, inputs, outputs, state in given
    ]
    versions: dict[str, object] = {"specification": spec.specificationVersion}
    if description.defaultFunctionName:
        versions["default function"] = description.defaultFunctionName
    if spec.isUpdatable or description.trainingInput:
        versions["updatable"] = True
    return Interface(versions, tuple(sorted(functions, key=lambda f: f.name)))


def program_of(spec: Any) -> Interface:
    """What the program of a package takes and gives. Raises PackageError where it is none."""
    if spec.WhichOneof("Type") != "mlProgram":
        raise PackageError(f"expected an ML Program, got a Core ML model of type {spec.WhichOneof('Type')}")
    functions, operations = [], {}
    for name, function in sorted(spec.mlProgram.functions.items()):
        operations[name] = function.opset
        block = function.block_specializations[function.opset]
        made = {o.name: o for op in block.operations for o in op.outputs}
        outputs = tuple(_tensor(made[o]) if o in made else Port(o, "not computed", ()) for o in block.outputs)
        functions.append(Function(name, tuple(_tensor(i) for i in function.inputs), outputs))
    return Interface({"operations": operations}, tuple(functions))


def _feature(feature: Any) -> Port:
    """An input or output of the description."""
    kind, value = feature.type.WhichOneof("Type"), feature.type
    shape: tuple[int | str, ...] = ()
    if kind == "imageType":
        image = value.imageType
        words = [f"image {COLOURS.get(image.colorSpace, 'of no colour')}", image.WhichOneof("SizeFlexibility")]
        shape = (1, 3, image.height, image.width)
    elif kind == "multiArrayType":
        array = value.multiArrayType
        words = [f"tensor {MULTIARRAYS.get(array.dataType, array.dataType)}", array.WhichOneof("ShapeFlexibility")]
        words.append(array.WhichOneof("defaultOptionalValue"))
        shape = tuple(array.shape)
    else:
        words = [str(kind)]
    words.append("optional" if value.isOptional else None)
    return Port(feature.name, " ".join(word for word in words if word), shape)


def _tensor(value: Any) -> Port:
    """An input or output of the program."""
    tensor = value.type.tensorType
    dtype = DTYPES.get(tensor.dataType)
    shape = tuple(d.constant.size if d.HasField("constant") else "free" for d in tensor.dimensions)
    return Port(value.name, f"tensor {dtype.__name__ if dtype else tensor.dataType}", shape)


def _root(path: Path) -> str | None:
    """What the manifest calls the model, where that is not ROOT."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        named = str(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        return f"no model ({type(e).__name__})"
    return None if named == ROOT else named
