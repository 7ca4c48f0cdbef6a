"""The whole detector, arranged for inference: uint8 in, the same outputs, fewer operations.

Trained weights between which nothing stands are folded into each other, in float64:

standard                          here
image / 255, then 2 x - 1         image - 127.5, and the rest in the first convolution
a token's pixels: layout,         one convolution of the picture, whose stride is a token
whitening, attenuation, embedding
its features: attenuation,        one convolution of the whitened features, likewise
layout, embedding
attention                         its three products, written out
(density - mean) / std            on cells, since what is upsampled is a mean of them
scorers, and their fusion         vtad_export/folding/scorers.py
"""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.layers import Attention, Block, to_pixels
from vtad.models.autoencoder import Autoencoder, Prediction
from vtad.models.detector import Detector, Judgement
from vtad.models.score_fusion import ScorerMaps
from vtad.models.whitening import Whitening
from vtad_export.folding.features import (
    CENTRE,
    CellPixels,
    FoldedBackbone,
    convolution,
    folded_features,
    of_pixels,
    picture,
)
from vtad_export.folding.scorers import (
    EarlySegmentationHead,
    FoldedFeatureGmm,
    FoldedPatchMemory,
    FoldedPositionGaussian,
    FoldedSegmentationHead,
    Share,
    folded_density,
)


class FoldedAutoencoder(nn.Module):
    """`Autoencoder` for inference, from a trained one that is pruned. The transformer's blocks are as they were trained."""

    base_image: Tensor

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.grid, self.patch = model.grid, model.patch
        self.features = folded_features(model.features)
        self.whitening = self.features.projection(*_matrix_of(model.whitening))
        cells, dim = model.cells, model.density_dim
        embed = model.embed.weight.detach().double()
        embed = embed.reshape(len(embed), -1, cells, cells)  # (E, D + D', cells, cells)
        bias = model.embed.bias.detach().double()
        self.embed_pixels: nn.Conv2d | None = None
        if model.detail is not None:
            kernel, bias = _pixels_of_tokens(embed[:, dim:], bias, model.detail)
            self.embed_pixels = convolution(kernel, stride=self.patch)
        self.embed = convolution(embed[:, :dim] * model.whitening.context_scale.double(), bias, stride=cells)
        self.position, self.registers = model.position, model.registers
        self.encoder, self.decoder = model.encoder, model.decoder
        self.norm, self.pixels = model.norm, model.pixels
        self.register_buffer("base_image", model.base_image)
        self._add_scorers(model)

    def _add_scorers(self, model: Autoencoder) -> None:
        """Those that weigh something; the others are None."""
        fusion = zip(model.score_fusion.weight.tolist(), model.score_fusion.mean.tolist(), strict=True)
        share = {name: Share(*given) for name, given in zip(ScorerMaps._fields, fusion, strict=True)}
        self.patch_memory = self.feature_gmm = self.position_gaussian = None
        self.context_density = self.segmentation_head = None
        there, seen = model.active, self.features
        if "patch_memory" in there:
            self.patch_memory = FoldedPatchMemory(model.patch_memory, seen, share["patch_memory"])
        if "feature_gmm" in there:
            self.feature_gmm = FoldedFeatureGmm(model.feature_gmm, seen, share["feature_gmm"])
        if "position_gaussian" in there:
            self.position_gaussian = FoldedPositionGaussian(model.position_gaussian, share["position_gaussian"])
        if "context_density" in there:
            self.context_density = folded_density(model.context_density, share["context_density"])
        if model.segmentation_head is not None:
            kind = EarlySegmentationHead if isinstance(seen, FoldedBackbone) else FoldedSegmentationHead
            self.segmentation_head = kind(model.segmentation_head, share["segmentation_head"])

    def forward(self, centred: Tensor) -> Prediction:
        """Centred levels (B, 3, H, W), as of `vtad_export.folding.features`."""
        seen, maps = self.features(centred)
        y = self.whitening(seen)
        tokens = self.decoded(centred, y)
        reconstruction = self.base_image + to_pixels(self.pixels(tokens), self.grid, self.patch)
        if isinstance(self.features, CellPixels):
            maps = self.features.maps(centred, reconstruction)
        shares = [scorer(seen) for scorer in (self.patch_memory, self.feature_gmm) if scorer is not None]
        if self.position_gaussian is not None:
            shares.append(self.position_gaussian(y))
        if self.context_density is not None:
            shares.append(self.context_density(tokens, y))
        if self.segmentation_head is not None:
            shares.append(self.segmentation_head(maps))
        return Prediction(reconstruction, sum(shares[1:], start=shares[0]))

    def decoded(self, centred: Tensor, y: Tensor) -> Tensor:
        """Centred levels (B, 3, H, W) and whitened features (B, D, rows, columns) -> tokens (B, N, E)."""
        x = self.embed(y)
        if self.embed_pixels is not None:
            x = x + self.embed_pixels(centred)
        x = self.registers.append(x.flatten(2).transpose(1, 2) + self.position)
        for block in (*self.encoder, *self.decoder):
            x = block(x)
        out: Tensor = self.norm(self.registers.drop(x))
        return out


