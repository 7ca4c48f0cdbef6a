"""Bolts, each lying at any rotation on a dark mat: a head, a shaft, a thread."""

from __future__ import annotations

import math

import numpy as np

from bench.drawn.canvas import Canvas, Drawn, Float, Point, plain, wander

STEEL, SHADE, LIGHT = (0.62, 0.63, 0.66), (0.36, 0.37, 0.40), (0.86, 0.87, 0.90)
TURNS = 13  # of the thread


def _draw(scene: np.random.Generator, defect: str | None, fault: np.random.Generator) -> Float:
    canvas = Canvas(plain((0.16, 0.17, 0.18), scene, 0.08))
    angle = scene.uniform(0, 2 * math.pi)
    middle = 0.5 + scene.normal(0, 0.012, 2)
    cos, sin = math.cos(angle), math.sin(angle)

    def at(along: float, across: float) -> Point:
        return float(middle[0] + along * cos - across * sin), float(middle[1] + along * sin + across * cos)

    def box(a0: float, a1: float, b0: float, b1: float) -> list[Point]:
        return [at(a0, b0), at(a1, b0), at(a1, b1), at(a0, b1)]

    missing = int(fault.integers(2, TURNS - 3))
    end = 0.36 - (fault.uniform(0.04, 0.09) if defect == "short" else 0.0)
    canvas.polygon(box(-0.24, end, -0.060, 0.060), STEEL)
    canvas.polygon(box(-0.24, end, 0.022, 0.060), SHADE, 0.7)
    canvas.polygon(box(-0.24, end, -0.042, -0.026), LIGHT, 0.7)
    for i in range(TURNS):
        a = -0.06 + 0.42 * (i + 0.5) / TURNS
        if a > end - 0.02 or (defect == "thread" and missing <= i < missing + 2):
            continue
        canvas.line([at(a - 0.010, -0.068), at(a + 0.010, 0.068)], (0.22, 0.22, 0.25), 0.011)
        canvas.line([at(a + 0.002, -0.066), at(a + 0.022, 0.066)], LIGHT, 0.005, 0.5)
    canvas.polygon(box(-0.37, -0.24, -0.115, 0.115), STEEL)
    canvas.polygon(box(-0.37, -0.24, 0.045, 0.115), SHADE, 0.75)
    canvas.polygon(box(-0.37, -0.24, -0.045, -0.115), LIGHT, 0.35)
    if defect == "scratch":
        start = at(float(fault.uniform(-0.33, -0.28)), float(fault.uniform(-0.05, 0.05)))
        canvas.line(wander(fault, start, fault.uniform(0.03, 0.06), bend=0.15), LIGHT, 0.004, 0.9)
    if defect == "rust":
        for _ in range(int(fault.integers(3, 9))):
            spot = at(float(fault.uniform(-0.34, 0.0)), float(fault.uniform(-0.045, 0.045)))
            canvas.disc(spot, float(fault.uniform(0.006, 0.018)), (0.45, 0.24, 0.12), float(fault.uniform(0.35, 0.7)))
    return canvas.done()


DRAWN = Drawn(("thread", "short", "scratch", "rust"), _draw)
