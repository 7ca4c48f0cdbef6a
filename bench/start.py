"""How long a frame waits for its verdict, and a program for its first, beside the bare onnxruntime session.

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
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

from bench import bare
from bench.clock import milliseconds
from bench.table import NotMeasured, Part, Ratio
from bench.used import RUN
from vtad_runtime.verdict.detector import Detector
from vtad_runtime.verdict.judge import Judge, Rules
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.verdict import CHECKS

# Before each, as between a camera's frames: the bare session's threads spin on for a while, and take a core.
REST_S = 0.05
FRAME = Ratio("a frame in memory to its judgement, all frame checks included : the bare session", at_most=1.15)
TAIL = Ratio("p99 : p50 of such frames", at_most=2)
START = Ratio("the process's start to the first row : the bare session's to its first result", at_most=1.3)


def measure(asked: argparse.Namespace) -> Iterator[tuple[Ratio, float | str]]:
    """Each ratio in turn. Raises VtadError."""
    model = bare.model_of(asked)
    pairs = frames(asked, model)
    yield FRAME, median(a / b for a, b in pairs)
    times = [a for a, _ in pairs]
    yield TAIL, quantiles(times, n=100)[-1] / median(times)
    yield START, median(a / b for a, b in starts(asked, model))


def frames(asked: argparse.Namespace, model: Path) -> list[tuple[float, float]]:
    """Milliseconds of a frame's judgement and of the bare session, in pairs. Raises NotMeasured: no frame is OK."""
    detector, session = Detector(model, asked.threads), bare.session(bare.entry(model), asked.threads)
    judge = Judge("camera 0", detector, Rules(checks=frozenset(CHECKS)))
    pictures, pairs, said = bare.good_pictures(asked, detector.card, 8), list[tuple[float, float]](), list[Judgement]()
    for number in range(asked.frames + 3):
        rgb = pictures[number % len(pictures)]
        frame = Frame(number, time.time(), time.monotonic(), 0.0, 0, rgb)
        pixels = detector.prepare(rgb).pixels[None]
        time.sleep(REST_S)
        judged = milliseconds(lambda frame=frame: said.extend(judge.judge([frame])))
        time.sleep(REST_S)
        pairs.append((judged, milliseconds(lambda pixels=pixels: session.run(bare.ENTRY, {"image": pixels}))))
    if not any(judgement.verdict == "OK" for judgement in said):
        raise NotMeasured("expected frames that are OK, got none: those that are not cost more than a verdict")
    return pairs[3:]


def starts(asked: argparse.Namespace, model: Path) -> list[tuple[float, float]]:
    """Milliseconds to the first line of vtad-run and of the bare session, in pairs."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="vtad-start-") as folder:
        card, file = Detector(model).card, Path(folder) / "verdict.onnx"
        file.write_bytes(bare.entry(model))
        bare.write_jpeg(Path(folder) / "part.jpg", bare.good_pictures(asked, card, 1)[0])
        code = bare.program(file, card, threads=asked.threads)
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
                raise NotMeasured(f"a process ended without a line: {' '.join(arguments[1:]) or 'the bare session'}")
            took = 1e3 * (time.perf_counter() - start)
            process.communicate()
            return took

        pairs = [(first_line(commands[0]), first_line(commands[1])) for _ in range(asked.starts + 1)]
    return pairs[1:]  # the first one reads files into the system's cache, and compiles ours


PART = Part("start", (FRAME, TAIL, START), measure)
