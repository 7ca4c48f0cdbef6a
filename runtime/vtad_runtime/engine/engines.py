"""The engines that run an ONNX file: what each is called, what it needs, and whether it computes in less than float32.

Those of onnxruntime are its execution providers (https://onnxruntime.ai/docs/execution-providers/). What a provider cannot run,
its own CPU provider does. Untested on hardware: all but `cpu`, `openvino` and `openvino-bf16`.
"""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

CPU, AUTO = "cpu", "auto"
CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class Engine:
    """One engine."""

    name: str  # of --engine
    extra: str  # what to install for it
    provider: str | None = None  # of onnxruntime; None: another library
    options: dict[str, str] = field(default_factory=dict)  # of that provider
    reduced: bool = False  # rounds to less than float32, so its scores may be as far off as those of a float16 export
    caches: bool = False  # takes a folder where it keeps what it compiled, as `trt_engine_cache_path`

    def installed(self) -> bool:
        """Whether this machine has what it needs; a device that is missing shows when it is opened."""
        if self.provider is None:
            return find_spec("openvino") is not None
        import onnxruntime

        return self.provider in onnxruntime.get_available_providers()


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(CPU, "vtad", CPU_PROVIDER),
        Engine("openvino", "vtad[openvino]"),
        Engine("openvino-bf16", "vtad[openvino]", reduced=True),
        Engine("cuda", "vtad[gpu]", "CUDAExecutionProvider", {"use_tf32": "0"}),
        Engine("tensorrt", "vtad[gpu]", "TensorrtExecutionProvider", reduced=True, caches=True),
        Engine("directml", "vtad[directml]", "DmlExecutionProvider"),
        Engine("coreml", "onnxruntime on a Mac", "CoreMLExecutionProvider", {"ModelFormat": "MLProgram"}, True),
        Engine("xnnpack", "an onnxruntime built with XNNPACK", "XnnpackExecutionProvider"),
    )
}


def cache_folder(name: str) -> Path | None:
    """A folder of ours where the system keeps what can be made again, of this user; None where none can be made."""
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "vtad" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a service that may write nowhere; a user without a home
        return None
    return folder if os.access(folder, os.W_OK) else None


def processor() -> str:
    """What this machine computes on, in words."""
    named = _of_processor("model name", "Model")
    return " ".join(named.split()) or platform.processor() or platform.machine()


def features() -> str:
    """Digits that tell processors apart which compute otherwise; those of a virtual machine may share a name."""
    return hash_of(_of_processor("flags", "Features"))


def devices() -> str:
    """What Linux says of accelerators: a driver that is new, and a container without one, are another machine."""
    with suppress(OSError):
        driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        return " ".join([driver, *sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))])
    return ""


def _of_processor(*fields: str) -> str:
    """What Linux says of it in one of these fields; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(fields)), "")


def hash_of(text: str) -> str:
    """Sixteen hex digits that tell texts apart."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]
