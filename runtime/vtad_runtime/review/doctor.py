"""Checks an installation: what is needed, what is there besides, and whether a picture can be judged. No network.

Cameras are listed, not opened: opening one can take seconds, switch its light on, or ask the user for permission. What may be
broken is imported by its check, not here.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from vtad_runtime.contract.card import percent
from vtad_runtime.contract.disk.files import try_writing
from vtad_runtime.contract.errors import VtadError, why

if TYPE_CHECKING:
    from vtad_runtime.contract.card import Change
    from vtad_runtime.engine.model import Integrity
    from vtad_runtime.verdict.detector import Detector

PYTHON = (3, 11)
MIN_FREE_GB = 1.0
RUNS = 5  # timed runs of the self-test
AGAIN = "pip install vtad again"
RESULTS = Path("results")  # where vtad-run writes to
OTHER_MODEL = "export the run again by vtad-export, or name another model by --model"
NEEDED = {  # the module of each
    "numpy": "numpy",
    "pillow": "PIL.Image",
    "simplejpeg": "simplejpeg",
    "opencv": "cv2",
    "onnxruntime": "onnxruntime",
}
EXTRAS = {  # by the modules that each brings
    "live": ("starlette", "uvicorn"),
    "mqtt": ("paho.mqtt.client",),
    "score": ("pyarrow",),
    "ray": ("ray",),
    "track": ("mlflow", "psutil"),
    "train": ("torch", "sklearn", "safetensors"),
    "report": ("jinja2", "matplotlib"),
    "export": ("onnx", "onnxscript", "coremltools"),
    "sweep": ("optuna",),
    "openvino": ("openvino",),
}

T = TypeVar("T")
Found = tuple[bool | None, str] | tuple[bool | None, str, str]  # `ok`, `line` and `advice` of a check


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool | None  # None: absent, and not needed
    line: str  # what was found; where it is not ok, what to do
    advice: str = ""  # what to do, until it is in the line


def checks(model: Path | None = None, *, allow_changed: bool = False) -> Iterator[Check]:
    """Every check in turn, each advice once. `model`: the file of the self-test, by default the newest export below ./runs.

    `allow_changed`: a model that was changed since its export fails no check.
    """
    given = dict[str, str]()  # which check gave an advice
    for check in _checks(model, allow_changed):
        if not check.advice:
            yield check
            continue
        first = given.setdefault(check.advice, check.name)
        what_to_do = check.advice if first == check.name else f"see {first}"
        yield Check(check.name, check.ok, f"{check.line}; {what_to_do}")


def _checks(model: Path | None, allow_changed: bool) -> Iterator[Check]:
    yield Check("python", *_python())
    yield _guarded("vtad", lambda: (True, version("vtad")), "pip install it", "an installed package")
    for name, module in NEEDED.items():
        yield _guarded(name, partial(_import, module), AGAIN, f"module {module}")
    yield _guarded("providers", _providers, AGAIN)
    yield from _opencv_build()
    yield _guarded("cameras", _cameras, "look at /dev/video*")
    for extra, modules in EXTRAS.items():
        yield Check(f"extra {extra}", *_extra(extra, modules))
    yield Check("processors", True, f"{os.cpu_count() or 1}, {platform.machine()}, {platform.system()}")
    yield _guarded("results", _writable, "start it in a folder that is there")
    yield _guarded("disk", _disk, "start it in a folder that is there")
    yield from _model(model, allow_changed)


def _guarded(name: str, look: Callable[[], Found], remedy: str, expected: str = "an answer") -> Check:
    """A check that must not end the others, whatever a broken installation raises. `remedy`: what to do then.

    An error of ours says that itself.
    """
    try:
        return Check(name, *look())
    except VtadError as e:
        return Check(name, False, str(e))
    except Exception as e:
        return Check(name, False, f"expected {expected}, got {why(e)}", remedy)


def _python() -> Found:
    found = platform.python_version()
    if sys.version_info < PYTHON:
        return False, f"expected {PYTHON[0]}.{PYTHON[1]} or later, got {found}", "install vtad with a newer one"
    return True, f"{found}, {sys.executable}"


def _import(module: str) -> Found:
    """The versions of what brings a module that can be imported."""
    with _silent():
        import_module(module)
    names = sorted(set(_distributions().get(module.partition(".")[0], ())))
    return True, ", ".join(f"{version(name)} ({name})" for name in names) or "version unknown"


@cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Whose module is whose, of all that is installed: reading it takes a while."""
    return packages_distributions()


