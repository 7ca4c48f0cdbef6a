"""Curves and histograms by matplotlib, as SVG that stands in the page and takes its colours and fonts from it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Colours of the drawing that become those of the page, by day and by night.
PAGE_COLOURS = {"#010101": "--ink", "#020202": "--dim", "#030303": "--line", "#040404": "--good", "#050505": "--bad"}
INK, DIM, LINE, GOOD, BAD = PAGE_COLOURS
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vtad",
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.labelcolor": DIM,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 11,
    "axes.titlesize": 11,
    "axes.linewidth": 1,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": DIM,
    "ytick.labelcolor": DIM,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
BINS = 44
REACH = 2.5  # of the way from the lowest score to the threshold, that a histogram shows beyond it
POINTS = 400  # of a curve, at most


@dataclass(frozen=True)
class Plot:
    """An SVG without its end tag, so that the page can mark a point, and where the data lie in it."""

    svg: str
    width: float  # of the view box, as all that follows
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]  # values at the left and at the right
    y: tuple[float, float]  # values at the bottom and at the top

    def at_x(self, value: float) -> float:
        """Where a value lies; beyond the edges, at the edge."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return round(self.left + (self.right - self.left) * min(max(share, 0.0), 1.0), 2)

    def frame(self) -> dict[str, Any]:
        """For the page's script."""
        return {key: value for key, value in vars(self).items() if key != "svg"}


def histogram(good: Sequence[float], defective: Sequence[float], threshold: float, width: int) -> Plot:
    """Good scores upwards, defective ones downwards; what lies far to the right is in the last bar."""
    scores = np.array([*good, *defective, threshold])
    low = float(scores.min())
    span = max(threshold - low, 1e-3 * max(abs(threshold), 1.0))
    high = min(float(scores.max()), threshold + REACH * span)
    cut = float(scores.max()) > high
    low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
    edges = np.linspace(low, high, BINS + 1)
    up, down = (np.histogram(np.clip(part, low, high), edges)[0] for part in (good, defective))
    highest, lowest = (1.12 * float(counts.max(initial=1)) for counts in (up, down))

    def draw(axes: Any) -> None:
        for counts, colour in ((up, GOOD), (-down, BAD)):
            axes.stairs(counts, edges, fill=True, color=colour, linewidth=0)
        axes.axhline(0, color=LINE, linewidth=1)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.yaxis.set_major_locator(_whole_numbers(5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axes.set_xlabel(f"score{', the last bar and all above' if cut else ''}")

    return _plot(draw, width, 250, (low, high), (-lowest, highest))


def curve(
    points: Sequence[tuple[float, float]], x_label: str, y_label: str, x_end: float = 1.0, steps: bool = False
) -> Plot:
    """Shares against shares, from 0 to 1, or to `x_end`."""
    x, y = zip(*_thinned(points), strict=True)

    def draw(axes: Any) -> None:
        axes.plot(x, y, color=INK, drawstyle="steps-post" if steps else "default")
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_locator(_whole_numbers(5, steps=(1, 2, 5, 10), integer=False))
        axes.xaxis.set_major_locator(_whole_numbers(4, steps=(1, 2, 5, 10), integer=False))

    return _plot(draw, 320, 280, (-0.02 * x_end, 1.02 * x_end), (-0.02, 1.04))


def lines(title: str, named: Mapping[str, tuple[Sequence[float], Sequence[float]]], width: int = 300) -> Plot | None:
    """Lines over epochs, by name, up to three; None where there are not two epochs."""
    named = {name: (x, y) for name, (x, y) in named.items() if len(x) > 1}
    if not named:
        return None
    every_x, every_y = (np.concatenate([np.asarray(line[i], np.float64) for line in named.values()]) for i in (0, 1))
    finite = every_y[np.isfinite(every_y)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.06 * abs(high) or 0.06

    def draw(axes: Any) -> None:
        for (name, (x, y)), colour in zip(named.items(), (DIM, GOOD, BAD), strict=False):
            shown = np.array(_thinned(list(zip(x, y, strict=True))))  # (N, 2)
            axes.plot(shown[:, 0], shown[:, 1], color=colour, label=name)
        axes.set_title(title, loc="left", color=INK)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.xaxis.set_major_locator(_whole_numbers(5))
        axes.yaxis.set_major_locator(_whole_numbers(4, integer=False))
        axes.set_xlabel("epoch")
        if len(named) > 1:
            axes.legend(frameon=False, labelcolor=DIM, fontsize=10, loc="best", handlelength=1.2)

    return _plot(draw, width, 190, (float(every_x.min()), float(every_x.max())), (low - room, high + room), top=26)


def _plot(
    draw: Callable[[Any], None],
    width: int,
    height: int,
    x: tuple[float, float],
    y: tuple[float, float],
    top: int = 8,
) -> Plot:
    """What `draw` draws on axes of these values, as SVG; no window, no state of matplotlib is touched."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    left, right, bottom = 50, width - 10, height - 40
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure((width / 72, height / 72))
        axes = figure.add_axes((left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height))
        axes.set_xlim(*x)
        axes.set_ylim(*y)
        draw(axes)
        axes.set_xlim(*x)
        axes.set_ylim(*y)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(_for_page(written.getvalue()), width, height, left, right, top, bottom, x, y)


def _for_page(svg: str) -> str:
    """From the SVG of a file to that of a page: its colours and font, no names that another plot has too."""
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: (?:\w+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", svg)
    for colour, name in PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var({name})")
    return re.sub(r"\n\s*", "\n", svg).replace("</svg>", "").strip()


def _whole_numbers(ticks: int, integer: bool = True, steps: Sequence[float] | None = None) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(ticks, integer=integer, steps=steps)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= POINTS:
        return list(points)
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, POINTS).astype(int))]
