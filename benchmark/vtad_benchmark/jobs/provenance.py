"""By what a row was made: commit, machine, versions."""

from __future__ import annotations

import datetime
import os
import platform
from contextlib import suppress
from importlib import metadata

from vtad.version import git
from vtad_benchmark.results.row import Made
from vtad_runtime.engine.engines import processor

PACKAGES = ("vtad", "torch", "onnxruntime", "numpy", "opencv-python-headless", "opencv-python")


def made(trained_commit: str | None) -> Made:
    """Now, here, by this code."""
    return Made(
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=git("describe", "--always", "--dirty", "--abbrev=10") or "unknown",  # "-dirty" where files are changed
        trained_commit=trained_commit,
        machine=machine(),
        versions={"python": platform.python_version(), **versions()},
    )


def machine() -> str:
    """Processor, cores, accelerator if there is one, and system; no name of the computer."""
    import torch

    parts = [processor(), f"{os.cpu_count() or 1} cores"]
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
