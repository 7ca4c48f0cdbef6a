"""What torch says of a few pictures, stored beside a package, so that a Mac without torch's run or its data can check a device.

A good picture and a synthetic defect at least, more where pictures are small: the file stays below a megabyte up to 360 px.
Scores are whole; maps and reconstruction are kept at every 8th pixel, which is enough to see that a device computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.models.detector import Detector, Judgement
from vtad.run_folder import RunError, replacing
from vtad_export.proof.material import Samples, Values
from vtad_runtime.engine.model import graph_names

STEP = 8  # pixels
ROOM = 800_000  # bytes of pixels, before compression
MAX_PAIRS = 8


@dataclass(frozen=True, eq=False)
class Reference:
    """Pictures, and torch's outputs for them."""

    pixels: NDArray[np.uint8]  # (N, 3, H, W)
    expected: Values  # score (N,); (N, h, w) and (N, 3, h, w) at every 8th pixel
    weights_sha256: str  # of the checkpoint that torch ran


def reference_file(package: Path) -> Path:
    """Where the reference of a package is: pill.reference.npz beside pill.mlpackage."""
    return package.with_suffix(".reference.npz")


def make_reference(detector: Detector, sample: Samples, weights_sha256: str) -> Reference:
    """Run torch on as many pairs of good picture and defect as there is room for."""
    pairs = max(1, min(MAX_PAIRS, ROOM // (2 * sample.good[0].size)))
    chosen = np.concatenate([sample.good[:pairs], sample.defective[:pairs]])
    pixels = np.ascontiguousarray(chosen.transpose(0, 3, 1, 2))  # (N, 3, H, W)
    with torch.inference_mode():
        found = detector(torch.from_numpy(pixels))._asdict()
    return Reference(pixels, {name: sampled(value.numpy()) for name, value in found.items()}, weights_sha256)


def sampled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every 8th pixel of maps (N, H, W) or pictures (N, 3, H, W); scores (N,) as they are."""
    return values if values.ndim == 1 else values[..., STEP // 2 :: STEP, STEP // 2 :: STEP]


def write_reference(path: Path, reference: Reference) -> None:
    """Replace the file whole. Raises WriteError."""
    arrays: dict[str, Any] = {
        "pixels": reference.pixels,
        "weights_sha256": reference.weights_sha256,
        **reference.expected,
    }
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_reference(package: Path) -> Reference:
    """The reference beside a package. Raises RunError when it is absent or damaged."""
    path = reference_file(package)
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = graph_names(stored)
            expected = {name: stored[names[name]] for name in Judgement._fields}
            return Reference(stored["pixels"], expected, str(stored["weights_sha256"]))
    except Exception as e:  # numpy and zipfile raise many kinds for a torn file
        raise RunError(
            f"{path}: expected torch's outputs stored at export, got {type(e).__name__}: {e}; export the run again"
        ) from e
