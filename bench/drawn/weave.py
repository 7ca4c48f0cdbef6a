"""A plain weave that fills the picture, at any place of its pattern: a texture without parts."""

from __future__ import annotations

import numpy as np

from bench.drawn.canvas import SIZE, Canvas, Drawn, Float, field, wander

THREADS = 40  # across the picture


def _draw(scene: np.random.Generator, defect: str | None, fault: np.random.Generator) -> Float:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    step = THREADS * (1 + 0.01 * scene.normal())
    u = step * (x + 0.006 * field(scene, 30)) + scene.uniform(0, 2)
    v = step * (y + 0.006 * field(scene, 30)) + scene.uniform(0, 2)
    if defect == "pulled":
        row = fault.uniform(0.15, 0.85)
        v = v + fault.uniform(0.6, 1.1) * np.exp(-np.square((y - row) / 0.02)) * (
            np.abs(x - fault.uniform(0.3, 0.7)) < 0.18
        )
    over = (np.floor(u) + np.floor(v)) % 2 > 0.5  # which thread lies above
    profile = np.where(over, np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1)))
    value = 0.30 + 0.34 * profile * (1 + 0.06 * field(scene, 3)) + 0.015 * field(scene, 0.8) + 0.012 * field(scene, 60)
    canvas = Canvas((value[..., None] * np.array([0.82, 0.78, 0.66], np.float32)).astype(np.float32))
    place = (float(fault.uniform(0.12, 0.88)), float(fault.uniform(0.12, 0.88)))
    if defect == "hole":
        canvas.disc(place, fault.uniform(0.012, 0.035), (0.05, 0.05, 0.06), 0.9)
    if defect == "stain":
        for _ in range(5):
            near = (place[0] + float(fault.normal(0, 0.02)), place[1] + float(fault.normal(0, 0.02)))
            canvas.disc(near, float(fault.uniform(0.015, 0.04)), (0.33, 0.22, 0.12), float(fault.uniform(0.12, 0.3)))
    if defect == "thread":
        canvas.line(wander(fault, place, fault.uniform(0.08, 0.2)), (0.75, 0.72, 0.70), 0.006, 0.85)
    return canvas.done(0.5)


DRAWN = Drawn(("hole", "stain", "thread", "pulled"), _draw)
