"""The layout for the Neural Engine computes what the trained layout computes, and converts as meant."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

from tiny_run import tiny

from vtad.detector import Detector
from vtad.model import Autoencoder, Prediction
from vtad.run_folder import Run
from vtad.trained import load_detector
from vtad_export.coreml import convert, write_package
from vtad_export.graph import layout_of, prepared, trace
from vtad_export.lint import lint
from vtad_export.mlpackage import read_program
from vtad_export.neural_engine import ChannelAutoencoder, Project
from vtad_export.parity import samples
from vtad_export.reference_proof import prove_package


def unruly(**changes: Any) -> Autoencoder:
    """An untrained autoencoder none of whose weights is at its tidy start: gains near 0, shifts, large heads."""
    torch.manual_seed(0)
    model = Autoencoder(tiny(embed_dim=32, heads=4, depth=2, decoder_depth=2, **changes)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.normal_(0, 1)
                module.weight[0] = 1e-12
                module.bias.normal_(0, 0.5)
        for parameter in (model.pixels.weight, model.pixels.bias, model.density.location.weight):
            parameter.normal_(0, 0.05)
        model.whitening.matrix.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("changes", [{}, {"registers": 0}, {"mixture_size": 1}, {"image_width": 64}])
def test_it_equals_the_trained_layout(changes: dict[str, Any]) -> None:
    model = unruly(**changes)
    image = torch.rand(2, 3, 32, changes.get("image_width", 32))
    with torch.inference_mode():
        expected, got = model(image), ChannelAutoencoder(copy.deepcopy(model)).eval()(image)
    assert expected.reconstruction.std() > 0.05
    assert (expected.reconstruction - got.reconstruction).abs().max() <= 1e-5
    assert (expected.nll - got.nll).abs().max() <= 1e-3


def test_every_weight_of_the_transformer_matters_to_it() -> None:
    model = unruly()
    image = torch.rand(1, 3, 32, 32)
    twin = ChannelAutoencoder(copy.deepcopy(model)).eval()
    for name, part in twin.named_modules():
        if not isinstance(part, Project) or name.endswith("attention.k"):  # a shift of all keys cancels in the softmax
            continue
        before = shifted(twin, part, image, torch.zeros_like(part.bias))
        after = shifted(twin, part, image, 0.3 * torch.randn_like(part.bias))
        assert max((a - b).abs().max() for a, b in zip(before, after, strict=True)) > 1e-4, name


def shifted(twin: nn.Module, part: Project, image: Tensor, shift: Tensor) -> Prediction:
    """What the twin says when the bias of one layer is shifted."""
    kept = part.bias.data
    part.bias.data = kept + shift
    with torch.inference_mode():
        prediction: Prediction = twin(image)
    part.bias.data = kept
    return prediction


def test_the_package_has_convolutions_and_norms_for_the_transformer_and_no_linear_layers(
    trained: Run, tmp_path: Path
) -> None:
    detector, card = load_detector(trained), trained.card()
    arranged = prepared(detector, "ane")
    program = trace(arranged)
    full, half = tmp_path / "full.mlpackage", tmp_path / "half.mlpackage"
    write_package(convert(program, "fp32", "iOS16"), card, full)
    write_package(convert(program, "fp16", "iOS16"), card, half)
    read = read_program(half)
    kinds = [op.kind for op in read.operations]
    norms = [op for op in read.operations if op.kind == "layer_norm"]
    assert len(norms) == 2 + 2 + 1  # a block of the encoder, one of the decoder, the last
    assert all(len(op.outputs[0].shape) == 4 and op.outputs[0].shape[2] == 1 for op in norms)
    assert "rsqrt" not in kinds
    network = {op.outputs[0].dtype.__name__ for op in read.operations if op.kind in ("linear", "split")}
    assert network <= {"float16", "float32"}
    assert not [op for op in read.operations if op.kind == "linear" and op.outputs[0].dtype.__name__ == "float16"]
    proof = prove_package(half, full, detector, samples(trained), card.calibration, arranged)
    assert proof.parity.verdict_flips == 0
    assert "rank" not in {f.rule for f in lint(read).findings}


def test_the_paper_preset_keeps_its_layout() -> None:
    detector = Detector(tiny("paper", decoder_depth=0, patch_size=8))
    assert layout_of(prepared(detector, "ane")) == "standard"
    assert layout_of(prepared(Detector(tiny()), "ane")) == "ane"
