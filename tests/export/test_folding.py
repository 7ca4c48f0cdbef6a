"""The detector arranged for inference computes what the trained one does, in a graph of few operations."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
import pytest
import torch
from tiny_run import tiny

from vtad.backbones.layers import Attention
from vtad.config import Preset
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector
from vtad_export.folding.detector import folded
from vtad_export.onnx_format.graph import onnx_graph
from vtad_runtime.engine.subgraph import verdict_part


def unruly(name: Preset = "default", ssim: float = 0.0, **changes: Any) -> Detector:
    """An untrained detector none of whose weights is at its tidy start, and whose scorers count alike."""
    torch.manual_seed(0)
    detector = Detector(tiny(name, **{"patches": 600, "components": 18, "mixture_size": 1, **changes})).eval()
    model = detector.model
    with torch.no_grad():
        for weight in detector.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        for part in detector.modules():
            if isinstance(part, Attention) and part.gain is not None:
                part.gain.normal_(1, 0.5)
        for unit, number in (
            ("density_mean", 0.7),
            ("density_std", 2.0),
            ("density_weight", 0.8),
            ("ssim_weight", ssim),
        ):
            getattr(detector, unit).fill_(number)
        if isinstance(model, Autoencoder):
            _fit(model)
            maps = model.scorer_maps(torch.rand(2, 3, *detector.size))[1]
            model.score_fusion.mean.normal_()
            model.score_fusion.weight.copy_(1 / torch.stack([x.abs().max() for x in maps if x is not None]))
    detector.prune()
    return detector


def _fit(model: Autoencoder) -> None:
    """Statistics as a training leaves them: no mean is 0, no scale 1."""
    for part in (model.whitening, model.detail):
        if part is not None:
            part.matrix.normal_(0, 0.1)
            part.mean.normal_(0, 0.1)
            part.context_scale.uniform_(0.1, 1)
    model.feature_gmm.centres.normal_()
    model.feature_gmm.curvature.uniform_(-0.5, 1)
    model.feature_gmm.log_weight.uniform_(-3, 3)
    model.position_gaussian.mean.normal_()
    model.position_gaussian.factor.normal_(0, 0.1)
    model.position_gaussian.scale.uniform_(0.5, 2)
    model.context_density.base_location.normal_()
    model.context_density.base_log_sigma.normal_()
    model.base_image.uniform_(0, 1)
    nearest = model.patch_memory.nearest.patches
    nearest.bias.copy_(-0.5 * nearest.weight[:, :, 0, 0].square().sum(1))  # type: ignore[union-attr]
    assert model.segmentation_head is not None
    for i in range(4 if model.backbone_head else 0):
        getattr(model.segmentation_head, f"mean{i}").uniform_(-0.5, 0.5)
        getattr(model.segmentation_head, f"scale{i}").uniform_(0.5, 2)
    model.segmentation_head.logits.weight.normal_(0, 0.1)
    model.position_gaussian.directions.normal_(0, 0.01)
    model.position_gaussian.slopes.normal_(0, 0.3)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("default", {"image_height": 48, "image_width": 80}),  # blocks of cells that do not end with the picture
        ("default", {"ssim": 0.3, "registers": 0}),
        ("default", {"mixture_size": 2}),
        ("scratch", {}),
        ("paper", {"decoder_depth": 0, "patch_size": 8, "ssim": 0.5}),
    ],
)
def test_it_judges_as_the_trained_one_does(name: Preset, changes: dict[str, Any]) -> None:
    detector = unruly(name, **changes)
    pixels = torch.randint(0, 256, (3, 3, *detector.size), dtype=torch.uint8)
    with torch.inference_mode():
        expected, got = detector(pixels), folded(detector)(pixels)
    for output, value in expected._asdict().items():
        size = value.abs().clamp_min(1)
        assert value.std() > 0.003, output
        assert ((getattr(got, output) - value).abs() / size).max() <= 1e-4, output


def test_what_is_folded_leaves_the_trained_one_as_it_was() -> None:
    detector = unruly()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    folded(detector)
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    assert not any("Plain" in type(part).__name__ for part in detector.modules())


# Operations of the part of the default preset's graph that a verdict needs, with all five scorers, tiny. Each more is time at
# every picture: it belongs into a neighbouring product, or here with a reason.
MOST = {
    "Conv": 60,  # 33 of the backbone
    "MatMul": 19,  # 6 a block of the transformer, 3 of the patch memory, the location, 2 of the upsampling, the coordinates
    "Add": 37,
    "Clip": 24,
    "Mul": 15,
    "Reshape": 14,
    "Transpose": 11,  # 4 a block, the tokens, the cells of the patch memory, the blocks of the position Gaussian there and back
    "Sub": 9,
    "Slice": 7,
    "Relu": 7,
    "Squeeze": 6,
    "Concat": 5,
    "AveragePool": 5,
    "LayerNormalization": 9,  # 4 a block, the last
    "ReduceMax": 4,
    "Resize": 4,
    "ReduceSum": 4,
}
FEW = 2  # of any other kind
WASTE = {"Pow", "Einsum", "Identity", "Dropout", "Where", "ScatterND", "GatherND", "Erf"}
NODES = 260


@pytest.mark.slow  # the graph is traced
def test_the_graph_of_a_verdict_has_few_operations_besides_products() -> None:
    part = verdict_part(onnx_graph(folded(unruly())).SerializeToString())
    assert part is not None
    counts = Counter(node.op_type for node in onnx.load_from_string(part.model).graph.node)
    assert {kind: count for kind, count in counts.items() if count > MOST.get(kind, FEW)} == {}
    assert not WASTE & set(counts)
    assert counts.total() <= NODES
