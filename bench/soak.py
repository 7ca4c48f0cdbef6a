"""Load: one source at the model's full speed for 10,000 frames, then two runs beside each other. `make soak`.

    python -m bench.soak                          # a tiny model, so that everything else is under load
    python -m bench.soak --model pill.onnx        # a real one
    python -m bench.soak --frames 2000            # shorter

The source is a camera on loopback that sends MJPEG as fast as it is taken, a defect in every tenth picture. Bounds: memory after
500 frames and later, threads, queue age, and that each of two runs has its own files and nothing else. Exit code 1
when one is broken. Memory is the resident set, as /proc or ps says; Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WARM_UP = 500  # frames before memory and threads are held against
SAMPLE_EVERY = 250  # frames between two looks at them
SILENT_S = 60.0  # without a row for so long the run is ended: broken
BESIDE_FRAMES = 400  # of each of the two runs beside each other
SIDE = 160  # pixels of a picture
PICTURES = 60  # that the camera sends in turn
DEFECT_EVERY = 10

# vtad-run in a process of its own, which says at its end which threads are left.
CHILD = """
import json, sys, threading
from vtad_runtime.commands.run import run
before = set(threading.enumerate())
try:
    run()
finally:
    left = [t.name for t in threading.enumerate() if t not in before]
    print(json.dumps({"event": "left", "threads": left}), file=sys.stderr)