def _silent() -> redirect_stdout[io.StringIO]:
    """Around an import: a broken package may print, as OpenCV does without numpy, and stdout is for the checks."""
    return redirect_stdout(io.StringIO())


def _providers() -> Found:
    found = import_module("onnxruntime").get_available_providers()
    if "CPUExecutionProvider" not in found:
        return False, f"expected CPUExecutionProvider, got {', '.join(found) or 'none'}", AGAIN
    return True, ", ".join(found)


def _opencv_build() -> Iterator[Check]:
    """What this build of OpenCV can read and show. A folder of pictures needs none of it."""
    try:
        with _silent():
            cv2 = import_module("cv2")
        registry = cv2.videoio_registry
        backends = {registry.getBackendName(b) for b in registry.getBackends() if registry.hasBackend(b)}
        lines = [line.strip() for line in cv2.getBuildInformation().splitlines()]
    except Exception as e:
        yield Check("opencv build", False, f"expected its build information, got {why(e)}", AGAIN)
        return
    for name, without in (("ffmpeg", "no video files, no streams"), ("gstreamer", "not needed")):
        there = name.upper() in backends
        yield Check(name, there or None, "in OpenCV" if there else f"not in OpenCV: {without}")
    gui = next((line.removeprefix("GUI:").strip() for line in lines if line.startswith("GUI:")), "NONE")
    window = gui not in ("", "NONE")
    yield Check(
        "windows", window or None, gui if window else "this OpenCV draws none: no --show, the page by --live does"
    )


def _cameras() -> Found:
    if not Path("/sys/class/video4linux").is_dir():
        absent = "none" if sys.platform.startswith("linux") else "not looked for on this system"
        return None, f"{absent}; vtad-run --list-cameras tries to open them"
    found = sorted(Path("/dev").glob("video*"), key=lambda p: (len(p.name), p.name))
    if not found:
        return None, "none"
    usable = [p for p in found if os.access(p, os.R_OK | os.W_OK)]
    if not usable:
        return False, f"{found[0]}: no permission", "add this user to the group of that file, mostly `video`"
    return True, ", ".join(f"{p} {_camera_name(p.name)}".strip() for p in usable)


def _camera_name(device: str) -> str:
    try:
        return Path(f"/sys/class/video4linux/{device}/name").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _extra(name: str, modules: tuple[str, ...]) -> Found:
    if missing := [module for module in modules if not _present(module)]:
        return None, f"not installed ({', '.join(missing)}): pip install 'vtad[{name}]'"
    return True, "installed"


def _present(module: str) -> bool:
    """Whether a module is there; its parent package is imported, the module itself is not."""
    try:
        return find_spec(module) is not None
    except Exception:  # whatever a broken parent package raises
        return False


def _writable() -> Found:
    """Write where vtad-run would; nothing stays."""
    try:
        try_writing(RESULTS)
    except OSError as e:
        return False, f"{_results()}: expected a folder to write to, got {e.strerror}", "name another by --out"
    return True, f"{RESULTS.absolute()} can be written to"


def _disk() -> Found:
    free = shutil.disk_usage(_results()).free / 1e9
    if free < MIN_FREE_GB:
        return False, f"expected {MIN_FREE_GB:g} GB free for results, got {free:.2f}", "make room"
    return True, f"{free:.1f} GB free for results"


def _results() -> Path:
    """The folder of results, or its first parent that is there."""
    path = RESULTS.absolute()
    return next((p for p in (path, *path.parents) if p.exists()), path)


def _model(model: Path | None, allow_changed: bool) -> Iterator[Check]:
    """The model's card, whether its bytes are those of the export, and a picture judged by it."""
    try:
        with _silent():
            from vtad_runtime.engine.opening import newest_model
            from vtad_runtime.verdict.detector import Detector
    except Exception as e:
        yield Check("self-test", False, f"expected the runtime to be importable, got {why(e)}", AGAIN)
        return
    which = "" if model else ", the newest export"
    try:
        path = model or newest_model()
    except VtadError as e:
        yield Check("model", None, str(e))
        yield Check("model bytes", None, "no model to compare")
        yield Check("self-test", None, "no model to run")
        return
    except OSError as e:  # a link to a file that is gone
        yield Check("model", False, f"{e.filename}: {e.strerror}", "remove it, or name a model by --model")
        yield Check("model bytes", None, "no model to compare")
        yield Check("self-test", False, "no model to run")
        return
    try:
        detector, load_ms = _timed(lambda: Detector(path, allow_changed=allow_changed))
    except Exception as e:  # an error of ours says what to do
        yield (
            Check("model", False, str(e))
            if isinstance(e, VtadError)
            else Check("model", False, f"{path}: {why(e)}", OTHER_MODEL)
        )
        yield Check("model bytes", *_unopened(path))
        yield Check("self-test", False, "the model does not open")
        return
    yield Check("model", True, f"{path}{which}: {_card_line(detector)}")
    yield Check("model bytes", *_bytes(detector.integrity, detector.card.history, allow_changed=allow_changed))
    yield (judged := _guarded("self-test", lambda: _self_test(detector, load_ms), OTHER_MODEL))
    if judged.ok:
        try:
            yield from _engines(path, allow_changed)
        except Exception as e:
            yield Check("engines", False, f"expected them to judge, got {why(e)}", OTHER_MODEL)


