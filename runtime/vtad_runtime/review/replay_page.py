"""The report of a replay as one HTML file: figures, the table of agreement, and each flip with its pictures side by side.

No script and nothing from outside: pictures are small JPEGs inside the file. Verdicts are words; colour only repeats them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape

from vtad_runtime.contract.image import ImageError, read_rgb
from vtad_runtime.drawing.encoding import RGB, PictureError, encode
from vtad_runtime.drawing.shrinking import shrink
from vtad_runtime.review.comparison import Again, Comparison, Shift
from vtad_runtime.verdict.verdict import Verdict

SIDE = 520  # pixels, the longer side of a picture on the page
QUALITY = 80  # JPEG; about 40 kB a picture
NAMED = 200  # missing and failed pictures that are named; all are in replay.json

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 72rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; } caption { text-align: left; padding-bottom: .3rem; }
th, td { border: 1px solid #8888; padding: .25rem .7rem; text-align: right; } th { font-weight: 600; }
td.same { font-weight: 600; } td.flip { outline: 3px solid currentColor; outline-offset: -3px; font-weight: 600; }
article { border: 1px solid #8888; border-radius: .4rem; padding: .8rem; margin: 1rem 0; }
article h3 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: .8rem; }
figure { margin: .6rem 0 0; } img { max-width: 100%; height: auto; display: block; } figcaption { font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; overflow-wrap: anywhere; } li { overflow-wrap: anywhere; }
.verdict { border: 1px solid currentColor; border-radius: .2rem; padding: 0 .35rem; font-weight: 600; }
""".strip()


@dataclass(frozen=True)
class Picture:
    """One picture of a flip."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class ShownFlip:
    """A flip and its pictures: as recorded, and as it is seen now."""

    again: Again
    before: Picture | None
    now: Picture | None


def recorded_picture(again: Again, full_scale: int) -> Picture | None:
    """The heatmap saved with the row, else the unmarked picture; None when neither is there or readable.

    `full_scale` is white in 16 bits.
    """
    recorded = again.recorded
    for path, caption in (
        (recorded.heatmap, "as recorded"),
        (recorded.picture, "the picture; its recorded heatmap is not there"),
    ):
        if path is not None:
            try:
                return Picture(small_jpeg(read_rgb(path, full_scale)), caption)
            except (ImageError, PictureError):
                continue
    return None


def small_jpeg(rgb: RGB) -> bytes:
    """(H, W, 3) RGB, shrunk to the page's size where larger, as JPEG. Raises PictureError."""
    return encode(shrink(rgb, SIDE), ".jpg", QUALITY)


def page(title: str, facts: dict[str, str], comparison: Comparison, shown: list[ShownFlip]) -> str:
    """The whole HTML text; file names in it may hold bytes that are no text. `facts` say what was replayed against what."""
    c = comparison
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p><strong>{escape(headline(c))}</strong></p>",
        f"<p>{escape(counts(c))}</p>",
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()) + "</dl>",
        _table(c),
        _shift(c.shift),
        _flips(c, shown),
        _names("Pictures that are not there any more", c.missing),
        _names("Pictures that could not be judged", c.failed),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def headline(c: Comparison) -> str:
    """One sentence: how many flips, of how many. Where nothing was judged, no flips are no comfort."""
    if not c.judged:
        kept = "; --save-originals keeps the frames of a live run" if c.not_saved else ""
        return f"Nothing was judged again, so this says nothing of new verdicts{kept}."
    return (
        f"{len(c.flips)} flips among {c.judged} judged again: {c.flips_from(Verdict.OK)} from OK to NG, "
        f"{c.flips_from(Verdict.NG)} from NG to OK."
    )


def counts(c: Comparison) -> str:
    """What became of the rows."""
    return (
        f"{len(c.rows)} rows: {c.judged} judged again, {len(c.missing)} missing, "
        f"{c.not_saved} without anything to judge"
    )


def _table(c: Comparison) -> str:
    if not c.table:
        return ""
    before, now = c.sides
    head = "".join(f'<th scope="col">now {v}</th>' for v in now)
    lines = []
    for b in before:
        cells = "".join(f'<td class="{_kind(b, n)}">{c.table.get((b, n), 0)}</td>' for n in now)
        lines.append(f'<tr><th scope="row">recorded {b}</th>{cells}</tr>')
    caption = "<caption>How many pictures had and have which verdict; flips are framed.</caption>"
    return f"<h2>Agreement</h2>\n<table>{caption}\n<tr><td></td>{head}</tr>\n" + "\n".join(lines) + "\n</table>"


def _kind(before: Verdict, now: Verdict) -> str:
    if before is now:
        return "same"
    return "flip" if {before, now} == {Verdict.OK, Verdict.NG} else ""


def _shift(shift: Shift | None) -> str:
    if shift is None:
        return ""
    low, middle, high = shift.difference_p5_p50_p95
    ranks = "" if shift.rank_correlation is None else f"; rank correlation {shift.rank_correlation:.3f}"
    return (
        f"<h2>Scores</h2>\n<p>{shift.pictures} pictures: median {shift.recorded_median:.4g} recorded, "
        f"{shift.new_median:.4g} now. New minus recorded: median {middle:+.4g}, "
        f"90 % between {low:+.4g} and {high:+.4g}{ranks}.</p>"
    )


def _flips(c: Comparison, shown: list[ShownFlip]) -> str:
    if not c.table:
        return ""
    if not c.flips:
        return "<h2>Flips</h2>\n<p>None.</p>"
    left = len(c.flips) - len(shown)
    note = f"<p>{len(shown)} of {len(c.flips)} are shown; all are in flips.csv.</p>" if left else ""
    return "\n".join(["<h2>Flips</h2>", note, *(_flip(flip) for flip in shown)])


def _flip(flip: ShownFlip) -> str:
    again, recorded = flip.again, flip.again.recorded
    figures = "".join(
        _figure(picture, f"{recorded.name}, {which}: {verdict}")
        for picture, which, verdict in ((flip.before, "recorded", recorded.verdict), (flip.now, "now", again.verdict))
        if picture is not None
    )
    when = f"<p>captured {escape(recorded.captured_at)}</p>" if recorded.captured_at else ""
    words = (
        f'<p><span class="verdict">{recorded.verdict}</span> score {recorded.score:.4g}, '
        f'threshold {recorded.threshold:.4g} &rarr; <span class="verdict">{again.verdict}</span> '
        f"score {again.score:.4g}, threshold {again.threshold:.4g}</p>"
    )
    pictures = f'<div class="pair">{figures}</div>' if figures else "<p>No picture of it is at hand.</p>"
    return f"<article><h3>{escape(recorded.name)}</h3>{when}{words}{pictures}</article>"


def _figure(picture: Picture, alt: str) -> str:
    data = base64.b64encode(picture.jpeg).decode()
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _names(title: str, items: tuple[tuple[str, str], ...]) -> str:
    if not items:
        return ""
    lines = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in items[:NAMED])
    more = f"<p>and {len(items) - NAMED} more; see replay.json</p>" if len(items) > NAMED else ""
    return f"<h2>{escape(title)} ({len(items)})</h2>\n<ul>{lines}</ul>{more}"
