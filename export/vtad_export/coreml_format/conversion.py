"""A traced detector as an .mlpackage: conversion by coremltools, compressed weights, saving, and the card inside.

Compression takes the weights of the transformer and its heads, and the backbone's only when asked: that feeds the whitening,
which magnifies what varies little (figures: docs/core-ml.md).
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from vtad.models.detector import Judgement
from vtad.run_folder import RunError
from vtad.version import VERSION
from vtad_export.coreml_format.choices import Function, Target
from vtad_export.coreml_format.graph import FLOAT32
from vtad_export.coreml_format.mlpackage import MAIN, coremltools, model_file, specification, weight_file
from vtad_export.proof.descriptions import AUTHOR, LICENCE, OUTPUTS, input_text, model_text
from vtad_export.proof.exporter import Precision
from vtad_export.proof.quiet import quiet
from vtad_runtime.contract.card import ONNX_KEY, REFERENCES_KEY, Card

SMALLEST = 2048  # elements; smaller weights stay as they are
# Parameters of vtad.models.autoencoder.Autoencoder and of its layout for the Neural Engine, as torch.export names them.
TRANSFORMER = tuple(
    f"p_model_{layout}{part}_"
    for layout in ("", "channels_")
    for part in ("embed", "encoder", "decoder", "pixels", "context_density_location", "context_density_logits")
)
# What Xcode draws in its preview tab. It has no type for heatmaps; this one takes a picture and draws a map in grey.
PREVIEW_KEY, PREVIEW = "com.apple.coreml.model.preview.type", "depthEstimation"


def convert(
    program: ExportedProgram, precision: Precision, target: Target, outputs: Sequence[str] = Judgement._fields
) -> Any:
    """A traced detector as coremltools' MLModel, not yet on disk. Raises RunError when the target is not known."""
    ct = coremltools()
    known = getattr(ct.target, target, None)
    if known is None:
        raise RunError(f"expected a target that coremltools {ct.__version__} knows, got {target}")
    shape = next(n for n in program.graph.nodes if n.name == program.graph_signature.user_inputs[0]).meta["val"].shape
    half = ct.transform.FP16ComputePrecision(op_selector=_takes_float16)
    with quiet():
        own = copy.deepcopy(program)  # a constant subtracted after a convolution is negated in place by coremltools 9
        return ct.convert(
            own,
            inputs=[ct.ImageType(name="image", shape=tuple(shape), color_layout=ct.colorlayout.RGB)],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
            convert_to="mlprogram",
            minimum_deployment_target=known,
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else half,
            skip_model_load=True,
        )


def _takes_float16(op: Any) -> bool:
    """Whether an operation was marked so by `trace`; what the converter added without a mark stays float32."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    marks = op.scopes.get(ScopeSource.EXIR_STACK_TRACE, [FLOAT32])
    return FLOAT32 not in marks


def write_package(model: Any, card: Card, path: Path, references: str | None = None) -> None:
    """Save a converted model with its card, reference pictures, descriptions and licence."""
    model.short_description = model_text(card)
    model.author, model.license, model.version = AUTHOR, LICENCE, VERSION
    model.input_description[card.input.name] = input_text(card)
    for name in model.output_description:
        model.output_description[name] = OUTPUTS[name]
    model.user_defined_metadata[ONNX_KEY] = card.to_json()
    if references is not None:
        model.user_defined_metadata[REFERENCES_KEY] = references
    model.user_defined_metadata[PREVIEW_KEY] = PREVIEW
    with quiet():
        model.save(str(path))
    _tidied(path)


def write_functions(models: Mapping[Function, Any], card: Card, path: Path, references: str | None = None) -> None:
    """Save converted models as functions of one package, which share their weights; `explain` is the default. From iOS 18 on."""
    ct = coremltools()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".vtad-") as folder:
        joined = ct.utils.MultiFunctionDescriptor()
        for name, model in models.items():
            single = Path(folder) / f"{name}.mlpackage"
            write_package(model, card, single, references)
            joined.add_function(str(single), src_function_name=MAIN, target_function_name=name)
        joined.default_function_name = "explain"
        with quiet():
            ct.utils.save_multifunction(joined, str(path))
        metadata = specification(Path(folder) / "explain.mlpackage").description.metadata
    spec = specification(path)
    spec.description.metadata.CopyFrom(metadata)  # it is not taken over
    model_file(path).write_bytes(spec.SerializeToString())
    _tidied(path)


def _tidied(path: Path) -> None:
    """Remove the converter's debugging aid, and let whoever may read the folder read the package: most of it is private."""
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    for part in (path, *path.rglob("*")):
        shutil.copymode(path.parent if part.is_dir() else weight_file(path), part)


def compressed(model: Any, precision: Precision, with_backbone: bool = False) -> Any:
    """A float16 Core ML model with its learned weights stored as fewer bits, to be computed with in float16: the file is smaller,
    the arithmetic the same.

    int8: steps of one size a channel. palettized6, palettized4: one of 64 or 16 values, which k-means chose for each tensor.
    Raises RunError when it has none.
    """
    import coremltools.optimize.coreml as optimize

    with quiet():
        found = optimize.get_weights_metadata(model, weight_threshold=SMALLEST)
        chosen = [name for name in found if is_transformers(name) or (with_backbone and is_backbones(name))]
        if not chosen:
            raise RunError(
                f"{precision}: expected weights of the transformer of {SMALLEST} numbers or more, got none: export in fp16"
            )
        if precision == "int8":
            int8 = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=SMALLEST)
            config = optimize.OptimizationConfig(op_name_configs=dict.fromkeys(chosen, int8))
            return optimize.linear_quantize_weights(model, config=config)
        bits = int(precision.removeprefix("palettized"))
        palette = optimize.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=SMALLEST)
        config = optimize.OptimizationConfig(op_name_configs=dict.fromkeys(chosen, palette))
        return optimize.palettize_weights(model, config=config)


def is_backbones(constant: str) -> bool:
    """Whether a constant is a weight of the backbone."""
    return constant.startswith("p_model_features_backbone_") and "_weight" in constant


def is_transformers(constant: str) -> bool:
    """Whether a constant is a weight of the transformer or its heads, by the name that torch.export gives a parameter."""
    return constant.startswith(TRANSFORMER) and "_weight" in constant
