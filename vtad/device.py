"""Which device computes, and whether bfloat16 makes it faster there."""

from __future__ import annotations

import ctypes
import sys
import time

import torch

from vtad.config import ConfigError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
GAIN = 1.2  # bfloat16 must be this much faster to be worth its rounding


def pick_device(name: str) -> torch.device:
    """`auto` takes cuda, then mps, then cpu. Raises ConfigError for a device that this machine lacks.

    Convolutions on cuda are held to float32 from then on: NVIDIA's TF32 would calibrate another detector than the one that runs.
    """
    torch.backends.cudnn.allow_tf32 = False
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present.get(name, False):
        have = ", ".join(kind for kind, there in present.items() if there)
        raise ConfigError(f"device: expected one that this machine has ({have}) or auto, got {name}")
    return torch.device(name)


def bfloat16_gains(device: torch.device) -> bool:
    """Whether a small matrix product is clearly faster in bfloat16: true on GPUs and CPUs with AMX, false on many CPUs."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(192, 192, dtype=dtype)
        a @ a  # the first call prepares
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)
    return seconds[torch.bfloat16] * GAIN < seconds[torch.float32]


def keep_memory() -> bool:
    """Let this process keep what it frees, where its C library is glibc; whether it is.

    Otherwise every large tensor of a training step is asked of the system anew and zeroed page by page: a fifth of the
    step's time.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
