"""Fixtures that test folders share: small pictures of every kind, tiny categories in the MVTec AD layout, a trained run."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from shared import Shared

# Before torch and OpenCV are imported: threads that wait for each other make tiny models slow on busy machines.
for name in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # where a test imports onnxruntime before vtad_runtime
gc.set_threshold(
    50_000, 20, 20
)  # tracing a model makes millions of objects: looking for cycles was a tenth of its time

pytest_plugins = ["chromium", "shared_exports"]

if TYPE_CHECKING:
    from vtad.run_folder import Run
    from vtad_export.proof.exporter import Export

Pixels = NDArray[np.uint8]
WriteImage = Callable[..., Path]
MakeCategory = Callable[..., Path]

QUICK_S = 5.0  # of the processor, that a test which is not marked slow may take; those of a second are marked

# file name suffix and sort of pixels; every one of them decodes to RGB
FORMATS = (
    (".png", "rgb"),
    (".jpg", "rgb"),
    (".bmp", "rgb"),
    (".tif", "rgb"),
    (".webp", "rgb"),
    (".png", "grey"),
    (".png", "rgba"),
    (".png", "grey16"),
    (".jpg", "exif"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs the trained run is slow; files with most slow tests come first: no worker is left with one at the end."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """The libraries and tests that are loaded by now stay: nobody need look for garbage among them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that takes long and does not say so: it would come to be in `make quick`."""
    start = time.process_time()
    yield
    taken = time.process_time() - start
    if taken > QUICK_S and not any(map(item.get_closest_marker, ("slow", "service"))):
        pytest.fail(f"took {taken:.1f} s of the processor: mark it slow or make it faster than {QUICK_S:.0f} s")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A worker can send no text that is not Unicode, such as what was logged of an odd file name."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def picture() -> Callable[[int], Pixels]:
    """picture(seed) -> a smooth, distinct picture (32, 40, 3)."""
    return _picture


def _picture(seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((40, 32), Image.Resampling.BICUBIC))


@pytest.fixture
def write_image() -> WriteImage:
    """write_image(path, rgb, sort="rgb") -> path: `sort` is one of FORMATS; exif stores the picture on its side."""

    def write(path: Path, rgb: Pixels, sort: str = "rgb") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rgb)
        exif = Image.Exif()
        if sort == "grey":
            image = image.convert("L")
        elif sort == "rgba":
            image = image.convert("RGBA")
        elif sort == "grey16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        elif sort == "exif":
            image = image.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = 6  # turn clockwise to view
        if path.suffix in (".jpg", ".webp"):
            image.save(path, quality=95, exif=exif)
        else:
            image.save(path)
        return path

    return write


@pytest.fixture
def make_category(tmp_path: Path, write_image: WriteImage) -> MakeCategory:
    """make_category(name="part", train=6, good=2, defective=2, formats=False) -> the data folder.

    Defective pictures are of one kind, "dent", each with a mask. With `formats` the training pictures take all file
    formats and pixel sorts in turn, nine of them; without, they are PNG.
    """

    def make(
        name: str = "part",
        train: int = 6,
        good: int = 2,
        defective: int = 2,
        formats: bool = False,
    ) -> Path:
        data = tmp_path / "data"
        root = data / name
        for i in range(train):
            suffix, sort = FORMATS[i % len(FORMATS)] if formats else FORMATS[0]
            write_image(root / "train" / "good" / f"{i:03d}{suffix}", _picture(i), sort)
        for i in range(good):
            write_image(root / "test" / "good" / f"{i:03d}.png", _picture(1000 + i))
        for i in range(defective):
            rgb, mask = _picture(2000 + i).copy(), np.zeros((32, 40), np.uint8)
            mask[8:14, 10:20] = 255
            rgb[mask > 0] = 255 - rgb[mask > 0]
            write_image(root / "test" / "dent" / f"{i:03d}.png", rgb)
            write_image(root / "ground_truth" / "dent" / f"{i:03d}_mask.png", mask)
        return data

    return make


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What is said beside the judging while the test runs, one entry an event."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logger, listener = logging.getLogger("vtad"), Listener()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    yield heard
    logger.removeHandler(listener)
    logger.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What engines compiled and showed is kept for the session, not in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _float32() -> Iterator[None]:
    """Trainings are in float32: whether bfloat16 gains differs from time to time, and takes a quarter of a tiny one."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:  # nobody trains without it
            from vtad.fitting import loop

            patch.setattr(loop, "bfloat16_gains", lambda device, step: False)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """shared(name, make) -> what make(folder) gives, made once a session whatever the number of workers. Read only."""
    base = tmp_path_factory.getbasetemp()
    found = Shared((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared")
    yield found
    found.check()


@pytest.fixture(scope="session")
def pills(shared: Shared) -> Path:
    """A data folder with the category "pill": demo images of 64 px, 16 to train, 4 good and 5 defective to test. Read only."""
    from vtad.data.demo import write_demo

    def make(folder: Path) -> Path:
        write_demo(folder / "pill", size=64, train=16, good=4, per_defect=1)
        return folder

    return shared("pills", make)


@pytest.fixture(scope="session")
def trained(pills: Path, shared: Shared) -> Run:
    """A complete run of two epochs on `pills`, with both maps in its heatmap. Read only."""
    from tiny_run import tiny

    from vtad.calibration import map_fusion
    from vtad.training import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_fusion, "ENOUGH", 1)  # four held-out pictures would leave the heatmap to the density
        return shared("trained", lambda folder: train(tiny(data=str(pills), out=str(folder))))


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of `trained` in <tmp_path>/runs/pill/0001, to evaluate, export or damage."""
    from vtad.run_folder import Run

    return Run(Path(shutil.copytree(trained.path, tmp_path / "runs" / "pill" / "0001")))


@pytest.fixture(scope="session")
def exported(trained: Run, shared: Shared, traced_once: None) -> Export:
    """The ONNX export of `trained`, in a folder of its own. Read only."""
    from vtad_export import to_onnx

    return shared("exported", lambda folder: to_onnx(trained, folder / "pill.onnx"))
