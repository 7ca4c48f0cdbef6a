"""Images as a model takes them: tensors on a device, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtad_runtime.contract.progress import watched

BATCH = 8  # images


class Images(Protocol):
    """(N, H, W, 3) uint8: an array, a cache, or views of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> NDArray[np.uint8]: ...


def batches(images: Images, device: torch.device, size: int = BATCH, label: str | None = None) -> Iterator[Tensor]:
    """(N, H, W, 3) uint8 -> tensors (B, 3, H, W) uint8 on the device; with a `label` there is a bar."""
    starts = range(0, len(images), size)
    for i in starts if label is None else watched(starts, label):
        yield torch.from_numpy(np.ascontiguousarray(images[i : i + size])).permute(0, 3, 1, 2).to(device)
