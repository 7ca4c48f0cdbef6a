"""The register-token Vision Transformer autoencoder with a context density (presets `default` and `scratch`).

After VT-ADL (Mishra et al., arXiv 2104.10036) and "Vision Transformers Need Registers" (Darcet et al., arXiv 2309.16588).
Two things differ from VT-ADL on purpose. The density describes fixed features, which training cannot collapse. Training
corrupts the input and aims at the clean image and its features, so copying is never the answer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtad.backbones.layers import Block, Noise, Registers, to_pixels, to_tokens
from vtad.config import CELL, Config
from vtad.models.context_density import ContextDensity
from vtad.models.feature_gmm import FeatureGmm
from vtad.models.features import BackboneFeatures, PixelFeatures
from vtad.models.patch_memory import PatchMemory
from vtad.models.position_gaussian import PositionGaussian
from vtad.models.score_fusion import ScoreFusion, ScorerMaps
from vtad.models.segmentation_head import SegmentationHead
from vtad.models.whitening import Whitening


class Prediction(NamedTuple):
    """What a model predicts of a batch."""

    reconstruction: Tensor  # (B, 3, H, W), about 0..1
    density: Tensor  # (B, rows, columns): in training the context density's NLL, nats a cell; else the fused score
    logits: Tensor | None = None  # (B, rows, columns), logits of a defect; in training, with a segmentation head
    maps: tuple[Tensor, ...] = ()  # in training, a backbone's maps as the segmentation head sees them


DETAIL = 96  # whitened directions of a cell's pixels that the transformer sees beside a backbone's features


class Autoencoder(nn.Module):
    """Fixed features -> tokens + registers -> encoder -> noisy bottleneck -> decoder -> pixels and density.

    Pixels and density start from what is known without learning: the mean image, and the features' statistics at each
    position. Beside them stand the other scorers: patch memory, feature GMM, position Gaussian and, where training makes
    synthetic defects, the segmentation head.
    """

    base_image: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, patch = config.embed_dim, config.patch_size
        self.grid = (config.image_height // patch, config.image_width // patch)
        self.patch = patch
        self.cells = patch // CELL  # a token covers cells x cells of the density's cells
        self.features: BackboneFeatures | PixelFeatures = (
            BackboneFeatures(config) if config.backbone else PixelFeatures()
        )
        feature_dim = min(config.feature_dim, self.features.channels)
        self.whitening = Whitening(self.features.channels, feature_dim)
        self.detail = Whitening(PixelFeatures.channels, DETAIL) if config.backbone else None
        self.embed = nn.Linear((feature_dim + (DETAIL if self.detail else 0)) * self.cells**2, dim)
        self.position = nn.Parameter(0.02 * torch.randn(1, self.grid[0] * self.grid[1], dim))
        self.registers = Registers(config.registers, dim)
        blocks = [
            Block(dim, config.heads, config.mlp_dim, query_key_norm=config.query_key_norm)
            for _ in range(config.depth + config.decoder_depth)
        ]
        self.encoder = nn.ModuleList(blocks[: config.depth])
        self.bottleneck = Noise(config.noise)
        self.decoder = nn.ModuleList(blocks[config.depth :])
        self.norm = nn.LayerNorm(dim)
        self.pixels = nn.Linear(dim, 3 * patch * patch)
        nn.init.zeros_(self.pixels.weight)
        nn.init.zeros_(self.pixels.bias)
        self.register_buffer("base_image", torch.zeros(1, 3, config.image_height, config.image_width))
        self.density_dim = feature_dim
        self.context_density = ContextDensity(dim, feature_dim, config.mixture_size, self.grid, self.cells)
        self.patch_memory = PatchMemory(self.features.channels, config.patches)
        self.feature_gmm = FeatureGmm(self.features.channels, config.components)
        self.position_gaussian = PositionGaussian(
            feature_dim, self.grid[0] * self.cells, self.grid[1] * self.cells, config.picture_directions
        )
        self.segmentation_head = SegmentationHead() if config.synthetic_defects else None
        self.score_fusion = ScoreFusion()

    def known(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 3, H, W) in 0..1 -> fixed features (B, C, rows, columns), and a backbone's maps as the head sees them."""
        features, maps = self.features(image)
        return features, maps if self.backbone_head is None else self.backbone_head.standard(maps)

    def observe(self, image: Tensor) -> Tensor:
        """Whitened fixed features: (B, 3, H, W) in 0..1 -> (B, D, H / 8, W / 8)."""
        y: Tensor = self.whitening(self.features(image)[0])
        return y

    def context(self, image: Tensor, y: Tensor) -> Tensor:
        """What the transformer sees of images (B, 3, H, W) in 0..1 with whitened features y (B, D, rows, columns).

        Beside a backbone's features it sees pixels: from the features alone it could not draw fine detail.
        """
        seen = self.whitening.attenuated(y)
        if self.detail is None:
            return seen
        return torch.cat([seen, self.detail.attenuated(self.detail(F.pixel_unshuffle(image, CELL)))], dim=1)

    def encode(self, context: Tensor) -> Tensor:
        """(B, D', rows, columns), see `context` -> tokens and registers (B, N + R, E) after the encoder."""
        x: Tensor = self.embed(self.bottleneck(to_tokens(context, self.cells))) + self.position
        x = self.registers.append(x)
        for block in self.encoder:
            x = block(x)
        return x

    def predict(self, context: Tensor, observed: Tensor | None) -> Prediction:
        """What the transformer sees, (B, D', rows, columns), and the features whose NLL is wanted, (B, D, rows, columns).

        Without them the NLL is zeros.
        """
        x = self._decode(context)
        nll = torch.zeros_like(context[:, 0]) if observed is None else self.context_density(x.float(), observed.float())
        return Prediction(self._to_image(x), nll)

    @torch.no_grad()
    def restore(self, context: Tensor) -> Tensor:
        """(B, D', rows, columns), see `context` -> reconstruction (B, 3, H, W), without noise and without gradients."""
        noisy = self.bottleneck.training
        self.bottleneck.eval()
        reconstruction = self._to_image(self._decode(context))
        self.bottleneck.train(noisy)
        return reconstruction

    def _decode(self, context: Tensor) -> Tensor:
        """(B, D', rows, columns) -> tokens (B, N, E)."""
        x = self.bottleneck(self.encode(context))
        for block in self.decoder:
            x = block(x)
        out: Tensor = self.norm(self.registers.drop(x))
        return out

    def _to_image(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.base_image + to_pixels(self.pixels(tokens).float(), self.grid, self.patch)
        return out

    @property
    def active(self) -> tuple[str, ...]:
        """The scorers that are there: all that training made, and after `prune` those that weigh something."""
        return tuple(name for name in ScorerMaps._fields if getattr(self, name, None) is not None)

    def prune(self) -> None:
        """Remove the scorers that weigh 0 in the score fusion: what is exported neither stores nor computes them.

        No result changes.
        """
        for name, weight in zip(ScorerMaps._fields, self.score_fusion.weight.tolist(), strict=True):
            if weight == 0:
                setattr(self, name, None)

    def scorer_maps(self, image: Tensor) -> tuple[Tensor, ScorerMaps]:
        """(B, 3, H, W) in 0..1, its own context -> reconstruction (B, 3, H, W), and how odd each cell is."""
        features, maps = self.known(image)
        y = self.whitening(features)
        prediction = self.predict(self.context(image, y), y if "context_density" in self.active else None)
        if isinstance(self.features, PixelFeatures) and "segmentation_head" in self.active:
            maps = self.features.maps(image, prediction.reconstruction)
        return prediction.reconstruction, self._scored(features, y, maps, prediction.density)

    def fused_score(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> the fused score (B, rows, columns), without the transformer where no scorer needs it."""
        if "context_density" in self.active or self.learns_features:
            return self.forward(image).density
        features, maps = self.known(image)
        fused: Tensor = self.score_fusion(self._scored(features, self.whitening(features), maps, None))
        return fused

    def _scored(self, features: Tensor, y: Tensor, maps: tuple[Tensor, ...], nll: Tensor | None) -> ScorerMaps:
        """Of fixed features, whitened ones, the segmentation head's maps, and the context density's NLL."""
        active = self.active
        return ScorerMaps(
            patch_memory=self.patch_memory(features) if "patch_memory" in active else None,
            feature_gmm=self.feature_gmm(features) if "feature_gmm" in active else None,
            position_gaussian=self.position_gaussian(y) if "position_gaussian" in active else None,
            context_density=nll if "context_density" in active else None,
            segmentation_head=self.segmentation_head(maps) if self.segmentation_head is not None else None,
        )

    def forward(self, image: Tensor) -> Prediction:
        """(B, 3, H, W) in 0..1."""
        reconstruction, seen = self.scorer_maps(image)
        return Prediction(reconstruction, self.score_fusion(seen))

    def denoise(self, corrupted: Tensor, clean: Tensor, observed: Tensor | None = None) -> Prediction:
        """Predict from corrupted images (B, 3, H, W) the clean ones (A, 3, H, W) of the first A <= B of them.

        `observed` are the clean features, if known. The logits are of all B.
        """
        with torch.no_grad():
            features, maps = self.known(corrupted)  # in bfloat16 where that gains: what is learnt bears the rounding
            with torch.autocast(clean.device.type, enabled=False):
                seen_by_head = self.segmentation_head is not None and self.learns_features
                few = slice(None) if seen_by_head else slice(len(clean))
                context = self.context(corrupted[few], self.whitening(features[few].float()))
                target = self.observe(clean) if observed is None else observed
        seen = self.predict(context[: len(clean)], target)
        if self.segmentation_head is None:
            return seen
        if isinstance(self.features, PixelFeatures):
            return seen._replace(
                logits=self.segmentation_head(self.features.maps(corrupted, self.restore(context))).float()
            )
        return seen._replace(logits=self.segmentation_head(maps).float(), maps=maps)

    @property
    def learns_features(self) -> bool:
        """Whether the maps that the segmentation head sees are learned, not a backbone's."""
        return isinstance(self.features, PixelFeatures)

    @property
    def backbone_head(self) -> SegmentationHead | None:
        """The segmentation head where it sees a backbone's maps, which training does not change."""
        return None if self.learns_features else self.segmentation_head

    @torch.no_grad()
    def token_norms(self, image: Tensor) -> dict[str, float]:
        """Euclidean norms of the tokens after the encoder: outliers among the patches are what registers should absorb."""
        x = self.encode(self.context(image, self.observe(image))).float()
        norms = x.norm(dim=-1)
        patches = self.registers.drop(x).norm(dim=-1)
        registers = norms[:, patches.shape[1] :]
        out = {
            "token_norm_patch_median": patches.median().item(),
            "token_norm_patch_max": patches.max().item(),
        }
        if registers.numel():
            out["token_norm_register_mean"] = registers.mean().item()
        return out
