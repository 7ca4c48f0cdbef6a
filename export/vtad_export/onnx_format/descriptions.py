"""What an ONNX file says in words: names of the layers, descriptions with units; no trace of the machine that made it.

torch.onnx writes stack traces with the paths of its sources into every node, and quantization signs the file as its own.
"""

from __future__ import annotations

import ast
from typing import Any

import onnx

from vtad.version import VERSION
from vtad_export.proof.descriptions import AUTHOR, OUTPUTS, input_text, model_text
from vtad_runtime.contract.card import Card

SCOPES = "pkg.torch.onnx.name_scopes"  # the modules around a node, then its call, as a Python list


def name_nodes(model: onnx.ModelProto) -> None:
    """Name every node by its module, the call in it, and itself: model.encoder.0.attention.qkv/linear_5/MatMul_219."""
    for node in model.graph.node:
        scopes = ast.literal_eval(next((p.value for p in node.metadata_props if p.key == SCOPES), "[]"))
        module, call = ("", "", *scopes)[-2:]
        module = "" if module.startswith("_") else module  # no module: torch's own name for a call outside of all
        node.name = f"{module}/{call}/{node.name.removeprefix('node_')}"


def layer_of(node: onnx.NodeProto) -> tuple[str, str]:
    """The module and the call that a node was named by."""
    module, _, rest = node.name.partition("/")
    return module, rest.partition("/")[0]


def describe(model: onnx.ModelProto, card: Card) -> None:
    """Put vtad's descriptions in the place of all metadata and doc strings."""
    _strip(model)
    model.producer_name, model.producer_version, model.doc_string = AUTHOR, VERSION, model_text(card)
    model.graph.name = card.identity.category
    for value in model.graph.input:
        value.doc_string = f"{input_text(card)} uint8, ({card.outputs[0].shape[0]}, 3, height, width)."
    for value in model.graph.output:
        value.doc_string = OUTPUTS[value.name]


def _strip(message: Any) -> None:
    """Clear metadata and doc strings of a protobuf message and of every message in it."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _strip(inner)
