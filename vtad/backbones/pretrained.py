"""The pretrained weights of the backbone that a configuration names, read once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vtad.backbones.efficientnet import read_weights
from vtad.backbones.vit_checkpoint import VitCheckpoint, read_checkpoint
from vtad.config import Config

Pretrained = Mapping[str, Tensor] | VitCheckpoint  # of EfficientNet-lite0, or of a user's Vision Transformer


def read_pretrained(config: Config) -> Pretrained | None:
    """None for a preset without a backbone. Raises BackboneError when there are no usable weights."""
    if not config.backbone:
        return None
    return read_checkpoint(Path(config.backbone_file)) if config.backbone_file else read_weights()


def with_backbone(config: Config, pretrained: Pretrained | None) -> Config:
    """The configuration with the shape and digest of a user's backbone filled in; itself for the others."""
    if not isinstance(pretrained, VitCheckpoint):
        return config
    return dataclasses.replace(config, backbone_shape=pretrained.shape.text(), backbone_sha256=pretrained.sha256)
