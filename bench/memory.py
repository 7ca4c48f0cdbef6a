"""Time and memory of `vtad-run --folder` beside the bare session, and how they grow: `python -m bench.memory`.

    python -m bench.memory                       # the newest model beside the bare session
    python -m bench.memory --growth              # a tiny model: what all around it costs by number, size and threads

Each row is a run in a process of its own. Time is that of the processor, so that other work beside counts little; memory is the
peak of the resident set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import bare
from vtad_runtime.verdict.detector import Detector

BATCH = 4
SMALL = 96  # pixels of pictures that are many
BARE = """
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = {threads}, 1
session = onnxruntime.InferenceSession({file!r}, options, providers=["CPUExecutionProvider"])
for _ in range({runs}):
    session.run({entry}, {{"image": numpy.zeros({shape}, numpy.uint8)}})
"""
RUN = "from vtad_runtime.commands.programs import run; run()"


@dataclass(frozen=True)
class Used:
    """By one process."""

    seconds: float  # of the processor
    peak_mb: float


def used_by(arguments: Sequence[str], cwd: Path) -> Used:
    """What Python takes for these arguments."""
    command = [sys.executable, "-c", *arguments]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.exit(f"bench.memory: a run ended with {process.returncode}; run it by hand: {' '.join(arguments[1:])}")
    return Used(used.ru_utime + used.ru_stime, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def beside(asked: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The newest model in vtad-run and in the bare session."""
    model = bare.model_of(asked).absolute()
    card, file = Detector(model).card, folder / "verdict.onnx"
    file.write_bytes(bare.entry(model))
    (folder / "in").mkdir()
    for i, rgb in enumerate(bare.good_pictures(asked, card, 20)):
        for copy in range(asked.pictures // 20):
            path = folder / "in" / f"{i}-{copy}.jpg"
            bare.write_jpeg(path, rgb) if copy == 0 else os.link(folder / "in" / f"{i}-0.jpg", path)
    yield bare.here(card, asked)
    shape = (BATCH, 3, card.input.height, card.input.width)
    code = BARE.format(
        threads=asked.threads, file=str(file), entry=bare.ENTRY, shape=shape, runs=asked.pictures // BATCH
    )
    alone = used_by([code], folder)
    yield f"  bare session, batches of {BATCH}: {alone.peak_mb:.0f} MB"
    options = ["--model", str(model), "--threads", str(asked.threads), "--engine", "cpu", "--save", "ng"]
    ours = used_by([RUN, "--folder", "in", *options], folder)
    frames = BATCH * asked.side**2 * 3 / 2**20
    share = (ours.peak_mb - frames) / alone.peak_mb
    yield f"  vtad-run: {ours.peak_mb:.0f} MB; less a batch of frames ({frames:.0f} MB) {share:.2f} of the bare session"


def growth(folder: Path) -> Iterator[str]:
    """By number of pictures, by their size and by threads."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))
    from tiny_model import write_model

    model = write_model(folder / "tiny.onnx")
    yield "pictures  side  threads  processor, s  ms a picture  peak, MB"
    rows = [(1_000, SMALL, 2), (10_000, SMALL, 2), (30_000, SMALL, 2), (10_000, SMALL, 1)]
    rows += [(200, side, 2) for side in (512, 1024, 2048, 4096)]
    for number, (pictures, side, threads) in enumerate(rows):
        source = _linked(folder / f"in-{number}", pictures, side)
        options = ["--model", str(model), "--threads", str(threads), "--engine", "cpu", "--save", "ng"]
        used = used_by([RUN, "--folder", str(source), *options], folder)
        each = 1e3 * used.seconds / pictures
        yield f"{pictures:8d}  {side:4d}  {threads:7d}  {used.seconds:12.1f}  {each:12.2f}  {used.peak_mb:8.0f}"


def _linked(folder: Path, pictures: int, side: int) -> Path:
    """A folder of JPEG files that are ten in truth, good for the tiny model."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(pictures):
        path = folder / f"{i:06d}.jpg"
        if i < 10:
            bare.write_jpeg(path, rng.integers(96, 104, (side, side, 3), dtype=np.uint8))
        else:
            os.link(folder / f"{i % 10:06d}.jpg", path)
    return folder


def main() -> None:
    """Print the rows."""
    parser = bare.options("Memory of vtad-run over a folder beside the bare session.")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--growth", action="store_true", help="with a tiny model: how both grow")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vtad-memory-") as name:
        for line in growth(Path(name)) if asked.growth else beside(asked, Path(name)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
