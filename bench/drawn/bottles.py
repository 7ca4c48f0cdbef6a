"""Filled bottles: a juice whose colour goes with the fruit on the label, three pearls at the bottom, a cap.

What is wrong is what belongs together: something is missing, doubled or elsewhere, the level or
the colour is another's. No surface is damaged.
"""

from __future__ import annotations

import numpy as np

from bench.drawn.canvas import Canvas, Drawn, Float, Point, plain

JUICES = ((0.72, 0.16, 0.14), (0.85, 0.55, 0.12), (0.48, 0.62, 0.20))  # cherry, orange, apple
PEARLS = ((0.93, 0.90, 0.80), (0.30, 0.24, 0.45), (0.75, 0.42, 0.58))  # from left to right
LABEL, CAP = (0.92, 0.91, 0.86), (0.20, 0.27, 0.36)
OUTLINE: tuple[Point, ...] = (
    *((0.43, 0.14), (0.43, 0.26), (0.35, 0.34), (0.33, 0.40), (0.33, 0.88), (0.36, 0.91)),
    *((0.64, 0.91), (0.67, 0.88), (0.67, 0.40), (0.65, 0.34), (0.57, 0.26), (0.57, 0.14)),
)
LEFT, RIGHT, BOTTOM = 0.345, 0.655, 0.895  # of the inside


def _draw(scene: np.random.Generator, defect: str | None, fault: np.random.Generator) -> Float:
    canvas = Canvas(plain((0.80, 0.81, 0.83), scene))
    kind = int(scene.integers(3))
    dx, dy, level = scene.normal(0, 0.004), scene.normal(0, 0.003), 0.38 + scene.normal(0, 0.004)
    pearls = [(0.40 + 0.10 * i + scene.normal(0, 0.006), 0.855 + scene.normal(0, 0.004)) for i in range(3)]
    label, missing = (0.5, 0.62), fault.choice(("pearl", "label", "cap"))
    which, extra = int(fault.integers(3)), list[Point]()
    juice = JUICES[kind]
    if defect == "fill":
        level += float(fault.choice((-1, 1)) * fault.uniform(0.03, 0.09))
    elif defect == "colour":
        juice = JUICES[(kind + int(fault.integers(1, 3))) % 3]
    elif defect == "extra":
        extra = [(float(fault.uniform(0.42, 0.58)), float(fault.uniform(0.795, 0.81)))]
    elif defect == "misplaced":
        if fault.random() < 0.5:
            label = (
                0.5 + float(fault.choice((-1, 1)) * fault.uniform(0.02, 0.035)),
                0.62 + float(fault.uniform(-0.08, 0.06)),
            )
        else:
            pearls[which], pearls[(which + 1) % 3] = pearls[(which + 1) % 3], pearls[which]

    def at(x: float, y: float) -> Point:
        return x + dx, y + dy

    canvas.polygon([at(*p) for p in OUTLINE], (0.88, 0.92, 0.93), 0.75)
    inside = [
        at(*p)
        for p in (
            (LEFT, level),
            (RIGHT, level),
            (RIGHT, BOTTOM - 0.015),
            (0.63, BOTTOM),
            (0.37, BOTTOM),
            (LEFT, BOTTOM - 0.015),
        )
    ]
    if level < 0.40:  # it narrows towards the neck
        narrow = 0.6 * (0.40 - level)
        inside[:2] = [at(LEFT, 0.40), at(LEFT + narrow, level), at(RIGHT - narrow, level), at(RIGHT, 0.40)]
    surface = [p for p in inside if abs(p[1] - at(0, level)[1]) < 1e-9]
    canvas.polygon(inside, juice, 0.92)
    canvas.line(surface, tuple(0.75 * c for c in juice), 0.006)
    for i, p in enumerate([*pearls, *extra]):
        if defect == "missing" and missing == "pearl" and i == which:
            continue
        canvas.disc(at(*p), 0.030, PEARLS[i % 3])
        canvas.disc(at(p[0] - 0.009, p[1] - 0.010), 0.008, (1, 1, 1), 0.6)
    if not (defect == "missing" and missing == "label"):
        x, y = label
        canvas.polygon(
            [at(x - 0.115, y - 0.10), at(x + 0.115, y - 0.10), at(x + 0.115, y + 0.10), at(x - 0.115, y + 0.10)], LABEL
        )
        canvas.disc(at(x, y - 0.02), 0.045, JUICES[kind])
        canvas.line([at(x, y - 0.06), at(x + 0.02, y - 0.085)], (0.25, 0.40, 0.18), 0.008)
        canvas.line([at(x - 0.08, y + 0.06), at(x + 0.08, y + 0.06)], (0.35, 0.35, 0.35), 0.010)
    if not (defect == "missing" and missing == "cap"):
        canvas.polygon([at(0.42, 0.09), at(0.58, 0.09), at(0.58, 0.155), at(0.42, 0.155)], CAP)
    canvas.line([at(0.365, 0.42), at(0.365, 0.84)], (1, 1, 1), 0.008, 0.45)
    return canvas.done()


DRAWN = Drawn(("missing", "misplaced", "extra", "fill", "colour"), _draw)
