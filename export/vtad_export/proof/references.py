"""Chooses the reference pictures of a run and asks torch about them; ONNX files and Core ML packages carry them, for checks.

Four good pictures and four synthetic defects. Where their noise takes more room than a model should carry, they are rounded to
even levels, then to every fourth, which is hard to see; then there are fewer. Torch judges the pixels that are stored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.models.detector import Detector
from vtad_runtime.contract.references import STEP, References, as_webp, sampled

PAIRS = 4  # good pictures, and as many defects
ROOM = 1_400_000  # bytes of the text
LEVELS = (1, 2, 4)  # of 255: what pixels are rounded to multiples of


def references_text(
    detector: Detector,
    good: NDArray[np.uint8],
    defective: NDArray[np.uint8],
    name: Callable[[int], str],
    weights_sha256: str,
) -> str | None:
    """The text that artefacts carry; None where not even one good picture and one defect fit in.

    Of (N, H, W, 3) and (M, H, W, 3), the first ones; `name` gives their names, by number from 0 to N + M.
    """
    for pairs in range(min(PAIRS, len(good), len(defective)), 0, -1):
        chosen = np.concatenate([good[:pairs], defective[:pairs]])
        names = tuple(name(number) for number in [*range(pairs), *range(len(good), len(good) + pairs)])
        for level in LEVELS:
            pixels = np.ascontiguousarray(_rounded(chosen, level).transpose(0, 3, 1, 2))  # (2 pairs, 3, H, W)
            if _characters(pixels) <= ROOM:
                kinds = (False,) * pairs + (True,) * pairs
                return References(names, kinds, pixels, _expected(detector, pixels), weights_sha256).to_text()
    return None


def _rounded(pixels: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    return (np.minimum(pixels, 256 - level) + level // 2) // level * level if level > 1 else pixels


def _characters(pixels: NDArray[np.uint8]) -> float:
    """About what the text takes: four characters for three bytes of a picture, and of two float32 a sample and channel."""
    return 4 / 3 * (sum(len(as_webp(picture)) for picture in pixels) + 8 * pixels.size / STEP**2)


def _expected(detector: Detector, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """What torch says of (N, 3, H, W), one at a time: large pictures take much memory."""
    with torch.inference_mode():
        found = [detector(torch.from_numpy(picture[None]))._asdict() for picture in pixels]
    return {name: sampled(np.concatenate([f[name].numpy() for f in found])) for name in found[0]}
