"""Runs that were trained before the names of today: their configuration and tensors under the names of today.

What a file of today holds is returned as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_FIELDS = {
    "teacher": "backbone",
    "teacher_file": "backbone_file",
    "teacher_shape": "backbone_shape",
    "teacher_sha256": "backbone_sha256",
    "motion": "shift_and_zoom",
}
# Parts of the detector, as tensors name them between dots.
_PARTS = {
    "features.teacher": "features.backbone",
    "evidence": "score_fusion",
    "nll_mean": "density_mean",
    "nll_std": "density_std",
    "nll_weight": "density_weight",
    "difference.odds": "segmentation_head.logits",
    "difference": "segmentation_head",
    "density": "context_density",
    "memory": "patch_memory",
    "mixture": "feature_gmm",
    "place": "position_gaussian",
}


def config_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run's config.json; what came later has the value that stood for it then."""
    return {
        "bits": 16,
        "threshold_rule": "guaranteed",
        "preset_file": "",
        "shift": 0.06,
        "picture_directions": 0,
        "query_key_norm": False,
        **{_FIELDS.get(name, name): value for name, value in values.items()},
    }


def tensors_of_today(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors of model.safetensors or checkpoint.safetensors."""
    return {_renamed(name): value for name, value in tensors.items()}


def _renamed(name: str) -> str:
    for before, now in _PARTS.items():
        name = f".{name}.".replace(f".{before}.", f".{now}.", 1)[1:-1]
    return name
