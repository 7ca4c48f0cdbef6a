"""Pictures a second of `vtad-run --folder` beside those of the bare onnxruntime session: `python -m bench.folder`.

The pictures are 1,000 JPEG, good ones of the model's category with a white square in every fiftieth; heatmaps of NG are saved.
The bare session (`bench.bare`) gets pictures that are decoded and fitted already, in the same batches. All take turns in one
process, a hundred pictures each: other work on the machine costs them alike.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench import bare
from vtad_runtime.contract.image import read_fitted
from vtad_runtime.line.options import RunOptions
from vtad_runtime.line.run import run
from vtad_runtime.line.wiring import batch_of, parts_of
from vtad_runtime.sources.address import address
from vtad_runtime.verdict.detector import Detector

ROUND = 100  # pictures
DEFECT_EVERY = 50


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


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Print the ratios."""
    parser = bare.options("vtad-run over a folder beside the bare session.")
    parser.add_argument("--pictures", type=int, default=1000, help="in hundreds")
    asked = parser.parse_args()
    model, threads = bare.model_of(asked), asked.threads
    with tempfile.TemporaryDirectory(prefix="vtad-folder-") as name:
        options = RunOptions(address(folder=name), model, threads=threads, out=Path(name) / "results", save="ng")
        detector = Detector(model, threads, parts=parts_of(options))
        card, batch = detector.card, batch_of(options)
        rounds = write(bare.good_pictures(asked, card, DEFECT_EVERY), Path(name), asked.pictures)
        fitted = [read_fitted(path, card.input)[0].transpose(2, 0, 1) for path in sorted(rounds[0].iterdir())]
        pixels, data = np.stack(fitted), bare.entry(model)  # (100, 3, height, width)
        shared, single = bare.session(data, threads), bare.session(data, 1)

        def by_vtad(folder: Path) -> None:
            run(replace(options, address=address(folder=str(folder))), lambda: False, detector=detector)

        ways: dict[str, Callable[[Path], object]] = {
            "vtad-run": by_vtad,
            "bare session": lambda _: by_session(shared, pixels, batch),
            f"bare session of one thread, {threads} callers": lambda _: by_callers(
                single, pixels, max(batch // threads, 1), threads
            ),
        }
        for session in (shared, single):
            by_session(session, pixels[:batch], batch)  # the first run prepares
        times = [[timed(partial(way, folder)) for way in ways.values()] for folder in rounds]
    print(
        f"{bare.here(card, asked)}\n{asked.pictures} JPEG, batches of {batch}; medians of {len(times)} rounds in turns"
    )
    for i, way in enumerate(ways):
        clock = median(len(pixels) / seconds[i][0] for seconds in times)
        busy = median(1e3 * seconds[i][1] / len(pixels) for seconds in times)
        print(f"  {way}: {clock:.1f} pictures/s, {busy:.1f} ms of the processor a picture")
    for i, way in enumerate(ways):
        if i:
            faster = median(seconds[i][0] / seconds[0][0] for seconds in times)
            print(f"  pictures/s of vtad-run / {way}: {faster:.2f}")


if __name__ == "__main__":
    main()
