"""The live page fed by a line of drawn tablets: to look at, and to take the picture of the README.

    python -m bench.live_page                                                    # serves until Ctrl-C
    python -m bench.live_page --model pill.onnx --screenshot docs/live-page.jpg # waits for an NG, takes the picture, ends

Without --model the heatmaps and scores are made from the defects' own masks: they show the page, not a detector.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad.data.demo import DEFECTS, Picture, draw
from vtad_runtime.contract.card import SCHEMA, UNIT, Calibration, Card, Identity, Input, Output, Parity, ScoreRule
from vtad_runtime.contract.fit import Box, Placement
from vtad_runtime.page.server import PageServer
from vtad_runtime.page.state import PageState
from vtad_runtime.verdict.detector import Detector, Result, find_regions
from vtad_runtime.verdict.explanation import Explanation, Maps
from vtad_runtime.verdict.judgement import Frame, Judgement
from vtad_runtime.verdict.verdict import Verdict, decide

SOURCE = "drawn tablets"
SIZE = 512  # pixels of the drawn tablets
MAP = 256  # pixels of the simulated maps
DEFECTIVE = (5, 11, 12, 17, 26, 27)  # of every 30 parts
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CLEAR_NG = """() => document.querySelector('#verdict[data-state="NG"]')
    && parseFloat(document.querySelector('#score-ratio').textContent) > 1.4"""
SHAPES: dict[str, tuple[int | str, ...]] = {
    "score": ("batch",),
    "heatmap": ("batch", MAP, MAP),
    "ssim_map": ("batch", MAP, MAP),
    "density_map": ("batch", MAP, MAP),
    "reconstruction": ("batch", 3, MAP, MAP),
}
CARD = Card(
    schema=SCHEMA,
    identity=Identity("pill", "2026-11-23T14:02:11Z", "0.1.0", None, {}, "5f" * 32),
    input=Input("image", MAP, MAP, "rgb", "area-linear", "stretch", None),
    outputs=tuple(Output(name, shape, UNIT) for name, shape in SHAPES.items()),
    score_rule=ScoreRule(cell=8, top_share=0.01),
    calibration=Calibration(tuple(round(0.9 + 0.02 * i, 2) for i in range(44)), 0.01, 1 / 45, 1.84, 3.0, 44),
    weights_sha256="3c" * 32,
    results=None,
    parity=Parity("onnx", "fp32", 32, 32, {"score": 1.1e-5}, {"score": 1e-3}, 0),
)


def parts() -> list[Picture]:
    """Thirty tablets of one camera, six of them defective. The first call takes some seconds."""
    kinds = itertools.cycle(DEFECTS)
    return [draw((77, i), SIZE, next(kinds) if i in DEFECTIVE else None, 0.8) for i in range(30)]


def simulated(part: Picture, rng: np.random.Generator) -> Result:
    """A result made from the mask: as good parts vary everywhere, and a peak where the defect is."""
    noise = cv2.GaussianBlur(rng.normal(0.0, 1.0, (MAP, MAP)), (0, 0), 9)
    normal = np.abs(noise) / float(np.abs(noise).max()) * rng.uniform(1.0, 1.5)
    mask = cv2.resize(part.mask.astype(np.float32), (MAP, MAP), interpolation=cv2.INTER_AREA)
    peak = cv2.GaussianBlur(mask, (0, 0), 3)
    odd = peak / max(float(peak.max()), 1e-6) * rng.uniform(5.0, 9.0)
    heat: NDArray[np.float32] = (normal + odd).astype(np.float32)
    score = float(np.sort(heat.ravel())[-60:].mean() * 0.75)
    calibration = CARD.calibration
    placement = Placement(SIZE, SIZE, Box(0, 0, SIZE, SIZE), Box(0, 0, MAP, MAP))
    explanation = Explanation.of(Maps(heat, heat, np.zeros((MAP, MAP, 3), np.uint8)))
    return Result(
        score=score,
        p_value=calibration.p_value(score),
        verdict=decide(calibration, score),
        threshold=calibration.threshold,
        pixel_threshold=calibration.pixel_threshold,
        regions=find_regions(heat, explanation, placement, calibration.pixel_threshold),
        model_heatmap=heat,
        explanation=explanation,
        placement=placement,
        error=None,
    )


def line(judge: Callable[[Picture], Result], threshold: float) -> Iterator[Judgement]:
    """Tablets for ever; the alarm is on while three of the last five are NG."""
    shown = parts()
    results = [judge(part) for part in shown]
    recent: list[Verdict] = []
    for number in itertools.count(1):
        part, result = shown[number % 30], results[number % 30]
        recent = [*recent[-4:], result.verdict]
        now, steady = time.time(), time.monotonic()
        frame = Frame(number, now, steady, 4.1, 0, part.rgb)
        yield Judgement(
            source=SOURCE,
            number=number,
            captured_at=now,
            verdict=result.verdict,
            reason=None,
            alarm=recent.count(Verdict.NG) >= 3,
            threshold=threshold,
            frame=frame,
            result=result,
            dropped=1 if number % 40 == 0 else 0,
            queue_age_ms=2.0 + number % 7,
            capture_ms=4.1,
            prepare_ms=1.6,
            infer_ms=31.0 + number % 5,
        )


def feed(state: PageState, judgements: Iterator[Judgement], rate: float, stop: threading.Event) -> None:
    """Write judgements, `rate` a second, until `stop`."""
    for judgement in judgements:
        state.write(judgement)
        if stop.wait(1 / rate):
            return


def screenshot(url: str, path: Path, width: int = 1400, height: int = 835, scheme: str = "dark") -> None:
    """Take a picture of a running page, PNG or JPEG by its suffix, at the first clear NG after 25 seconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_browser(), args=BROWSER_ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(url)
        page.wait_for_timeout(25_000)
        page.wait_for_function(CLEAR_NG, timeout=60_000)
        page.wait_for_timeout(350)  # the picture of the same frame, and the end of the change of colours
        kind = {"type": "png"} if path.suffix == ".png" else {"type": "jpeg", "quality": 88}
        page.screenshot(path=path, **kind)
        browser.close()


