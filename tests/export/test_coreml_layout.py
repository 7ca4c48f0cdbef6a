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

from vtad.backbones.backbone import MAP_CHANNELS
from vtad.backbones.efficientnet import EfficientNetLite0, read_weights
from vtad.backbones.layers import Attention
from vtad.config import preset
from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.detector import Detector, Judgement
from vtad.models.feature_gmm import FeatureGmm
from vtad.models.patch_memory import PatchMemory
from vtad.models.position_gaussian import PositionGaussian
from vtad.models.segmentation_head import SegmentationHead
from vtad.run_folder import Run
from vtad_export.coreml_format.conversion import convert, write_package
from vtad_export.coreml_format.exporter import CoreMLExport
from vtad_export.coreml_format.graph import layout_of, prepared, trace
from vtad_export.coreml_format.likelihoods import (
    REACH,
    EngineFeatureGmm,
    EnginePatchMemory,
    EnginePositionGaussian,
)
from vtad_export.coreml_format.lint.generations import PRODUCT_LIMIT, REFERENCE, SMALLEST_NORMAL
from vtad_export.coreml_format.lint.report import lint
from vtad_export.coreml_format.mil import Executor
from vtad_export.coreml_format.mlpackage import read_program
from vtad_export.coreml_format.neural_engine import ChannelAutoencoder, EngineBackbone, Project
from vtad_export.coreml_format.same_program import difference
from vtad_export.folding.scorers import WHOLE, FoldedSegmentationHead


def unruly(**changes: Any) -> Autoencoder:
    """An untrained autoencoder none of whose weights is at its tidy start: gains near 0, shifts, large heads."""
    torch.manual_seed(0)
    model = Autoencoder(tiny(embed_dim=32, heads=4, depth=2, decoder_depth=2, **changes)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Attention) and module.gain is not None:
                module.gain.normal_(1, 0.5)
            if isinstance(module, nn.LayerNorm):
                module.weight.normal_(0, 1)
                module.weight[0] = 1e-12
                module.bias.normal_(0, 0.5)
        for parameter in (model.pixels.weight, model.pixels.bias, model.context_density.location.weight):
            parameter.normal_(0, 0.05)
        model.whitening.matrix.normal_(0, 0.3)
        model.score_fusion.weight.copy_(torch.tensor([0.1, 0.2, 0.3, 1.0, 0.5]))
    assert model.segmentation_head is not None
    as_trained(model.segmentation_head)
    return model


def as_trained(head: SegmentationHead, dead: bool = False) -> SegmentationHead:
    """Scales and means as of real maps, perhaps with a channel that is dead on good images, and an opinion."""
    with torch.no_grad():
        for i in range(4):
            getattr(head, f"mean{i}").uniform_(-0.5, 0.5)
            getattr(head, f"scale{i}").uniform_(0.5, 2)
            if dead:
                getattr(head, f"scale{i}")[0] = 1e4  # 1 / its standard deviation, as `fit` bounds it
        head.logits.weight.normal_(0, 0.1)
    return head


@pytest.mark.parametrize("changes", [{}, {"registers": 0}, {"mixture_size": 1}, {"image_width": 64}])
def test_it_equals_the_trained_layout(changes: dict[str, Any]) -> None:
    model = unruly(**changes)
    image = torch.rand(2, 3, 32, changes.get("image_width", 32))
    with torch.inference_mode():
        expected, got = model(image), ChannelAutoencoder(copy.deepcopy(model)).eval()(image)
    assert expected.reconstruction.std() > 0.05
    assert (expected.reconstruction - got.reconstruction).abs().max() <= 1e-5
    assert (expected.density - got.density).abs().max() <= 1e-3


@pytest.fixture(scope="module")
def backbone() -> EfficientNetLite0:
    """With its pretrained weights."""
    made = EfficientNetLite0().eval()
    made.load_pretrained(read_weights())
    return made


def test_the_backbone_with_its_normalisation_folded_equals_it(backbone: EfficientNetLite0) -> None:
    image = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (joined, maps), (got_joined, got_maps) = backbone(image), EngineBackbone(backbone)(255 * image)
    for expected, got in zip((joined, *maps), (got_joined, *got_maps), strict=True):
        assert expected.std() > 0.1
        assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()


