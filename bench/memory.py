"""Memory of `vtad-run --folder` beside the bare session's: peaks of the resident set, each of a process of its own."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import bare
from bench.table import Part, Ratio
from bench.used import RUN, used_by
from vtad_runtime.verdict.detector import Detector

BATCH = 4
PICTURES = 200
DRAWN = 20  # different ones
PEAK = Ratio(
    "memory of vtad-run --folder, less a batch of frames : the bare session's, in the same batches", at_most=1.5
)


def measure(asked: argparse.Namespace) -> Iterator[tuple[Ratio, float | str]]:
    """The newest model in both. Raises VtadError."""
    model = bare.model_of(asked).absolute()
    with tempfile.TemporaryDirectory(prefix="vtad-memory-") as name:
        folder, card = Path(name), Detector(model).card
        file = folder / "verdict.onnx"
        file.write_bytes(bare.entry(model))
        (folder / "in").mkdir()
        for i, rgb in enumerate(bare.good_pictures(asked, card, DRAWN)):
            for copy in range(PICTURES // DRAWN):
                path = folder / "in" / f"{i}-{copy}.jpg"
                bare.write_jpeg(path, rgb) if copy == 0 else os.link(folder / "in" / f"{i}-0.jpg", path)
        code = bare.program(file, card, threads=asked.threads, batch=BATCH, runs=PICTURES // BATCH)
        alone = used_by([code], folder)
        options = ["--model", str(model), "--threads", str(asked.threads), "--batch", str(BATCH), "--engine", "cpu"]
        ours = used_by([RUN, "--folder", "in", *options, "--save", "ng"], folder)
    frames = BATCH * asked.side**2 * 3 / 2**20
    yield PEAK, (ours.peak_mb - frames) / alone.peak_mb


PART = Part("memory", (PEAK,), measure)