class PlainAttention(Attention):
    """`Attention` as the products that it is, of which every exporter makes the same few operations."""

    scale: Tensor  # (heads, 1, width), or a number; of queries

    def __init__(self, attention: Attention) -> None:
        adopt(self, attention)
        scale = torch.tensor((attention.project.in_features // attention.heads) ** -0.5)
        self.normalised = attention.gain is not None
        self.register_buffer("scale", scale if attention.gain is None else attention.gain.detach() * scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        width = x.shape[2] // self.heads
        qkv = self.qkv(x).reshape(-1, x.shape[1], 3, self.heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, width)
        if self.normalised:
            q, k = F.layer_norm(q, (width,)), F.layer_norm(k, (width,))
        weights = torch.softmax((q * self.scale) @ k.transpose(2, 3), dim=3)  # (B, heads, N, N)
        out: Tensor = self.project((weights @ v).transpose(1, 2).flatten(2))
        return out


class FoldedDetector(Detector):
    """`Detector` for inference, from a trained one that is pruned."""

    def __init__(self, detector: Detector) -> None:
        adopt(self, detector)
        if isinstance(detector.model, Autoencoder):
            self.model = FoldedAutoencoder(detector.model)
        for block in list(self.modules()):
            if isinstance(block, Block):
                block.attention = PlainAttention(block.attention)

    def forward(self, image: Tensor) -> Judgement:
        """Uint8 RGB (B, 3, H, W)."""
        centred = image.float() - CENTRE
        x = picture(centred)
        prediction: Prediction = self.model(centred if isinstance(self.model, FoldedAutoencoder) else x)
        cells = (prediction.density - self.density_mean) / self.density_std
        density_map = self.up_rows @ cells @ self.up_columns
        heatmap = self.density_weight * density_map
        ssim_map = (self.unlike(x, prediction.reconstruction) - self.ssim_mean) / self.ssim_std
        if self.ssim_weighs:
            heatmap = self.ssim_weight * ssim_map + heatmap
        return Judgement(self.score(heatmap), heatmap, ssim_map, density_map, prediction.reconstruction)


def folded(detector: Detector) -> FoldedDetector:
    """A copy, on the CPU, in evaluation mode."""
    return FoldedDetector(copy.deepcopy(detector).cpu()).eval()


def adopt(made: nn.Module, module: nn.Module, without: Collection[str] = ()) -> None:
    """Make `made` a module of what another has: its attributes, buffers and parts, but for those named."""
    nn.Module.__init__(made)
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    for name, value in (*own.items(), *module.named_children()):
        if name not in without:
            setattr(made, name, value)
    for name, buffer in module.named_buffers(recurse=False):
        if name not in without:
            made.register_buffer(name, buffer)


def _matrix_of(whitening: Whitening) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias (O,) of a whitening, float64."""
    matrix = whitening.matrix.double()
    return matrix, -(matrix @ whitening.mean.double())


def _pixels_of_tokens(embed: Tensor, bias: Tensor, detail: Whitening) -> tuple[Tensor, Tensor]:
    """The embedding (E, D', cells, cells), (E,) of whitened, attenuated cells of pixels -> that of centred levels.

    A kernel (E, 3, patch, patch), and the bias.
    """
    whiten, shift = of_pixels(*_matrix_of(detail))  # (D', 3, CELL, CELL), (D',)
    embed = embed * detail.context_scale.double()
    kernel = torch.einsum("edij,dchw->ecihjw", embed, whiten).flatten(4, 5).flatten(2, 3)
    return kernel, bias + torch.einsum("edij,d->e", embed, shift)
