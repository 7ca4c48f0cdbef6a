"""The detector as an exported program for Core ML: batch 1, static shapes, every operation marked with its precision.

Float16 where the arithmetic is, float32 where float16 would cancel: SSIM, and the mean of the highest cells; in the layout
`standard`, and without a backbone, the likelihoods and maps too. The mark is the module that an operation is written in.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.context_density import ContextDensity
from vtad.models.detector import SCORE_RULE, Detector, Judgement
from vtad.models.feature_gmm import FeatureGmm
from vtad.models.features import PixelFeatures
from vtad.models.paper import PaperAutoencoder
from vtad.models.patch_memory import PatchMemory
from vtad.models.position_gaussian import PositionGaussian
from vtad.models.score_fusion import ScoreFusion
from vtad.models.ssim import SSIM, Blur
from vtad.models.whitening import Whitening
from vtad_export.coreml_format.choices import Function, Layout
from vtad_export.coreml_format.likelihoods import EngineCells, EngineFusion, EngineMaps, EnginePositionGaussian
from vtad_export.coreml_format.neural_engine import ChannelAutoencoder
from vtad_export.folding.detector import adopt
from vtad_export.folding.features import LEVELS
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
FLOAT16_MODULES: tuple[type[nn.Module], ...] = (
    EnginePositionGaussian,
    EngineFusion,
)  # in spite of what they are made from
# Whitening magnifies the rounding of what varies little. Pixels are exact, so there float32 keeps it out of the density
# (drift of the score 0.002 of the spread instead of 0.07); a backbone's features are float16 anyway, and nothing is gained.
EXACT_FEATURES: tuple[type[nn.Module], ...] = (PixelFeatures, FoldedWhitening)


class Verdict(NamedTuple):
    """The outputs of the function `verdict`."""

    score: Tensor  # (B,) z-score
    heatmap: Tensor  # (B, H, W) z-scores


OUTPUTS: dict[Function, tuple[str, ...]] = {"verdict": Verdict._fields, "explain": Judgement._fields}


class EngineDetector(Detector):
    """A detector as one function of a package, for levels of 0 to 255. What the function does not give is not computed.

    Where SSIM weighs nothing in the heatmap, `verdict` needs none, nor the reconstruction.
    """

    def __init__(self, detector: Detector, function: Function = "explain") -> None:
        adopt(self, detector)
        self.function = function
        self.ssim_weighs = bool(detector.ssim_weight != 0)
        self.levels = isinstance(detector.model, ChannelAutoencoder) and detector.model.levels
        if self.levels:
            units = (float(x) for x in (detector.density_mean, detector.density_std, detector.density_weight))
            self.to_maps = EngineMaps(detector.up_rows, detector.up_columns, *units)
            self.to_cells = EngineCells(SCORE_RULE.cell)

    def forward(self, image: Tensor) -> Judgement | Verdict:  # type: ignore[override]
        """(B, 3, H, W), levels of 0 to 255."""
        x = image / LEVELS
        prediction: Prediction = self.model(image if self.levels else x)
        density_map, heatmap = self.density_maps(prediction.density)
        if not self.ssim_weighs and self.function == "verdict":
            return Verdict(self.score(heatmap), heatmap)
        ssim_map = (self.unlike(x, prediction.reconstruction) - self.ssim_mean) / self.ssim_std
        if self.ssim_weighs:
            heatmap = self.ssim_weight * ssim_map + heatmap
        if self.function == "verdict":
            return Verdict(self.score(heatmap), heatmap)
        return Judgement(self.score(heatmap), heatmap, ssim_map, density_map, prediction.reconstruction)

    def density_maps(self, density: Tensor) -> tuple[Tensor, Tensor]:
        """Fused score (B, rows, columns) -> density map (B, H, W), a z-score, and its share of the heatmap."""
        if self.levels:
            both: tuple[Tensor, Tensor] = self.to_maps(density)
            return both
        density_map = (self.up_rows @ density @ self.up_columns - self.density_mean) / self.density_std
        return density_map, self.density_weight * density_map

    def score(self, heatmap: Tensor) -> Tensor:
        """As of `Detector`; the cells' means are float16 where the heatmap is."""
        if not self.levels or self.ssim_weighs:
            return super().score(heatmap)
        return torch.topk(self.to_cells(heatmap), self.top, dim=1).values.mean(dim=1)


def prepared(detector: Detector, layout: Layout = "standard", *, fused: bool = False) -> EngineDetector:
    """A copy of the detector, in evaluation mode on the CPU, whose every part converts, in the layout asked for.

    The preset `paper` has the standard layout only. `fused`: attention as one operation, in the layout `ane`.
    """
    copied = copy.deepcopy(detector).cpu().eval()
    if layout == "ane" and isinstance(copied.model, Autoencoder):
        copied.model = ChannelAutoencoder(copied.model, fused=fused)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Whitening):
                setattr(parent, name, FoldedWhitening(child))
            elif isinstance(child, Blur):
                setattr(parent, name, ConvolutionBlur(child, channels=3 if isinstance(parent, SSIM) else 1))
    return EngineDetector(copied).eval()


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
    names = {_name(type(m)) for m in detector.modules() if isinstance(m, kinds) and not isinstance(m, FLOAT16_MODULES)}
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
