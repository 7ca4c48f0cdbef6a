"""How long a frame waits for its verdict, and a program for its first, beside the bare onnxruntime session.

    python -m bench.start

A frame: from the camera's pixels in memory to a judgement, with all frame checks, beside one run of the session on pixels that
are fitted already. A start: from the process to the first row of `vtad-run --folder FILE --json -`, beside the interpreter,
numpy, onnxruntime, the session and one run. Pairs are taken in turns, so that other work costs both alike.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from bench import bare
from bench.clock import milliseconds
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.verdict import CHECKS

BARE = """
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = {threads}, 1
session = onnxruntime.InferenceSession({file!r}, options, providers=["CPUExecutionProvider"])
session.run({entry}, {{"image": numpy.zeros({shape}, numpy.uint8)}})
print("first", flush=True)
"""
RUN = "from vtad_runtime.commands.programs import run; run()"


def frames(asked: argparse.Namespace, model: Path) -> tuple[list[tuple[float, float]], str]:
    """Milliseconds of a frame's judgement and of the bare session, in pairs, and what was measured with."""
    detector, session = Detector(model, asked.threads), bare.session(bare.entry(model), asked.threads)
    judge = Judge("camera 0", detector, Rules(checks=frozenset(CHECKS)))
    pictures, pairs, said = bare.good_pictures(asked, detector.card, 8), list[tuple[float, float]](), list[Judgement]()
    for number in range(asked.frames + 3):
        rgb = pictures[number % len(pictures)]
        frame = Frame(number, time.time(), time.monotonic(), 0.0, 0, rgb)
        pixels = detector.prepare(rgb).pixels[None]
        judged = milliseconds(lambda frame=frame: said.extend(judge.judge([frame])))
        pairs.append((judged, milliseconds(lambda pixels=pixels: session.run(bare.ENTRY, {"image": pixels}))))
    ok = sum(judgement.verdict == "OK" for judgement in said[3:])
    return pairs[3:], f"{bare.here(detector.card, asked)}; {ok} of {asked.frames} frames OK"


def starts(asked: argparse.Namespace, model: Path) -> list[tuple[float, float]]:
    """Milliseconds to the first line of vtad-run and of the bare session, in pairs."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="vtad-start-") as folder:
        card, file = Detector(model).card, Path(folder) / "verdict.onnx"
        file.write_bytes(bare.entry(model))
        bare.write_jpeg(Path(folder) / "part.jpg", bare.good_pictures(asked, card, 1)[0])
        shape = (1, 3, card.input.height, card.input.width)
        code = BARE.format(threads=asked.threads, file=str(file), entry=bare.ENTRY, shape=shape)
        options = ["--folder", "part.jpg", "--model", str(model.absolute()), "--threads", str(asked.threads)]
        commands = ([RUN, *options, "--engine", "cpu", "--json", "-"], [code])

        def first_line(arguments: list[str]) -> float:
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-c", *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert process.stdout is not None
            if not process.stdout.readline():
                sys.exit("bench.start: a process ended without a line")
            took = 1e3 * (time.perf_counter() - start)
            process.communicate()
            return took

        pairs = [(first_line(commands[0]), first_line(commands[1])) for _ in range(asked.starts + 1)]
    return pairs[1:]  # the first one reads files into the system's cache, and compiles ours


def main() -> None:
    """Print the ratios."""
    parser = bare.options("A frame's way to its verdict, and a program's to its first, beside the bare session.")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--starts", type=int, default=15)
    asked = parser.parse_args()
    model = bare.model_of(asked)
    pairs, about = frames(asked, model)
    print(about)
    for i, name in enumerate(("frame to verdict", "bare session")):
        times = [pair[i] for pair in pairs]
        middle, last = median(times), quantiles(times, n=100)[-1]
        print(f"  {name}: median {middle:.1f} ms, p99 / p50 {last / middle:.2f}")
    print(f"  frame to verdict / bare session: median of pairs {median(a / b for a, b in pairs):.2f}")
    pairs = starts(asked, model)
    ours, theirs = (median(pair[i] for pair in pairs) for i in (0, 1))
    print(f"  process start to first row: {ours:.0f} ms; bare session to its first result: {theirs:.0f} ms")
    print(
        f"  start to first verdict / bare session: median of {len(pairs)} pairs {median(a / b for a, b in pairs):.2f}"
    )


if __name__ == "__main__":
    main()
