"""The register-token autoencoder: shapes, registers, and what learns from what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import tiny
from torch import Tensor

from vtad.backbones.efficientnet import read_weights
from vtad.backbones.layers import Attention, Registers, to_pixels, to_tokens
from vtad.config import Config, preset
from vtad.fitting.feature_statistics import fit_statistics
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector, Judgement
from vtad.models.features import BackboneFeatures
from vtad.models.score_fusion import ScorerMaps
from vtad.models.segmentation_head import SegmentationHead

CPU = torch.device("cpu")


def fitted(config: Config) -> Autoencoder:
    """A model that knows the statistics of random images, no weight left at zero, in evaluation mode."""
    torch.manual_seed(0)
    model = Autoencoder(config)
    shape = (24, config.image_height, config.image_width, 3)
    fit_statistics(model, np.random.default_rng(0).integers(0, 256, shape, np.uint8), CPU)
    for p in model.parameters():
        if p.requires_grad:
            p.data.add_(0.02 * torch.randn_like(p))
    return model.eval()


def image(config: Config, batch: int = 2, seed: int = 1) -> Tensor:
    shape = (batch, 3, config.image_height, config.image_width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_queries_and_keys_of_any_length_attend_alike() -> None:
    torch.manual_seed(0)
    attention, x = Attention(32, 2, query_key_norm=True), torch.randn(2, 9, 32)
    before = attention(x)
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        parameter[:64] *= 1e4  # so would training do that wants to attend to one token alone
    torch.testing.assert_close(attention(x), before, rtol=1e-4, atol=1e-5)
    attention.gain = None
    assert (attention(x) - before).abs().max() > 0.1


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(
    "sizes",
    [
        {"image_height": 32, "image_width": 64},
        {"image_height": 48, "image_width": 32},
        {"image_height": 64, "image_width": 96, "patch_size": 32},
        {"image_height": 32, "image_width": 48, "patch_size": 8},
    ],
)
@torch.no_grad()
def test_outputs_have_the_size_of_the_image_and_of_its_cells(registers: int, sizes: dict[str, Any]) -> None:
    config = tiny(registers=registers, **sizes)
    height, width = config.image_height, config.image_width
    prediction = fitted(config)(image(config))
    assert prediction.reconstruction.shape == (2, 3, height, width)
    assert prediction.density.shape == (2, height // 8, width // 8)
    assert torch.isfinite(prediction.density).all()


@pytest.mark.parametrize(
    "config", [tiny(image_width=64), preset("paper", "x", image_height=64, image_width=32, patch_size=16, embed_dim=16)]
)
@torch.no_grad()
def test_a_detector_gives_maps_of_the_size_of_its_input(config: Config) -> None:
    detector = Detector(config).eval()
    pixels = torch.randint(0, 256, (2, 3, config.image_height, config.image_width), dtype=torch.uint8)
    judgement = detector(pixels)
    plane = (config.image_height, config.image_width)
    assert [tuple(x.shape) for x in judgement] == [(2,), (2, *plane), (2, *plane), (2, *plane), (2, 3, *plane)]
    assert judgement._fields == ("score", "heatmap", "ssim_map", "density_map", "reconstruction")
    again = Judgement(*(torch.cat([detector(p[None])[i] for p in pixels]) for i in range(5)))
    for together, alone in zip(judgement, again, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_tokens_are_patches_and_come_back_as_pixels() -> None:
    x = torch.rand(2, 3, 32, 48)
    tokens = to_tokens(x, 16)
    assert tokens.shape == (2, 6, 768)
    assert torch.equal(tokens[0, 4].sort().values, x[0, :, 16:32, 16:32].flatten().sort().values)
    assert torch.equal(to_pixels(tokens, (2, 3), 16), x)


def test_registers_are_appended_and_dropped_at_the_output() -> None:
    x = torch.randn(2, 6, 8)
    registers = Registers(3, 8)
    longer = registers.append(x)
    assert longer.shape == (2, 9, 8)
    assert torch.equal(longer[0, 6:], longer[1, 6:])
    assert torch.equal(registers.drop(longer), x)
    assert torch.equal(Registers(0, 8).append(x), x)


@torch.no_grad()
def test_registers_are_learned_tokens_that_the_patches_attend_to() -> None:
    config = tiny(registers=3)
    model = fitted(config)
    x = image(config)
    before = model(x)
    assert torch.equal(before.reconstruction, model(x).reconstruction)  # the same at each pass, not drawn at random
    model.registers.tokens.normal_()
    assert (model(x).reconstruction - before.reconstruction).abs().max() > 1e-5
    assert isinstance(model.registers.tokens, torch.nn.Parameter)


def test_token_norms_tell_of_the_registers_only_where_there_are_any() -> None:
    for registers, keys in ((0, 2), (4, 3)):
        norms = fitted(tiny(registers=registers)).token_norms(image(tiny()))
        assert len(norms) == keys
        assert all(value > 0 for value in norms.values())
        assert ("token_norm_register_mean" in norms) == (registers > 0)


@pytest.mark.parametrize("name", ["scratch", "default"])
def test_the_observed_features_get_no_gradient_and_every_trainable_parameter_does(name: Any) -> None:
    config = tiny(name)
    model = fitted(config).train()
    corrupted, clean = image(config).requires_grad_(), image(config, seed=2).requires_grad_()
    prediction = model.denoise(corrupted, clean)
    assert prediction.logits is not None
    loss = prediction.reconstruction.square().mean() + prediction.density.mean() + prediction.logits.mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert clean.grad is None
    for key, p in model.named_parameters():
        # The last layer of the segmentation head starts at zero, so that nothing before it moves in the first step.
        learns_later = key.startswith(("segmentation_head.", "features.pyramid.")) and not key.startswith(
            "segmentation_head.logits."
        )
        assert (p.grad is not None and bool(p.grad.any() or learns_later)) == p.requires_grad, key
    trainable = [key for key, p in model.named_parameters() if p.requires_grad]
    assert not any(
        key.startswith(("features.backbone.", "whitening.", "patch_memory.", "feature_gmm.", "position_gaussian."))
        for key in trainable
    )


@torch.no_grad()
def test_the_density_is_about_the_clean_image_given_the_corrupted_one() -> None:
    config = tiny()
    model = fitted(config)
    x, y = image(config), image(config, seed=2)
    own = model.scorer_maps(x)[1].context_density
    assert own is not None
    assert torch.equal(model.denoise(x, x).density, own)
    assert torch.equal(model.denoise(x, y).reconstruction, model(x).reconstruction)  # the target is not an input
    assert not torch.equal(model.denoise(x, y).density, own)
    assert torch.equal(model.denoise(x, y, model.observe(y)).density, model.denoise(x, y).density)


@torch.no_grad()
def test_observed_features_are_uncorrelated_and_of_variance_one_over_the_training_images() -> None:
    config = tiny(feature_dim=12)
    images = np.random.default_rng(3).integers(0, 256, (64, 32, 32, 3), np.uint8)
    model = Autoencoder(config)
    fit_statistics(model, images, CPU)
    y = model.observe(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    flat = y.permute(0, 2, 3, 1).reshape(-1, 12)
    torch.testing.assert_close(flat.mean(0), torch.zeros(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(flat.T), torch.eye(12), atol=2e-2, rtol=0)


@torch.no_grad()
def test_an_untrained_model_reconstructs_the_mean_image() -> None:
    config = tiny()
    images = np.random.default_rng(4).integers(0, 256, (8, 32, 32, 3), np.uint8)
    model = Autoencoder(config).eval()
    fit_statistics(model, images, CPU)
    mean = torch.from_numpy(images.mean(0) / 255).float().permute(2, 0, 1)
    torch.testing.assert_close(model(image(config)).reconstruction[0], mean, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["scratch", "default"])
def test_in_bfloat16_training_sees_nearly_what_the_detector_computes_in_float32(name: Any) -> None:
    config = tiny(name, image_height=64, image_width=64)
    model = fitted(config)
    if isinstance(model.features, BackboneFeatures):
        model.features.load_pretrained(read_weights())
        fit_statistics(model, np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8), CPU)
    x = image(config, batch=4)
    exact = model.denoise(x, x[:1])
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.denoise(x, x[:1])
    assert exact.logits is not None
    assert rough.logits is not None
    assert rough.logits.dtype == rough.density.dtype == torch.float32
    assert (rough.logits - exact.logits).abs().mean() < 0.1 * exact.logits.std()
    assert (rough.density - exact.density).abs().mean() < 0.1 * exact.density.std()


@torch.no_grad()
def test_every_convolution_of_the_segmentation_head_is_the_same_one_in_bfloat16() -> None:
    """Some kernels of some processors are not."""
    layers = [m for m in SegmentationHead().modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(layers) == 8
    for layer in layers:
        layer.weight.normal_(std=layer.weight[0].numel() ** -0.5)
        for side in (16, 48, 96):
            x = torch.randn(4, layer.in_channels, side, side, generator=torch.Generator().manual_seed(side))
            exact = layer(x)
            with torch.autocast("cpu", torch.bfloat16):
                rough = layer(x)
            assert (rough.float() - exact).norm() < 0.02 * exact.norm(), layer


@torch.no_grad()
def test_beside_a_backbone_the_transformer_sees_pixels_and_without_one_it_sees_them_already() -> None:
    for name in ("default", "scratch"):
        model = fitted(tiny(name))
        x = image(tiny(name))
        y = model.observe(x)
        same, other = model.context(x, y), model.context(1 - x, y)
        assert torch.equal(same, other) == (name == "scratch")
        assert same.shape[1] == y.shape[1] + (96 if name == "default" else 0)


@torch.no_grad()
def test_a_scorer_that_weighs_nothing_is_pruned_and_no_result_changes() -> None:
    model = fitted(tiny())
    x = image(tiny())
    before = model(x).density
    assert model.active == ScorerMaps._fields
    model.prune()
    assert list(model.active) == ["patch_memory"]
    assert [seen is None for seen in model.scorer_maps(x)[1]] == [False, True, True, True, True]
    assert torch.equal(model(x).density, before)
