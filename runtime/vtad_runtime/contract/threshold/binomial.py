"""Exact intervals of a rate that was counted: k of n (Clopper & Pearson, Biometrika 1934). Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable

CONFIDENCE = 0.95


def exact_interval(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The shares for which k of n or fewer, and k of n or more, are not odder than the confidence allows.

    (0, 1) without pictures. Raises ValueError where k is not of n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"expected a count from 0 to {n}, got {k}")
    tail = (1 - confidence) / 2
    lower = 0.0 if k == 0 else _share(lambda p: 1 - at_most(k - 1, n, p) < tail)
    upper = 1.0 if k == n else _share(lambda p: at_most(k, n, p) > tail)
    return lower, upper


def at_most(k: int, n: int, share: float) -> float:
    """The probability of k or fewer of n, each with this probability."""
    if share <= 0 or k >= n:
        return 1.0
    if share >= 1:
        return 0.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    whole = math.lgamma(n + 1)
    logs = [
        whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_share + (n - i) * log_rest for i in range(k + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def _share(below: Callable[[float], bool]) -> float:
    """The share up to which `below` holds, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2
