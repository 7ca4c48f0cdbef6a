"""Pictures a second of `vtad-run --folder` beside those of the bare onnxruntime session.

The pictures are 1,000 JPEG, good ones of the model's category with a white square in every fiftieth; heatmaps of NG are saved.
The bare session (`bench.bare`) gets pictures that are decoded and fitted already, in the same batches. All take turns in one
process, a hundred pictures each: other work on the machine costs them alike.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench import bare
from bench.clock import milliseconds
from bench.table import Part, Ratio
from vtad_runtime.contract.fit import read_fitted
from vtad_runtime.line.options import RunOptions
from vtad_runtime.line.run import run
from vtad_runtime.line.wiring import batch_of, callers_of
from vtad_runtime.sources.address import address
from vtad_runtime.verdict.detector import Detector

ROUND = 100  # pictures
DEFECT_EVERY = 50
SESSION = Ratio("pictures/s of vtad-run --folder : the bare session's, on pictures in memory", at_least=0.9)
CALLERS = Ratio(
    "pictures/s of vtad-run --folder : those of a caller a core, each with its own pictures, one after another"
)


def write(pictures: list[NDArray[np.uint8]], folder: Path, count: int) -> list[Path]:
    """Folders of a hundred JPEG each, links to a few that are drawn."""
    drawn = folder / "drawn"
    drawn.mkdir()
    for i, rgb in enumerate(pictures):
        if i == 0:
            middle = slice(len(rgb) // 2, len(rgb) // 2 + len(rgb) // 16)
            rgb[middle, middle] = 255
        bare.write_jpeg(drawn / f"{i}.jpg", rgb)
    rounds = []
    for first in range(0, count, ROUND):
        rounds.append(folder / f"{first:06d}")
        rounds[-1].mkdir()
        for i in range(first, first + ROUND):
            os.link(drawn / f"{i % len(pictures)}.jpg", rounds[-1] / f"{i:06d}.jpg")
    return rounds


def by_session(session: ort.InferenceSession, pixels: NDArray[np.uint8], batch: int) -> None:
    """The bare session on pictures in memory, (n, 3, height, width)."""
    for at in range(0, len(pixels), batch):
        session.run(bare.ENTRY, {"image": pixels[at : at + batch]})


def by_callers(session: ort.InferenceSession, pixels: NDArray[np.uint8], batch: int, callers: int) -> None:
    """The same by several callers at once."""
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(lambda part: by_session(session, part, batch), np.array_split(pixels, callers)))


def measure(asked: argparse.Namespace) -> Iterator[tuple[Ratio, float | str]]:
    """Both ratios. Raises VtadError."""
    model, threads = bare.model_of(asked), asked.threads
    with tempfile.TemporaryDirectory(prefix="vtad-folder-") as name:
        options = RunOptions(address(folder=name), model, threads=threads, out=Path(name) / "results", save="ng")
        detector = Detector(model, threads, callers=callers_of(options))
        card, batch = detector.card, batch_of(options)
        rounds = write(bare.good_pictures(asked, card, DEFECT_EVERY), Path(name), asked.pictures)
        fitted = [read_fitted(path, card.input)[0].transpose(2, 0, 1) for path in sorted(rounds[0].iterdir())]
        pixels, data = np.stack(fitted), bare.entry(model)  # (100, 3, height, width)
        shared, single = bare.session(data, threads), bare.session(data, 1)

        def by_vtad(folder: Path) -> None:
            run(replace(options, address=address(folder=str(folder))), lambda: False, detector=detector)

        ways: dict[Ratio, Callable[[], object]] = {
            SESSION: lambda: by_session(shared, pixels, batch),
            CALLERS: lambda: by_callers(single, pixels, 1, threads),
        }
        for session in (shared, single):
            by_session(session, pixels[:batch], batch)  # the first run prepares
        ours, theirs = list[float](), defaultdict[Ratio, list[float]](list)
        for folder in rounds:
            ours.append(milliseconds(partial(by_vtad, folder)))
            for ratio, way in ways.items():
                theirs[ratio].append(milliseconds(way))
    for ratio, times in theirs.items():
        yield ratio, median(b / a for a, b in zip(ours, times, strict=True))


PART = Part("folder", (SESSION, CALLERS), measure)
