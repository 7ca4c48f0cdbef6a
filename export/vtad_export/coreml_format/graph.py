"""The detector as an exported program for Core ML: batch 1, static shapes, every operation marked with its precision.

Float16 where the arithmetic is (backbone, transformer, heads), float32 where float16 would cancel or overflow: scale of the
pixels, likelihood, SSIM, calibration, heatmap and score. The mark is the module that an operation is written in.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from vtad.backbones.efficientnet import EfficientNetLite0
from vtad.models.autoencoder import Autoencoder
from vtad.models.context_density import ContextDensity
from vtad.models.detector import Detector
from vtad.models.feature_gmm import FeatureGmm
from vtad.models.features import PixelFeatures
from vtad.models.paper import PaperAutoencoder
from vtad.models.patch_memory import PatchMemory
from vtad.models.position_gaussian import PositionGaussian
from vtad.models.score_fusion import ScoreFusion
from vtad.models.segmentation_head import SegmentationHead
from vtad.models.ssim import SSIM, Blur
from vtad.models.whitening import Whitening
from vtad_export.coreml_format.choices import Layout
from vtad_export.coreml_format.neural_engine import ChannelAutoencoder, EngineBackbone, FoldedSegmentationHead
from vtad_export.proof.quiet import quiet

FLOAT32, FLOAT16 = "float32", "float16"


class FoldedWhitening(nn.Module):
    """`Whitening` with its mean folded into a bias: coremltools does not convert the product of a matrix and a vector."""

    matrix: Tensor
    bias: Tensor
    context_scale: Tensor

    def __init__(self, whitening: Whitening) -> None:
        super().__init__()
        self.register_buffer("matrix", whitening.matrix[:, :, None, None].clone())
        self.register_buffer("bias", -(whitening.matrix @ whitening.mean))
        self.register_buffer("context_scale", whitening.context_scale.clone())

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, rows, columns) -> (B, D, rows, columns)."""
        return F.conv2d(features, self.matrix, self.bias)

    def attenuated(self, y: Tensor) -> Tensor:
        """As `Whitening.attenuated`."""
        return y * self.context_scale


class ConvolutionBlur(nn.Module):
    """`Blur` as two 1-D convolutions a channel.

    Matrix products gain something on CPUs (vtad/models/ssim.py), and nothing on Apple's chips. All of it is float32, hence off
    the Neural Engine in any case: padding by reflection takes nothing off it.
    """

    down: Tensor
    across: Tensor

    def __init__(self, blur: Blur, channels: int) -> None:
        super().__init__()
        self.radius, self.channels = blur.radius, channels
        window = blur.block[0, : 2 * blur.radius + 1]
        self.register_buffer("down", window.reshape(1, 1, -1, 1).repeat(channels, 1, 1, 1), persistent=False)
        self.register_buffer("across", window.reshape(1, 1, 1, -1).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = F.pad(x, [self.radius] * 4, mode="reflect")
        x = F.conv2d(x, self.down, groups=self.channels)
        return F.conv2d(x, self.across, groups=self.channels)


# What they do themselves, not what the layers in them do.
FLOAT32_MODULES: tuple[type[nn.Module], ...] = (
    Detector,
    SSIM,
    ConvolutionBlur,
    ContextDensity,
    PatchMemory,
    FeatureGmm,
    PositionGaussian,
    ScoreFusion,
    PaperAutoencoder,
)
# Whitening magnifies the rounding of what varies little. Pixels are exact, so there float32 keeps it out of the density
# (drift of the score 0.002 of the spread instead of 0.07); a backbone's features are float16 anyway, and nothing is gained.
EXACT_FEATURES: tuple[type[nn.Module], ...] = (PixelFeatures, FoldedWhitening)


def prepared(detector: Detector, layout: Layout = "standard") -> Detector:
    """A copy of the detector, in evaluation mode on the CPU, whose every part converts, in the layout asked for.

    The preset `paper` has the standard layout only.
    """
    copied = copy.deepcopy(detector).cpu().eval()
    if layout == "ane" and isinstance(copied.model, Autoencoder):
        copied.model = ChannelAutoencoder(copied.model).eval()
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Whitening):
                setattr(parent, name, FoldedWhitening(child))
            elif isinstance(child, Blur):
                setattr(parent, name, ConvolutionBlur(child, channels=3 if isinstance(parent, SSIM) else 1))
            elif isinstance(child, EfficientNetLite0) and layout == "ane":
                setattr(parent, name, EngineBackbone(child))
            elif isinstance(child, SegmentationHead) and layout == "ane":
                setattr(parent, name, FoldedSegmentationHead(child))
    return copied


def layout_of(detector: Detector) -> Layout:
    """The layout that a prepared detector has."""
    return "ane" if isinstance(detector.model, ChannelAutoencoder) else "standard"


def trace(detector: Detector) -> ExportedProgram:
    """The exported program of a prepared detector; input float32 (1, 3, H, W) with values 0..255.

    Each node's stack trace is replaced by its precision: coremltools carries it along as the scope of what it makes of the
    node, and no path of this machine reaches the artefact.
    """
    example = torch.zeros(1, 3, *detector.size)
    with quiet(), torch.no_grad():
        program: ExportedProgram = torch.export.export(detector, (example,)).run_decompositions({})
    exact = any(isinstance(m, PixelFeatures) for m in detector.modules())
    kinds = (*FLOAT32_MODULES, *EXACT_FEATURES) if exact else FLOAT32_MODULES
    names = {_name(type(m)) for m in detector.modules() if isinstance(m, kinds)}
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:  # coremltools knows none, and it does nothing
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
            continue
        inside = [kind for _, kind in (node.meta.get("nn_module_stack") or {}).values()]
        node.meta["stack_trace"] = FLOAT32 if inside and _name(inside[-1]) in names else FLOAT16
    return program


def _name(kind: object) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
