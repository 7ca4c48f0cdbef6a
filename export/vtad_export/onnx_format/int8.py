"""Int8 in ONNX: the transformer's matrix products. Never the backbone, the blurs or the calibration.

The backbone feeds the whitening, which magnifies what varies little; the matrices of the blurs and of the upsampling are to be
exact. Weights are int8 with a scale a channel, activations are rounded as they come (onnxruntime's dynamic quantization, by the
range of the whole batch: so the batch is 1, and no picture's score depends on its neighbours). What else was tried, and static
quantization (QDQ): docs/experiments.md.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from vtad.run_folder import RunError
from vtad_export.onnx_format.descriptions import layer_of
from vtad_export.onnx_format.graph import fix_batch
from vtad_export.proof.quiet import quiet
from vtad_runtime.contract.disk.files import room_beside


def int8_matmuls(model: onnx.ModelProto, beside: Path) -> onnx.ModelProto:
    """The graph with its matrix products by learned weights in int8, activations rounded dynamically, for one picture.

    `beside`: a path in a folder that can be written, for the files of the way. Raises RunError when there is nothing to
    quantize.
    """
    chosen = learned_products(model)
    if not chosen:
        raise RunError("int8: expected matrix products by learned weights in the graph, got none: export in fp32")
    with room_beside(beside) as folder:
        given, made = folder / "fp32.onnx", folder / "int8.onnx"
        given.write_bytes(model.SerializeToString())
        with quiet():  # it recommends preparations that change nothing here
            quantize_dynamic(
                given,
                made,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=chosen,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        rounded = onnx.load(made)
    fix_batch(rounded, 1)
    return rounded


def learned_products(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply activations by a learned matrix: those of torch's `linear`."""
    matrices = {t.name for t in model.graph.initializer if len(t.dims) == 2}
    chosen = []
    for node in model.graph.node:
        module, layer = layer_of(node)
        if module.startswith("model.features"):  # a backbone that is a transformer too
            continue
        if node.op_type == "MatMul" and node.input[1] in matrices and layer.startswith("linear"):
            chosen.append(node.name)
    return chosen