"""


@dataclass(frozen=True)
class Bounds:
    """What must hold."""

    memory: float = 0.02  # growth after the warm-up, of what it was then
    queue_age_ms: float = 500.0  # of any frame, from capture to the start of inference


@dataclass
class Watched:
    """One run, as seen from outside."""

    rows: int = 0
    dropped: int = 0
    seconds: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    memory_mb: dict[int, float] = field(default_factory=dict)  # by rows
    threads: dict[int, int] = field(default_factory=dict)  # by rows; empty where the system does not say
    worst_queue_age_ms: float = 0.0
    left: list[str] | None = None  # names of threads after the run; None: it did not say
    exit_code: int | None = None
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """One bound, and whether it holds."""

    name: str
    ok: bool
    line: str

    def __str__(self) -> str:
        """As printed."""
        return f"  {self.name:<8} {self.line:<88} {'ok' if self.ok else 'BROKEN'}"


def watch(arguments: list[str], folder: Path, frames: int) -> Watched:
    """Run vtad-run in `folder` for so many frames and look at it from outside."""
    seen, start = Watched(), time.monotonic()
    command = [sys.executable, "-c", CHILD, *arguments, "--max-frames", str(frames), "--json", "-", "--log-json"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    log = threading.Thread(target=_read_log, args=(process.stderr, seen), daemon=True)
    log.start()
    heard = [start]
    watchdog = threading.Thread(target=_end_if_silent, args=(process, heard, seen), daemon=True)
    watchdog.start()
    for line in process.stdout:
        heard[0] = time.monotonic()
        _add(seen, json.loads(line))
        due = (
            seen.rows == WARM_UP or (seen.rows > WARM_UP and seen.rows % SAMPLE_EVERY == 0) or seen.rows == frames - 10
        )
        if due and seen.rows < frames:  # with the last row the run has begun to end
            _sample(process.pid, seen)
        if seen.rows % 1000 == 0 and frames > 1000:
            print(f"  {seen.rows:,} frames, {_newest(seen.memory_mb):.1f} MB", flush=True)
    seen.exit_code = process.wait(SILENT_S)
    seen.seconds = time.monotonic() - start
    log.join(5)
    return seen


def steadiness(seen: Watched, frames: int, bounds: Bounds) -> list[Finding]:
    """The bounds of a long run."""
    speed = seen.rows / max(seen.seconds, 1e-9)
    counts = ", ".join(f"{verdict} {n:,}" for verdict, n in sorted(seen.verdicts.items()))
    whole = seen.rows == frames and seen.exit_code in (0, 1) and not seen.verdicts["ERROR"]
    said = (
        f"{seen.rows:,} of {frames:,} in {seen.seconds:.0f} s, {speed:.0f} a second: {counts}; {seen.dropped:,} dropped"
    )
    if seen.errors:
        said += f"; exit code {seen.exit_code}: {seen.errors[-1]}"
    found = [Finding("frames", whole, said)]
    if not seen.memory_mb:
        return [*found, Finding("memory", False, f"expected at least {WARM_UP} frames to look at, got {seen.rows}")]
    warm, most, last = seen.memory_mb[WARM_UP], max(seen.memory_mb.values()), _newest(seen.memory_mb)
    grown = most / warm - 1
    text = f"{warm:.1f} MB after {WARM_UP} frames, {last:.1f} MB at the end; most {grown:+.2%}, at most {bounds.memory:.0%}"
    found.append(Finding("memory", grown <= bounds.memory, text))
    left = "not said" if seen.left is None else ", ".join(seen.left) or "none"
    numbers = (
        f"{seen.threads[WARM_UP]} after {WARM_UP} frames, {_newest(seen.threads)} at the end; " if seen.threads else ""
    )
    same = not seen.threads or max(seen.threads.values()) <= seen.threads[WARM_UP]
    found.append(Finding("threads", same and seen.left == [], f"{numbers}left when the run had ended: {left}"))
    age, limit = seen.worst_queue_age_ms, bounds.queue_age_ms
    found.append(Finding("queue", age <= limit, f"oldest frame {age:.1f} ms before inference, at most {limit:g} ms"))
    return found


def separate(folder: Path, sources: list[str], frames: int) -> list[Finding]:
    """Whether two runs that wrote into one folder at the same time have each their own files, and all of them."""
    found = []
    shared = [json.loads(line)["source"] for line in (folder / "both.jsonl").read_text(encoding="utf-8").splitlines()]
    results = sorted(path for path in (folder / "results").iterdir() if path.name.isdecimal())
    owners = []
    for path in results:
        rows = [json.loads(line) for line in (path / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        named = sorted(row["heatmap"] for row in rows if row["heatmap"])
        there = sorted(p.relative_to(path).as_posix() for p in (path / "heatmaps").rglob("*") if p.is_file())
        of = sorted({row["source"] for row in rows})
        owners += of
        whole = len(of) == 1 and len(rows) == frames and named == there and (path / "summary.json").is_file()
        text = f"{len(rows)} rows of {' and '.join(of) or 'no source'}; {len(there)} pictures, {len(named)} named in its rows"
        found.append(Finding(path.name, whole, text))
    apart = len(results) == 2 and sorted(owners) == sorted(sources)
    found.append(Finding("folders", apart, f"{len(results)} results folders, one for each source"))
    counts = Counter(shared)
    both = all(counts[source] == frames for source in sources) and len(shared) == 2 * frames
    found.append(Finding("shared", both, f"{len(shared)} whole lines in the one file that both append to"))
    return found


@contextmanager
def camera(shade: int) -> Iterator[str]:
    """A camera on loopback in a process of its own, so that its memory is not measured; its URL."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, shade), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/video"
    finally:
        process.terminate()
        process.join()


def pictures(shade: int) -> list[bytes]:
    """JPEG pictures of a noisy plain surface, a dark or bright square in every tenth."""
    rng = np.random.default_rng(shade)
    made = []
    for i in range(PICTURES):
        rgb = np.full((SIDE, SIDE, 3), shade, np.int16)
        if i % DEFECT_EVERY == 0:
            x, y = rng.integers(8, SIDE - 48, 2)
            rgb[y : y + 40, x : x + 40] = 255
        rgb = rgb + rng.integers(-3, 4, rgb.shape)
        made.append(cv2.imencode(".jpg", np.clip(rgb, 0, 255).astype(np.uint8))[1].tobytes())
    return made


