"""What vtad-run is held against: a model's verdict entry, opened by onnxruntime with its own options, on pictures in memory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vtad.data.layout import default_data_dir, find_category
from vtad_runtime.contract.card import Card
from vtad_runtime.contract.fit import resize
from vtad_runtime.contract.image import read_rgb
from vtad_runtime.engine.opening import newest_model
from vtad_runtime.engine.subgraph import verdict_part

ENTRY = ["score", "heatmap"]
QUALITY = 92  # of JPEG files that are drawn


def model_of(asked: argparse.Namespace) -> Path:
    """The model that was named, or the newest export."""
    return asked.model or newest_model()


def entry(model: Path) -> bytes:
    """The part of a file that gives score and heatmap, as a file."""
    data = model.read_bytes()
    part = verdict_part(data)
    return part.model if part else data


def session(data: bytes, threads: int) -> ort.InferenceSession:
    """As a program of a few lines would open it."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads, chosen.inter_op_num_threads = threads, 1
    return ort.InferenceSession(data, chosen, providers=["CPUExecutionProvider"])


def program(file: Path, card: Card, *, threads: int, batch: int = 1, runs: int = 1) -> str:
    """The same as a program of its own: `file` holds an `entry`. It says when the first batch is judged."""
    shape = (batch, 3, card.input.height, card.input.width)
    return f"""
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = {threads}, 1
session = onnxruntime.InferenceSession({str(file)!r}, options, providers=["CPUExecutionProvider"])
for run in range({runs}):
    session.run({ENTRY}, {{"image": numpy.zeros({shape}, numpy.uint8)}})
    if run == 0:
        print("first", flush=True)
"""


def good_pictures(asked: argparse.Namespace, card: Card, count: int) -> list[NDArray[np.uint8]]:
    """So many, (side, side, 3) RGB."""
    files = find_category(default_data_dir(), card.identity.category).train_good if asked.good is None else None
    chosen: Sequence[Path] = sorted(asked.good.iterdir()) if files is None else files
    return [resize(read_rgb(path), asked.side, asked.side) for path in islice(cycle(chosen), count)]


def write_jpeg(path: Path, rgb: NDArray[np.uint8]) -> None:
    """As a camera's program saves it."""
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
