"""How time and memory of the runtime grow: with the number of pictures, their size, the batch, threads and stored patches.

    python -m bench.growth --plot docs/growth.png

Each point is a process of its own, on one core where it has one thread: time of the processor, less that of a start, so that
other work beside counts little, and the peak of the resident set. Number and size are measured on `vtad-run --folder` with a tiny
model: what is around a model. Batch and threads on the verdict of the newest export; patches on the patch memory alone, as the
exporter writes it. Exit code 1 where something grows faster than linearly.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench import bare
from bench.tiny import tiny_model
from bench.used import RUN, Used, used_by
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.engine.callers import cores

LINEAR = 1.1  # the exponent of what counts as linear: a tenth is what measuring varies by
SMALL = 96  # pixels of pictures that are many
DRAWN = 5  # different pictures
NUMBERS = (1_000, 5_000, 20_000, 50_000)  # pictures
SIDES = (512, 1024, 2048, 4096)  # pixels
BATCHES = (1, 2, 4, 8, 16)  # pictures
PATCHES = (1, 2, 4, 8, 16)  # thousands
OF_A_SIZE = 60  # pictures
RUNS = 10  # of a batch; of what is quicker, five times as many
VERDICTS = """
import sys, numpy
from vtad_runtime.engine.opening import open_model
path, threads, batch, runs = sys.argv[1], *map(int, sys.argv[2:])
model = open_model(path, threads)
pixels = numpy.zeros((batch, 3, model.card.input.height, model.card.input.width), numpy.uint8)
for _ in range(runs):
    model.verdict(pixels)
"""
DISTANCES = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for _ in range(int(sys.argv[2])):
    session.run(None, {"features": numpy.ones((1, *map(int, sys.argv[3:])), numpy.float32)})
"""
CELLS = (176, 48, 48)  # channels, rows and columns of the features of a picture of 384 x 384


@dataclass(frozen=True)
class Point:
    """One size, and what it takes."""

    x: float
    seconds: float  # of the processor, without the start
    peak_mb: float


@dataclass(frozen=True)
class Growth:
    """Points of one kind."""

    by: str  # what grows
    points: tuple[Point, ...]

    @property
    def time_exponent(self) -> float:
        """Of time: 1 is linear."""
        return exponent([p.x for p in self.points], [p.seconds for p in self.points])

    @property
    def memory_exponent(self) -> float:
        """Of the peak of memory, the start included."""
        return exponent([p.x for p in self.points], [p.peak_mb for p in self.points])

    @property
    def linear(self) -> bool:
        """Whether neither grows faster."""
        return max(self.time_exponent, self.memory_exponent) <= LINEAR

    def __str__(self) -> str:
        first, last = self.points[0], self.points[-1]
        return (
            f"| {self.by} | {_number(first.x)} to {_number(last.x)} | {first.seconds:.1f} to {last.seconds:.1f} s | "
            f"{self.time_exponent:.2f} | {first.peak_mb:.0f} to {last.peak_mb:.0f} MB | {self.memory_exponent:.2f} |"
        )