def test_the_segmentation_head_with_its_input_scale_folded_equals_it() -> None:
    torch.manual_seed(0)
    head = as_trained(SegmentationHead().eval(), dead=True)
    maps = tuple(torch.randn(2, c, 64 // s, 64 // s) for c, s in zip(MAP_CHANNELS, (1, 2, 4, 4), strict=True))
    for i, x in enumerate(maps):
        x[:, 0] = getattr(head, f"mean{i}")[0]  # dead on good images: what its scale would magnify is rounding
    with torch.inference_mode():
        expected, got = (h(h.standard(maps)) for h in (head, FoldedSegmentationHead(head)))
    assert expected.std() > 0.1
    assert (expected - got).abs().max() <= 1e-3 * expected.abs().max()


def scorers() -> list[tuple[nn.Module, nn.Module]]:
    """Each scorer over 8 channels as it was trained, and for the Neural Engine with weight 1 and mean 0."""
    torch.manual_seed(0)
    gmm, memory, gaussian = FeatureGmm(8, 2, 3), PatchMemory(8, 16), PositionGaussian(8, 4, 4)
    following = PositionGaussian(8, 4, 4, directions=3)
    with torch.no_grad():
        gmm.centres.normal_()
        gmm.curvature.uniform_(-0.5, 4)
        gmm.log_weight.uniform_(-3, 3)
        for one in (gaussian, following):
            one.mean.normal_()
            one.factor.normal_()
            one.scale.uniform_(0.5, 2)
        following.directions.normal_(0, 0.1)
        following.slopes.normal_()
    made = [
        (gmm, EngineFeatureGmm(gmm, WHOLE)),
        (memory, EnginePatchMemory(memory, WHOLE)),
        (gaussian, EnginePositionGaussian(gaussian, WHOLE)),
        (following, EnginePositionGaussian(following, WHOLE)),
    ]
    return [(standard.eval(), engine.eval()) for standard, engine in made]


def test_scorers_for_the_engine_equal_the_trained_ones() -> None:
    features = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    for standard, engine in scorers():
        with torch.inference_mode():
            expected, got = standard(features), engine(features)
        assert expected.std() > 0.05
        assert (expected - got).abs().max() <= 1e-4 * expected.abs().max(), type(engine)


@pytest.mark.parametrize("size", [1e3, 6e4])
def test_scorers_of_a_picture_of_nothing_are_high_and_finite_in_float16(size: float) -> None:
    features = size * torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for _, engine in scorers():
        with torch.inference_mode():
            good, far = engine.half()(torch.zeros(1, 8, 4, 4).half()), engine(features.half())
        assert far.isfinite().all(), type(engine)
        assert far.min() > good.max(), type(engine)


def test_directions_of_whole_pictures_are_not_lost_where_subnormal_numbers_are_0() -> None:
    torch.manual_seed(0)
    gaussian = PositionGaussian(176, 24, 24, directions=3)
    gaussian.directions.normal_(0, 2e-5)
    engine = EnginePositionGaussian(gaussian, WHOLE)
    assert (gaussian.directions.abs() < SMALLEST_NORMAL).float().mean() > 0.9
    engine.directions[engine.directions.abs() < SMALLEST_NORMAL] = 0
    features = gaussian.directions.sum(1).sign()[None, :, :, None].expand(1, -1, -1, 16)
    expected, got = gaussian.coordinates(features), engine.coordinates(features)
    assert 0.5 < expected.min() <= expected.max() < 4
    assert (expected - got).abs().max() <= 1e-3


def test_a_coordinate_that_is_too_far_is_the_farthest_and_no_product_becomes_infinite() -> None:
    gaussian = PositionGaussian(8, 4, 4, directions=3)
    for size in (0.0, 1e-5, 0.1, 20.0):
        gaussian.directions.fill_(size)
        engine = EnginePositionGaussian(gaussian, WHOLE)
        far = torch.full((1, 1, 8, 16), 6e4)
        assert torch.matmul(engine.directions, far.clamp(max=REACH)).max() < PRODUCT_LIMIT
        assert torch.equal(engine.coordinates(far), gaussian.coordinates(far.clamp(max=REACH)))


def test_blurs_by_convolutions_equal_those_by_products() -> None:
    detector = Detector(tiny(image_width=64))
    rearranged = prepared(detector)
    x = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    for image, blur, convolutions in (
        (x, detector.ssim.blur, rearranged.ssim.blur),
        (x[:, :1], detector.smooth, rearranged.smooth),
    ):
        assert type(convolutions) is not type(blur)
        assert (blur(image) - image).abs().max() > 0.1
        assert (blur(image) - convolutions(image)).abs().max() <= 1e-6


def test_every_weight_of_the_transformer_matters_to_it() -> None:
    model = unruly()
    image = torch.rand(1, 3, 32, 32)
    rearranged = ChannelAutoencoder(copy.deepcopy(model)).eval()
    for name, part in rearranged.named_modules():
        if not isinstance(part, Project) or name.endswith("attention.k"):  # a shift of all keys cancels in the softmax
            continue
        before = shifted(rearranged, part, image, torch.zeros_like(part.bias))
        after = shifted(rearranged, part, image, 0.3 * torch.randn_like(part.bias))
        assert max((a - b).abs().max() for a, b in zip(before[:2], after[:2], strict=True)) > 1e-4, name


def shifted(rearranged: nn.Module, part: Project, image: Tensor, shift: Tensor) -> Prediction:
    """What the rearranged says when the bias of one layer is shifted."""
    kept = part.bias.data
    part.bias.data = kept + shift
    with torch.inference_mode():
        prediction: Prediction = rearranged(image)
    part.bias.data = kept
    return prediction


def test_the_package_has_convolutions_and_norms_for_the_transformer_and_no_linear_layers(
    packaged: CoreMLExport,
) -> None:
    read = read_program(packaged.path)
    kinds = [op.kind for op in read.operations]
    norms = [op for op in read.operations if op.kind == "layer_norm"]
    # A block of the encoder, one of the decoder, the last; in both blocks queries and keys of two heads.
    assert len(norms) == 2 + 2 + 1 + 2 * 2 * 2
    assert all(len(op.outputs[0].shape) == 4 and op.outputs[0].shape[2] == 1 for op in norms)
    assert "rsqrt" not in kinds
    network = {op.outputs[0].dtype.__name__ for op in read.operations if op.kind in ("linear", "split")}
    assert network <= {"float16", "float32"}
    assert not [op for op in read.operations if op.kind == "linear" and op.outputs[0].dtype.__name__ == "float16"]
    assert packaged.proof.parity.verdict_flips == 0
    assert "rank" not in {f.rule for f in lint(read).findings}


def test_the_paper_preset_keeps_its_layout() -> None:
    detector = Detector(tiny("paper", decoder_depth=0, patch_size=8))
    assert layout_of(prepared(detector, "ane")) == "standard"
    assert layout_of(prepared(Detector(tiny()), "ane")) == "ane"


@pytest.mark.service  # a model of full size
def test_the_default_architecture_at_full_size_is_likely_on_the_engine_and_computes_what_torch_does(
    trained: Run, backbone: EfficientNetLite0, tmp_path: Path
) -> None:
    """Every option at its default and every scorer, untrained except for the backbone."""
    torch.manual_seed(0)
    detector = Detector(preset("default", "pill")).eval()
    model: Any = detector.model
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, *detector.size), dtype=torch.uint8, generator=generator)
    model.features.backbone.load_state_dict(backbone.state_dict())
    as_trained(model.segmentation_head)
    with torch.no_grad():
        model.whitening.matrix.normal_(0, 0.05)
        model.pixels.weight.normal_(0, 0.05)
        model.base_image.uniform_(0, 1)
        model.position_gaussian.factor.normal_(0, 0.1)
        model.position_gaussian.directions.normal_(0, 0.01)
        model.position_gaussian.slopes.normal_(0, 0.1)
        model.feature_gmm.centres.normal_()
        model.feature_gmm.curvature.uniform_(-0.5, 1)
        _, maps = model.scorer_maps(pixels / 255)
        model.score_fusion.weight.copy_(1 / torch.stack([x.abs().max() for x in maps]))  # each counts alike
    program = trace(prepared(detector, "ane"))
    full, half = tmp_path / "full.mlpackage", tmp_path / "half.mlpackage"
    write_package(convert(program, "fp32", "iOS16"), trained.card(), full)
    write_package(convert(program, "fp16", "iOS16"), trained.card(), half)
    read = read_program(half)
    assert difference(read, read_program(full)) is None

    found = lint(read)
    for share in found.generations[REFERENCE:]:  # A14/M1 and later
        assert share.flops_share >= 0.97, share
        assert share.segments == 1, share
    declared = read.declared()
    on_engine = [op for op in read.operations if op.outputs[0].dtype.__name__ == "float16"]
    assert len(on_engine) > 200
    assert not [op for op in on_engine if op.kind.startswith(("upsample", "resize", "gather", "topk", "linear"))]
    pads = [op for op in on_engine if op.kind == "pad"]
    assert {read.constants[op.arguments["mode"][0]] for op in pads} == {"constant"}
    assert all(len(value.shape) <= 4 for value in declared.values())
    assert not [op for op in on_engine if op.kind in ("mul", "sub") and op.outputs[0].shape == (1, 3, *detector.size)]

    with torch.inference_mode():
        expected = detector(pixels)._asdict()
    got = Executor.load(full)(pixels.numpy())
    assert abs(got["reconstruction"] - expected["reconstruction"].numpy()).max() <= 1e-5
    for name in set(Judgement._fields) - {"reconstruction"}:
        size = expected[name].abs().clamp_min(1).numpy()
        assert (abs(got[name] - expected[name].numpy()) / size).max() <= 1e-3, name
