"""How the cost of vtad-score grows: 1,000, 10,000 and 50,000 small pictures, by one worker.

    python -m bench.score_growth                                 # a tiny model: what all around the model costs
    python -m bench.score_growth --model pill.onnx --sizes 1000  # a real one

The pictures are hard links to a few drawn ones of 96 pixels, in folders of 1,000. Each size is a run in a process of its own:
listing, judging, writing. Time is that of the processor, so that other work beside counts little; the peak is that of the
resident set.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from bench.table import NotMeasured
from bench.tiny import tiny_model
from bench.used import Used, used_by

SIZES = (1_000, 10_000, 50_000)  # pictures
SIDE = 96  # pixels of a picture
DRAWN = 50  # different pictures
FOLDER = 1_000  # pictures in each
CODE = "from vtad_runtime.commands.programs import score; score()"


def draw(folder: Path) -> list[Path]:
    """Good pictures, a defect in every tenth."""
    rng, paths = np.random.default_rng(0), list[Path]()
    folder.mkdir()
    for i in range(DRAWN):
        picture = rng.integers(92, 108, (SIDE, SIDE, 3), dtype=np.uint8)
        if i % 10 == 0:
            picture[30:42, 40:52] = 255
        paths.append(folder / f"{i}.png")
        cv2.imwrite(str(paths[-1]), picture)
    return paths


def linked(drawn: list[Path], folder: Path, pictures: int) -> Path:
    """A folder with that many names."""
    for i in range(pictures):
        below = folder / f"{i // FOLDER:04d}"
        if i % FOLDER == 0:
            below.mkdir(parents=True)
        os.link(drawn[i % len(drawn)], below / f"{i:06d}.png")
    return folder


def measured(source: Path, out: Path, model: Path) -> tuple[float, Used]:
    """Seconds by the clock, and what one run took. Raises NotMeasured: it failed."""
    arguments = [str(source), "--out", str(out), "--model", str(model.absolute()), "--workers", "1"]
    start = time.monotonic()
    used = used_by([CODE, *arguments], out.parent)
    return time.monotonic() - start, used


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description="How the cost of vtad-score grows with the pictures.")
    parser.add_argument("--model", type=Path, help="an exported .onnx; without it a tiny one")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of pictures, separated by commas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vtad-score-") as name:
        here = Path(name)
        model = options.model
        if model is None:
            model = tiny_model(here)
        drawn = draw(here / "drawn")
        print(
            "pictures  processor, s  ms a picture  by the clock, s  peak, MB  rows on disk, bytes a picture", flush=True
        )
        for pictures in map(int, options.sizes.split(",")):
            source, out = linked(drawn, here / f"in-{pictures}", pictures), here / f"out-{pictures}"
            try:
                clock, used = measured(source, out, model)
            except NotMeasured as e:
                sys.exit(f"score_growth: {e}")
            on_disk = sum(file.stat().st_size for file in out.rglob("*.parquet")) / pictures
            print(
                f"{pictures:8d}  {used.seconds:12.1f}  {1e3 * used.seconds / pictures:12.2f}  {clock:15.1f}  "
                f"{used.peak_mb:8.0f}  {on_disk:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