def _serve(port: Connection, shade: int) -> None:
    """Answer every request with pictures, as fast as they are taken, until the process is ended."""
    parts = [
        f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"
        for data in pictures(shade)
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with suppress(OSError):
                while True:
                    for part in parts:
                        self.wfile.write(part)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    port.send(server.server_address[1])
    server.serve_forever()


def _read_log(lines: Any, seen: Watched) -> None:
    for line in lines:
        event = json.loads(line) if line.startswith("{") else {"event": "error", "message": line.strip()}
        if event["event"] == "left":
            seen.left = event["threads"]
        elif event["event"] in ("error", "source_lost", "pictures"):
            seen.errors.append(event["message"])


def _end_if_silent(process: subprocess.Popen[str], heard: list[float], seen: Watched) -> None:
    while process.poll() is None:
        if time.monotonic() - heard[0] > SILENT_S:
            seen.errors.append(f"no row for {SILENT_S:.0f} s; ended")
            process.kill()
            return
        time.sleep(0.5)


def _add(seen: Watched, row: dict[str, Any]) -> None:
    seen.rows += 1
    seen.dropped += row["dropped"]
    seen.verdicts[row["verdict"]] += 1
    seen.worst_queue_age_ms = max(seen.worst_queue_age_ms, row["queue_age_ms"])


def _sample(pid: int, seen: Watched) -> None:
    """Memory and threads of a process. What has just ended is left out."""
    status = Path(f"/proc/{pid}/status")
    if not status.parent.parent.joinpath("self").exists():  # macOS
        said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
        if said.strip():
            seen.memory_mb[seen.rows] = int(said) * 1024 / 1e6
        return
    with suppress(OSError, KeyError):
        values = dict(line.split(":", 1) for line in status.read_text(encoding="ascii", errors="replace").splitlines())
        seen.memory_mb[seen.rows] = int(values["VmRSS"].split()[0]) * 1024 / 1e6
        seen.threads[seen.rows] = int(values["Threads"])


def _newest(values: dict[int, Any]) -> Any:
    return values[max(values)] if values else float("nan")


def _tiny(folder: Path) -> Path:
    """The model of the runtime's tests: how far a pixel is from grey 100. The dev environment has what it needs."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests/runtime"))
    from tiny_model import make_card, write_model

    return write_model(folder / "tiny.onnx", make_card(64, 64))


def _said(title: str, found: list[Finding]) -> bool:
    """Print findings; whether all hold."""
    print(title)
    for finding in found:
        print(finding, flush=True)
    return all(finding.ok for finding in found)


def soak(model: Path | None, frames: int, bounds: Bounds) -> bool:
    """Both parts, printed; whether every bound holds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = model.resolve() if model else _tiny(folder)
        usual = ["--model", str(path), "--max-age", "1h"]
        print(f"model: {model or 'a tiny one'}; {os.cpu_count()} cores, {sys.platform}")
        with camera(100) as url:
            arguments = [*usual, "--stream", url, "--alarm", "3/5", "--keep", "20MB"]
            seen = watch(arguments, folder, frames)
        steady = _said("one source at full speed", steadiness(seen, frames, bounds))
        shutil.rmtree(folder / "results", ignore_errors=True)

        with camera(100) as first, camera(90) as second:
            arguments = [*usual, "--save", "all", "--save-originals", "--json", "both.jsonl"]
            both = [
                threading.Thread(target=_beside, args=([*arguments, "--stream", u], folder)) for u in (first, second)
            ]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
            apart = _said("two runs beside each other", separate(folder, [first, second], BESIDE_FRAMES))
    return steady and apart


def _beside(arguments: list[str], folder: Path) -> None:
    command = [sys.executable, "-c", CHILD, *arguments, "--max-frames", str(BESIDE_FRAMES), "--log-json"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)


def main() -> None:
    """Read the options; exit code 1 when a bound is broken."""
    arguments = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--model", type=Path, help="an exported .onnx; a tiny one by default")
    arguments.add_argument("--frames", type=int, default=10_000, help="of the long run (%(default)s)")
    arguments.add_argument("--memory", type=float, default=Bounds.memory, help="growth allowed (%(default)s)")
    arguments.add_argument("--queue-age-ms", type=float, default=Bounds.queue_age_ms, help="allowed (%(default)s)")
    asked = arguments.parse_args()
    sys.exit(0 if soak(asked.model, asked.frames, Bounds(asked.memory, asked.queue_age_ms)) else 1)


if __name__ == "__main__":
    main()
