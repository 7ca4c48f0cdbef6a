"""The parts of a category's good pictures, as the fixed features show them, see `vtad.defects.parts`."""

from __future__ import annotations

import numpy as np
import torch

from vtad.data.batches import batches
from vtad.data.images import ImageCache
from vtad.data.registration import registered, some
from vtad.defects.parts import NONE, Parts, found_parts
from vtad.models.autoencoder import Autoencoder


@torch.no_grad()
def aligned_parts(model: torch.nn.Module, images: ImageCache, device: torch.device) -> Parts:
    """Of training images; none for a model without fixed features. The same images always give the same parts."""
    if not isinstance(model, Autoencoder) or model.segmentation_head is None:
        return NONE
    chosen = some(images)
    registration = registered(chosen)
    if not registration.aligned:
        return found_parts(chosen, np.empty((len(chosen), 0, 0, 0), np.float32), registration)
    model.features.eval()
    seen = [
        model.features(batch.float() / 255)[0].cpu() for batch in batches(chosen, device, label="looking for parts")
    ]
    return found_parts(chosen, torch.cat(seen).float().numpy(), registration)
