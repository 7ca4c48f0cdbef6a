"""Checks an installation: what is needed, what is there besides, and whether a picture can be judged. No network.

Cameras are listed, not opened: opening one can take seconds, switch its light on, or ask the user for permission.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtad_runtime.contract.card import Card

PYTHON = (3, 11)
MIN_FREE_GB = 1.0
RUNS = 5  # timed runs of the self-test
AGAIN = "pip install vtad again"
OTHER_MODEL = "export the run again by vtad-export, or name another model by --model"
EXTRAS = {  # by the modules that each brings
    "live": ("starlette", "uvicorn"),
    "mqtt": ("paho.mqtt.client",),
    "train": ("torch", "sklearn", "safetensors", "tqdm"),
    "export": ("onnx", "onnxscript", "coremltools"),
}


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool | None  # None: absent, and not needed
    line: str  # what was found; where it is not ok, what to do


def checks(model: Path | None = None, results: Path = Path("results"), runs: Path = Path("runs")) -> Iterator[Check]:
    """Every check in turn. `model`: the file of the self-test, by default the newest export in `runs`."""
    yield _python()
    yield _package("vtad")
    for name, package, module in (
        ("numpy", ("numpy",), "numpy"),
        ("pillow", ("pillow",), "PIL.Image"),
        ("simplejpeg", ("simplejpeg",), "simplejpeg"),
        ("opencv", ("opencv-python-headless", "opencv-python", "opencv-contrib-python"), "cv2"),
        ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "onnxruntime"),
    ):
        yield _import(name, package, module)
    yield _guarded("providers", _providers, "pip install onnxruntime again")
    yield from _opencv_build()
    yield _guarded("cameras", _cameras, "look at /dev/video*")
    for extra, modules in EXTRAS.items():
        yield _extra(extra, modules)
    yield Check("processors", True, f"{os.cpu_count() or 1}, {platform.machine()}, {platform.system()}")
    yield _guarded("results", lambda: _writable(results), "start it in a folder that is there")
    yield _guarded("disk", lambda: _disk(results), "start it in a folder that is there")
    yield from _model(model, runs)


def failed(found: list[Check]) -> list[Check]:
    """What is needed and missing."""
    return [check for check in found if check.ok is False]


def _guarded(name: str, check: Callable[[], Check], remedy: str) -> Check:
    """A check that must not end the others, whatever a broken installation raises. `remedy`: what to do then."""
    try:
        return check()
    except Exception as e:
        return Check(name, False, f"expected an answer, got {_said(e)}; {remedy}")


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < PYTHON:
        return Check("python", False, f"expected {PYTHON[0]}.{PYTHON[1]} or later, got {found}")
    return Check("python", True, f"{found}, {sys.executable}")


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "expected an installed package, got none: pip install it")


def _import(name: str, packages: tuple[str, ...], module: str) -> Check:
    """Whether a package that is needed is there and can be imported."""
    try:
        with _silent():
            __import__(module)
    except Exception as e:  # a build that does not fit this machine raises ImportError, OSError and others
        return Check(name, False, f"expected module {module}, got {_said(e)}: {AGAIN}")
    found = [f"{version(p)} ({p})" for p in packages if _installed(p)]
    return Check(name, True, ", ".join(found) or "version unknown")


def _silent() -> redirect_stdout[io.StringIO]:
    """Around an import: a broken package may print, as OpenCV does without numpy, and stdout is for the checks."""
    return redirect_stdout(io.StringIO())


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _providers() -> Check:
    import onnxruntime

    found = onnxruntime.get_available_providers()
    if "CPUExecutionProvider" not in found:
        got = ", ".join(found) or "none"
        return Check("providers", False, f"expected CPUExecutionProvider, got {got}: pip install onnxruntime again")
    return Check("providers", True, ", ".join(found))


def _opencv_build() -> Iterator[Check]:
    """What this build of OpenCV can read and show. A folder of pictures needs none of it."""
    try:
        with _silent():
            import cv2

        registry = cv2.videoio_registry
        backends = {registry.getBackendName(b) for b in registry.getBackends() if registry.hasBackend(b)}
        text = cv2.getBuildInformation()
    except Exception as e:
        yield Check("opencv build", False, f"expected its build information, got {_said(e)}: {AGAIN}")
        return
    gui = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.strip().startswith("GUI:")), "")
    ffmpeg, gstreamer = "FFMPEG" in backends, "GSTREAMER" in backends
    window = gui not in ("", "NONE")
    yield Check("ffmpeg", ffmpeg or None, "in OpenCV" if ffmpeg else "not in OpenCV: no video files, no streams")
    yield Check("gstreamer", gstreamer or None, "in OpenCV" if gstreamer else "not in OpenCV: not needed")
    yield Check(
        "windows", window or None, gui if window else "this OpenCV draws none: no --show, the page by --live does"
    )


def _cameras() -> Check:
    if not Path("/sys/class/video4linux").is_dir():
        absent = "none" if sys.platform.startswith("linux") else "not looked for on this system"
        return Check("cameras", None, f"{absent}; vtad-run --list-cameras tries to open them")
    found = sorted(Path("/dev").glob("video*"), key=lambda p: (len(p.name), p.name))
    if not found:
        return Check("cameras", None, "none")
    shut = [p for p in found if not os.access(p, os.R_OK | os.W_OK)]
    if len(shut) == len(found):
        return Check(
            "cameras", False, f"{shut[0]}: no permission; add this user to the group of that file, mostly `video`"
        )
    return Check("cameras", True, ", ".join(f"{p} {_camera_name(p.name)}".strip() for p in found if p not in shut))


def _camera_name(device: str) -> str:
    try:
        return Path(f"/sys/class/video4linux/{device}/name").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _extra(name: str, modules: tuple[str, ...]) -> Check:
    missing = [module for module in modules if not _present(module)]
    if missing:
        return Check(f"extra {name}", None, f"not installed ({', '.join(missing)}): pip install 'vtad[{name}]'")
    return Check(f"extra {name}", True, "installed")


def _present(module: str) -> bool:
    """Whether a module is there; its parent package is imported, the module itself is not."""
    try:
        return find_spec(module) is not None
    except Exception:  # whatever a broken parent package raises
        return False


def _writable(results: Path) -> Check:
    """Write where vtad-run would; nothing stays."""
    where = _existing(results)
    try:
        with tempfile.TemporaryFile(dir=where) as file:
            file.write(b"vtad-doctor")
    except OSError as e:
        return Check(
            "results", False, f"{where}: expected a folder to write to, got {e.strerror}; name another by --out"
        )
    return Check("results", True, f"{results.absolute()} can be written to")


def _disk(results: Path) -> Check:
    free = shutil.disk_usage(_existing(results)).free / 1e9
    if free < MIN_FREE_GB:
        return Check("disk", False, f"expected {MIN_FREE_GB:g} GB free for results, got {free:.2f}: make room")
    return Check("disk", True, f"{free:.1f} GB free for results")


def _existing(path: Path) -> Path:
    """The path itself, or its first parent that is there."""
    path = path.absolute()
    return next((p for p in (path, *path.parents) if p.exists()), path)


def _model(model: Path | None, runs: Path) -> Iterator[Check]:
    """The model's card, and a picture judged by it."""
    try:
        with _silent():
            from vtad_runtime.contract.errors import VtadError
            from vtad_runtime.engine.model import ModelError
            from vtad_runtime.engine.opening import newest_model
            from vtad_runtime.verdict.detector import Detector
    except Exception as e:
        yield Check("self-test", False, f"expected the runtime to be importable, got {_said(e)}: {AGAIN}")
        return
    which = ""
    if model is None:
        try:
            model = newest_model(runs)
        except VtadError as e:
            yield Check("model", None, str(e))
            yield Check("self-test", None, "no model to run")
            return
        except OSError as e:  # a link to a file that is gone
            yield Check("model", False, f"{e.filename or runs}: {e.strerror}; remove it, or name a model by --model")
            yield Check("self-test", False, "no model to run")
            return
        which = ", the newest export"
    try:
        start = time.perf_counter()
        detector = Detector(model)
        load_ms = _ms_since(start)
    except Exception as e:
        said = str(e) if isinstance(e, ModelError) else f"{model}: {_said(e)}"  # a ModelError names the file
        yield Check("model", False, f"{said}; {OTHER_MODEL}")
        yield Check("self-test", False, "the model does not open")
        return
    yield Check("model", True, f"{model}{which}: {card_line(detector.card)}")
    yield _guarded("self-test", lambda: _self_test(detector, load_ms), OTHER_MODEL)


