"""Int8: the transformer's matrix products in ONNX, its weights in Core ML. Never the backbone, the blurs or the calibration.

The backbone feeds the whitening, which magnifies what varies little; the matrices of the blurs and of the upsampling are
to be exact. ONNX: products by learned weights; weights as int8 with a scale a channel, activations rounded as they come
(onnxruntime's dynamic quantization, by the range of the whole batch: so the batch is 1, and no picture's score depends on its
neighbours). Core ML: weights are stored as int8 and computed in float16, which makes the file
smaller and not the arithmetic. What else was tried, and static quantization (QDQ): docs/experiments.md.
"""

from __future__ import annotations

import ast
import logging
import tempfile
from pathlib import Path
from typing import Any

import onnx

from vtad.data.layout import DataError, TestImage, find_category
from vtad.run_folder import RunError
from vtad_export.proof.parity import TOLERANCE, Material

# What int8 may drift. Measured, default preset, the demo's tablets: ONNX reconstruction 0.012, ssim_map 0.23, other maps 0.03,
# score 0.005 of the spread; Core ML, whose float16 drifts as much, 0.008, 0.14, 0.11, 0.007.
INT8_DRIFT = {
    **dict.fromkeys(TOLERANCE, 1.0),  # maps: z-scores
    "reconstruction": 5e-2,  # intensity
    "score": 0.2,  # of the calibration spread
}
# Parameters of vtad.models.autoencoder.Autoencoder and of its layout for the Neural Engine, as torch.export names them.
TRANSFORMER = tuple(
    f"p_model_{layout}{part}_"
    for layout in ("", "channels_")
    for part in ("embed", "encoder", "decoder", "pixels", "context_density_location", "context_density_logits")
)
TESTS = 160  # test images that both programs judge, for AUROC and AUPRO before and after: some 20 seconds
PACKAGE_TESTS = 24  # the same for a package: the reference execution takes a third of a second each
SMALLEST = 2048  # elements; smaller weights stay as they are


def category_tests(material: Material, most: int | None = None) -> tuple[TestImage, ...]:
    """The category's test images, none where there are none; at most `most`, evenly spread over the kinds."""
    config = material.run.config()
    try:
        found = find_category(material.data or Path(config.data), config.category).test
    except DataError:
        return ()
    if most is None or len(found) <= most:
        return found
    return tuple(found[i * len(found) // most] for i in range(most))


def int8_matmuls(model: onnx.ModelProto, beside: Path) -> onnx.ModelProto:
    """The graph with its matrix products by learned weights in int8, activations rounded dynamically, for one picture.

    `beside`: a path in a folder that can be written, for the files of the way. Raises RunError when there is nothing to
    quantize.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    chosen = learned_products(model)
    if not chosen:
        raise RunError("int8: expected matrix products by learned weights in the graph, got none: export in fp32")
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=beside.parent) as folder:
        given, made = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(model.SerializeToString())
        log = logging.getLogger()
        level = log.level
        log.setLevel(logging.ERROR)  # it recommends preparations that change nothing here
        try:
            quantize_dynamic(
                given,
                made,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=chosen,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        finally:
            log.setLevel(level)
        return one_at_a_time(onnx.load(made))


def one_at_a_time(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a batch of 1 in place of a free one."""
    del model.graph.value_info[:]  # shapes within the graph follow from those of its input
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(model)
    return model


def learned_products(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply activations by a learned matrix: those of torch's `linear`."""
    matrices = {t.name for t in model.graph.initializer if len(t.dims) == 2}
    chosen = []
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        inside = ast.literal_eval(scopes)
        if "model.features" in inside:  # a backbone that is a transformer too
            continue
        if node.op_type == "MatMul" and node.input[1] in matrices and inside and inside[-1].startswith("linear"):
            chosen.append(node.name)
    return chosen


def int8_weights(model: Any) -> Any:
    """A float16 Core ML model with its learned weights as int8, one scale a channel; for `to_coreml(shrink=...)`.

    Raises RunError when it has none.
    """
    import coremltools.optimize.coreml as optimize

    from vtad_export.coreml_format.apple import quiet

    with quiet():
        found = optimize.get_weights_metadata(model, weight_threshold=SMALLEST)
        int8 = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=SMALLEST)
        chosen = {name: int8 for name in found if is_transformers(name)}
        if not chosen:
            raise RunError(
                f"int8: expected weights of the transformer of {SMALLEST} numbers or more, got none: export in fp16"
            )
        config = optimize.OptimizationConfig(op_name_configs=chosen)
        return optimize.linear_quantize_weights(model, config=config)


def is_transformers(constant: str) -> bool:
    """Whether a constant is a weight of the transformer or its heads, by the name that torch.export gives a parameter."""
    return constant.startswith(TRANSFORMER) and "_weight" in constant
