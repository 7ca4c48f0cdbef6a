"""The web example on real pictures, against vtad's runtime: python -m bench.browser pill.onnx data/pill/test

Needs Chromium, and onnxruntime-web (make web). Every seventh picture; PNG alone, since browsers decode JPEG otherwise.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vtad_runtime import Detector

WEB = Path(__file__).parents[1] / "examples" / "web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
WAIT_MS = 120_000


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served() -> Iterator[str]:
    """The address of the example's page, served on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(WEB)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/index.html"
    finally:
        server.shutdown()
        thread.join()


def judged(page: Any, picture: Path) -> dict[str, Any]:
    """What the page says of a picture file: score, verdict, p-value, heatmap."""
    page.evaluate("window.last = null")
    page.set_input_files("#picture", str(picture))
    page.wait_for_function("window.last")
    found: dict[str, Any] = page.evaluate(
        "({ score: last.score, verdict: last.verdict, p: last.pValue, heatmap: [...last.heatmap], ms: last.took })"
    )
    return found


def main() -> None:
    """Print the largest differences and the median times, one thread each."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", type=Path)
    given = parser.parse_args()
    detector = Detector(given.model, threads=1, review=0)
    files = sorted(given.pictures.rglob("*.png"))[::7]
    scores, maps, here_ms, page_ms, flips = [], [], [], [], 0
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(address)
        page.set_input_files("#model", str(given.model))
        page.wait_for_selector("#picture:enabled")
        for file in files:
            got = judged(page, file)
            start = time.perf_counter()
            expected = detector(file)
            here_ms.append(1000 * (time.perf_counter() - start))
            page_ms.append(got["ms"])
            scores.append(abs(got["score"] - expected.score))
            maps.append(float(np.abs(np.ravel(expected.model_heatmap) - got["heatmap"]).max()))
            flips += got["verdict"] != expected.verdict
        page.click("#self-test")
        page.wait_for_function("document.getElementById('said').textContent.includes('reference pictures')")
        said = page.inner_text("#said")
        browser.close()
    print(f"{len(files)} pictures: score {max(scores):.1e}, heatmap {max(maps):.1e}, {flips} verdicts differ; {said}")
    ratio = statistics.median(page / here for page, here in zip(page_ms, here_ms, strict=True))
    print(f"a picture {statistics.median(page_ms):.0f} ms, here {statistics.median(here_ms):.0f} ms; ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