HEAD = "| with | from, to | time of the processor | exponent | memory, peak | exponent |\n|---|---|---|---|---|---|"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of a line through the logarithms: y grows as x to this power."""
    slope, _ = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope)


def grown(by: str, sizes: Sequence[float], take: Callable[[float], Used], start: Callable[[float], Used]) -> Growth:
    """What each size takes, beyond the time of its start."""
    points = []
    for size in sizes:
        used, begun = take(size), start(size)
        points.append(Point(size, max(used.seconds - begun.seconds, 1e-3), used.peak_mb))
        said = f"growth: {by}, {_number(size)}: {points[-1].seconds:.1f} s, {used.peak_mb:.0f} MB"
        print(said, file=sys.stderr, flush=True)
    return Growth(by, tuple(points))


def measured(asked: argparse.Namespace, folder: Path) -> Iterator[Growth]:
    """The five. Raises VtadError."""
    model, tiny = str(bare.model_of(asked).absolute()), tiny_model(folder)

    def over(pictures: float, side: float) -> Used:
        source = _linked(folder / f"in-{pictures:g}-{side:g}", int(pictures), int(side))
        return used_by([RUN, "--folder", str(source), "--model", str(tiny), *RUN_OPTIONS], folder, one_core=True)

    def verdicts(threads: float, batch: float, runs: int) -> Used:
        given = [VERDICTS, model, *(str(int(value)) for value in (threads, batch, runs))]
        return used_by(given, folder, one_core=threads == 1)

    def distances(thousands: float, runs: int) -> Used:
        file = folder / f"{thousands:g}.onnx"
        if not file.is_file():
            _write_patches(file, int(1000 * thousands))
        return used_by([DISTANCES, str(file), str(runs), *map(str, CELLS)], folder, one_core=True)

    one = over(1, SMALL)
    numbers = [number for number in NUMBERS if number <= asked.most]
    yield grown("pictures", numbers, lambda number: over(number, SMALL), lambda _: one)
    sides = {side**2 / 1e6: side for side in SIDES}
    yield grown("megapixels", list(sides), lambda size: over(OF_A_SIZE, sides[size]), lambda _: one)
    yield grown("batch", BATCHES, lambda batch: verdicts(1, batch, 1 + RUNS), lambda batch: verdicts(1, batch, 1))
    threads = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores()]
    if len(threads) > 1:
        yield grown("threads", threads, lambda n: verdicts(n, 1, 1 + 5 * RUNS), lambda n: verdicts(n, 1, 1))
    yield grown("1,000 patches", PATCHES, lambda n: distances(n, 1 + 5 * RUNS), lambda n: distances(n, 1))


RUN_OPTIONS = ("--threads", "1", "--engine", "cpu", "--save", "ng")


def plot(found: Sequence[Growth], file: Path) -> None:
    """A panel each: time as a line, memory as another, both from 0."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(3.1 * len(found), 2.9), layout="constrained")
    for panel, growth in zip(np.atleast_1d(panels), found, strict=True):
        x = [p.x for p in growth.points]
        memory = panel.twinx()
        panel.plot(x, [p.seconds for p in growth.points], marker="o", color="C0")
        memory.plot(x, [p.peak_mb for p in growth.points], marker="s", color="C1", linestyle="--")
        panel.set_title(
            f"time $x^{{{growth.time_exponent:.2f}}}$, memory $x^{{{growth.memory_exponent:.2f}}}$", fontsize=9
        )
        panel.set_xlabel(growth.by, fontsize=9)
        for axis, colour in ((panel, "C0"), (memory, "C1")):
            axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
            axis.tick_params(axis="y", colors=colour, labelsize=8)
            axis.spines["top"].set_visible(False)
        panel.tick_params(axis="x", labelsize=8)
    figure.supylabel("seconds of the processor (line), MB (dashes)", fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(32).save(file, optimize=True)


def _linked(folder: Path, pictures: int, side: int) -> Path:
    """A folder of JPEG files that are a few in truth, good for the tiny model."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(pictures):
        path = folder / f"{i:06d}.jpg"
        if i < DRAWN:
            bare.write_jpeg(path, rng.integers(96, 104, (side, side, 3), dtype=np.uint8))
        else:
            os.link(folder / f"{i % DRAWN:06d}.jpg", path)
    return folder


def _write_patches(file: Path, patches: int) -> None:
    """Of random patches."""
    import torch
    from torch import nn

    from vtad.models.patch_memory import PatchMemory
    from vtad_export.folding.scorers import WHOLE, FoldedPatchMemory
    from vtad_export.proof.quiet import quiet

    class Cells:
        """Features as they come."""

        def projection(self, weight: torch.Tensor, bias: torch.Tensor) -> nn.Module:
            """(R, C) and (R,) as a convolution."""
            made = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
            made.weight.data, made.bias.data = weight[:, :, None, None].float(), bias.float()
            return made

    torch.manual_seed(0)
    module = FoldedPatchMemory(PatchMemory(CELLS[0], patches), Cells(), WHOLE).eval()
    with torch.inference_mode(), quiet():
        example = (torch.zeros(1, *CELLS),)
        torch.onnx.export(module, example, str(file), input_names=["features"], dynamo=True, external_data=False)


def main() -> None:
    """Print a table; draw it; exit code 1 where something grows faster than linearly."""
    parser = argparse.ArgumentParser(description="How time and memory of the runtime grow.")
    parser.add_argument("--model", type=Path, help="an exported .onnx  [default: the newest]")
    parser.add_argument(
        "--most", type=int, default=max(NUMBERS), help="pictures of the largest folder  [default: %(default)s]"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a panel each into this file")
    asked = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="vtad-growth-") as name:
            found = list(measured(asked, Path(name)))
    except VtadError as e:
        sys.exit(f"growth: {e}")
    print(HEAD)
    for growth in found:
        print(growth)
    if asked.plot:
        plot(found, asked.plot)
    if worse := [growth.by for growth in found if not growth.linear]:
        sys.exit(f"growth: faster than linear with {', '.join(worse)}")


if __name__ == "__main__":
    main()
