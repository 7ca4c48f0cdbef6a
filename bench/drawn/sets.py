"""Writes a drawn set: a scene is drawn with and without its defect, and the mask is what differs."""

from __future__ import annotations

import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.drawn import bolts, bottles, cells, weave
from bench.drawn.canvas import Drawn

TRAIN, GOOD, DEFECTIVE = 150, 40, 60  # pictures
CHANGED = 3.0 / 255  # a pixel belongs to the mask where the defect moves a channel by more
NOISE = 1.2 / 255  # of the camera, standard deviation

SETS = {"bottle": bottles.DRAWN, "cell": cells.DRAWN, "bolt": bolts.DRAWN, "weave": weave.DRAWN}


def write_set(folder: Path, drawn: Drawn, seed: int = 0) -> Path:
    """Write a category; a folder that is there stays as it is. The same seed gives the same pictures."""
    if folder.is_dir():
        return folder
    each = DEFECTIVE // len(drawn.defects)
    jobs = [("train", "good", i) for i in range(TRAIN)] + [("test", "good", i) for i in range(GOOD)]
    jobs += [("test", kind, i) for kind in drawn.defects for i in range(each)]
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)

    def write(job: tuple[str, str, int]) -> None:
        part, kind, number = job
        rgb, mask = picture(
            drawn, (seed, zlib.crc32(f"{part}/{kind}/{number}".encode())), None if kind == "good" else kind
        )
        _png(beside / part / kind / f"{number:03d}.png", rgb[..., ::-1])
        if kind != "good":
            _png(beside / "ground_truth" / kind / f"{number:03d}_mask.png", mask.astype(np.uint8) * 255)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, jobs))
    beside.rename(folder)
    return folder


def picture(drawn: Drawn, key: tuple[int, ...], defect: str | None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The scene that `key` stands for, (S, S, 3) uint8 RGB, and the pixels that its defect changed, (S, S)."""
    clean = drawn.draw(np.random.default_rng([*key, 0]), None, np.random.default_rng([*key, 1]))
    mask, shown = np.zeros(clean.shape[:2], bool), clean
    if defect is not None:
        damaged = drawn.draw(np.random.default_rng([*key, 0]), defect, np.random.default_rng([*key, 1]))
        mask = np.abs(damaged - clean).max(axis=2) > CHANGED
        shown = np.where(mask[..., None], damaged, clean)
    noise = np.random.default_rng([*key, 2]).normal(0, NOISE, clean.shape).astype(np.float32)
    return np.clip(255 * (shown + noise) + 0.5, 0, 255).astype(np.uint8), mask


def _png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