def card_line(card: Card) -> str:
    """The card in one line."""
    c = card.calibration
    proof = f"{card.parity.format} {card.parity.precision}, proven" if card.parity else "without a proof of its export"
    return (
        f"{card.identity.category}, trained {card.identity.created}, {card.input.width}x{card.input.height}, threshold "
        f"{c.threshold:.4g} from {c.images} good pictures ({100 * c.achievable:.3g} % false alarms), {proof}"
    )


def _self_test(detector: Any, load_ms: float) -> Check:
    import numpy as np

    from vtad_runtime.verdict.verdict import Verdict

    spec = detector.card.input
    width, height = spec.width, spec.height
    if spec.roi is not None:  # it must lie inside the picture
        width, height = spec.roi[0] + spec.roi[2], spec.roi[1] + spec.roi[3]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    start = time.perf_counter()
    result = detector(picture)
    first_ms = _ms_since(start)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        detector(picture)
        times.append(_ms_since(start))
    took = f"loaded in {load_ms:.0f} ms, first picture {first_ms:.0f} ms, then {median(times):.0f} ms each"
    if result.verdict is Verdict.ERROR:
        return Check("self-test", False, f"{result.error}; {took}; {OTHER_MODEL}")
    return Check("self-test", True, f"{width}x{height} picture judged; {took}")


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _said(error: Exception) -> str:
    """An error as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