def _unopened(path: Path) -> Found:
    """The bytes of a model that does not open, where there is a card to compare them with."""
    from vtad_runtime.engine.integrity import integrity

    try:
        found = integrity(path)
        return (False, str(found)) if found.changed else _bytes(found, ())  # what to do was said of the model
    except VtadError:
        return None, "not compared: there is no card that can be read"


def _bytes(found: Integrity, history: tuple[Change, ...], *, allow_changed: bool = False) -> Found:
    """Whether a model's file and card are what was exported, and who has written it since."""
    if found.changed:
        return (None, f"{found} (--allow-changed)") if allow_changed else (False, str(found), OTHER_MODEL)
    if not found.sealed:
        return None, str(found), "export the run again"
    return True, "; ".join([str(found), *(f"{c.when} by {c.by}: {c.what}" for c in history)])


def _card_line(detector: Detector) -> str:
    card, c = detector.card, detector.card.calibration
    bits = card.input.full_scale.bit_length()
    depth = f" of {bits} of 16 bits" if bits < 16 else ""
    proof = "without a proof of its export"
    if card.parity:
        said = "its proof says nothing of the changed file" if detector.integrity.changed else "proven"
        proof = f"{card.parity.format} {card.parity.precision}, {said}"
    return (
        f"{card.identity.category}, trained {card.identity.created}, {card.input.width}x{card.input.height}{depth}, threshold "
        f"{c.threshold:.4g} from {c.images} good pictures ({percent(c.achievable)} false alarms), {proof}"
    )


def _self_test(detector: Detector, load_ms: float) -> Found:
    """Judge a picture of noise for the time that it takes, and the reference pictures for what is said of them."""
    import numpy as np

    spec = detector.card.input
    width, height = spec.width, spec.height
    if spec.roi is not None:  # it must lie inside the picture
        width, height = spec.roi[0] + spec.roi[2], spec.roi[1] + spec.roi[3]
    picture = detector.prepare(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    try:
        (result,), first_ms = _timed(lambda: detector.judge([picture], explain=True))
        each_ms = median(_timed(lambda: detector.judge([picture], explain=True))[1] for _ in range(RUNS))
    except VtadError as e:
        return False, str(e), OTHER_MODEL
    took = f"loaded in {load_ms:.0f} ms, first picture {first_ms:.0f} ms, then {each_ms:.0f} ms each, with all maps"
    if result.error is not None:
        return False, f"{result.error}; {took}", OTHER_MODEL
    if (found := detector.check_references()) is None:
        return True, f"{width}x{height} picture judged; {took}; no reference pictures in the model"
    return found.ok, f"{found}; {took}", "" if found.ok else OTHER_MODEL


def _engines(path: Path, allow_changed: bool) -> Iterator[Check]:
    """What else could run the model: how fast, and whether it judges the reference pictures as torch did."""
    from vtad_runtime.engine.engines import CPU, ENGINES
    from vtad_runtime.engine.opening import is_package
    from vtad_runtime.verdict.engine_choice import others, tried

    if is_package(path):
        return
    there = others()
    for name in there:
        if (trial := tried(path, None, name, allow_changed=allow_changed)) is None:
            continue
        took = "" if trial.ms is None else f"; {trial.ms:.1f} ms a picture"
        yield Check(f"engine {name}", trial.ok or None, trial.said + took)
    absent = [f"{engine.name} ({engine.extra})" for engine in ENGINES.values() if engine.name not in (CPU, *there)]
    if absent:
        yield Check("other engines", None, f"not installed: {', '.join(absent)}")


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and the milliseconds that it took."""
    start = time.perf_counter()
    value = call()
    return value, (time.perf_counter() - start) * 1000
