"""Polycrystalline solar cells by electroluminescence: grains of every brightness, fingers, three busbars.

Good cells differ much in their grains. A crack is dark and thin, an inactive part and a broken finger are
darker areas with straight edges.
"""

from __future__ import annotations

import cv2
import numpy as np

from bench.drawn.canvas import SIZE, Canvas, Drawn, Float, field, wander

GRAINS = 90
FINGERS = 40


def _draw(scene: np.random.Generator, defect: str | None, fault: np.random.Generator) -> Float:
    points = scene.uniform(0, SIZE, (GRAINS, 2)).astype(np.float32)
    shades = 0.52 + 0.07 * scene.normal(size=GRAINS).astype(np.float32)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    away = sum(np.square(p[::2, ::2, None] - points[:, i]) for i, p in enumerate((x, y)))
    grains = shades[np.argmin(away, axis=-1)]  # at half the size
    bent = [(p + 5 * field(scene, 8)) / 2 for p in (x, y)]
    grey = cv2.remap(grains, bent[0], bent[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    grey = grey * (1 + 0.03 * field(scene, 40)) + 0.01 * field(scene, 1.0)
    edge = np.minimum.reduce([x, y, SIZE - 1 - x, SIZE - 1 - y]) / SIZE
    grey *= np.clip(0.55 + 9 * edge, 0, 1)
    if defect == "inactive":
        x0, width = fault.uniform(0.05, 0.6), fault.uniform(0.12, 0.3)
        rows = (0.03, 0.32) if fault.random() < 0.5 else (0.68, 0.97)
        there = (x > x0 * SIZE) & (x < (x0 + width) * SIZE) & (y > rows[0] * SIZE) & (y < rows[1] * SIZE)
        grey = np.where(there, grey * fault.uniform(0.45, 0.75), grey)
    canvas = Canvas(np.repeat(grey[..., None], 3, axis=2).astype(np.float32))
    broken = int(fault.integers(2, FINGERS - 2))
    for i in range(FINGERS):
        at = (i + 0.5) / FINGERS
        canvas.line([(0.02, at), (0.98, at)], (0.30,) * 3, 0.0032, 0.45)
    if defect == "finger":
        at, x0 = (broken + 0.5) / FINGERS, fault.uniform(0.08, 0.6)
        canvas.polygon(
            [(x0, at - 0.018), (x0 + 0.25, at - 0.018), (x0 + 0.25, at + 0.018), (x0, at + 0.018)],
            (0.20,) * 3,
            fault.uniform(0.35, 0.7),
        )
    if defect == "crack":
        start = (float(fault.uniform(0.15, 0.85)), float(fault.uniform(0.15, 0.85)))
        canvas.line(
            wander(fault, start, fault.uniform(0.12, 0.45)),
            (0.12,) * 3,
            fault.uniform(0.003, 0.007),
            fault.uniform(0.5, 0.9),
        )
    for at in (0.17, 0.5, 0.83):
        canvas.polygon([(0.01, at - 0.012), (0.99, at - 0.012), (0.99, at + 0.012), (0.01, at + 0.012)], (0.10,) * 3)
    return canvas.done()


DRAWN = Drawn(("crack", "finger", "inactive"), _draw)
