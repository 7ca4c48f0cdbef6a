"""By what a row was made: commit, machine, versions."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from vtad_benchmark.results.row import Made

PACKAGES = ("vtad", "torch", "onnxruntime", "numpy", "opencv-python-headless", "opencv-python")


def made(trained_commit: str | None) -> Made:
    """Now, here, by this code."""
    return Made(
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        trained_commit=trained_commit,
        machine=machine(),
        versions={"python": platform.python_version(), **versions()},
    )


def commit() -> str:
    """The commit of the checkout, `-dirty` where files are changed; "unknown" where there is none."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=10"]
    here = Path(__file__).parent
    if not any((folder / ".git").exists() for folder in here.parents[:4]):
        return "unknown"  # an installed package, possibly below somebody else's checkout
    try:
        out = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return out.stdout.strip() or "unknown"


def machine() -> str:
    """Processor, cores, accelerator if there is one, and system; no name of the computer."""
    import torch

    parts = [_processor(), f"{os.cpu_count() or 1} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, platform.system()])


def versions() -> dict[str, str]:
    """Of the packages that figures depend on."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()