def _browser() -> str:
    found = next((p for p in map(shutil.which, ("chromium", "google-chrome", "chromium-browser")) if p), None)
    if found is None:
        raise SystemExit("live_page: expected chromium or google-chrome on PATH, got none; install one")
    return found


def main() -> None:
    """Serve, and take the picture if asked."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="an exported .onnx that judges the tablets")
    arguments.add_argument("--address", default="8000", help="PORT or HOST:PORT")
    arguments.add_argument("--rate", type=float, default=2.0, help="tablets a second")
    arguments.add_argument("--url", help="take the picture of this running page instead, e.g. of vtad-run --live")
    arguments.add_argument("--screenshot", type=Path, help="PNG or JPEG to write")
    asked = arguments.parse_args()
    if asked.url:
        screenshot(asked.url, asked.screenshot or Path("live-page.jpg"))
        return

    rng = np.random.default_rng(3)
    card, judge, name = CARD, lambda part: simulated(part, rng), "simulated.onnx"
    if asked.model:
        detector = Detector(asked.model)
        card, judge, name = detector.card, lambda part: detector(part.rgb), str(asked.model)
    state = PageState(card, SOURCE, name)
    server = PageServer(state, asked.address)
    print(f"live page: {server.url}", flush=True)
    stop = threading.Event()
    feeder = threading.Thread(
        target=feed, args=(state, line(judge, card.calibration.threshold), asked.rate, stop), daemon=True
    )
    feeder.start()
    try:
        if asked.screenshot:
            screenshot(server.url, asked.screenshot)
        else:
            feeder.join()
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        state.close()
        server.close()


if __name__ == "__main__":
    main()
