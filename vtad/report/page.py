"""The page as HTML: one file with its style, its script, its plots and its pictures, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtad.report.certificates import certificates
from vtad.report.content import Page
from vtad.report.library import missing
from vtad.report.pictures import LAYERS
from vtad.run_folder import Run, write_text
from vtad.version import VERSION
from vtad_runtime.contract.disk.files import write_whole

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
EXPORTS = '<section id="exports">'  # with which that section begins, in the page once: all else is escaped


def write_page(run: Run, page: Page) -> Path:
    """Write report.html into the run's folder; its path. Raises WriteError."""
    path = run.path / "report.html"
    write_text(path, html(page))
    return path


def show_certificates(run: Run) -> None:
    """Put the certificates that are in the export folder now on the page that is there, if one is. Raises OSError."""
    path = run.path / "report.html"
    if missing() or not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(EXPORTS)
    _, end, after = rest.partition("</section>")
    if begin and end:
        shown = _environment().get_template("exports.html").render(certificates=certificates(run)).strip()
        if (changed := before + shown + after) != text:
            write_whole(path, changed.encode("utf-8"))


def html(page: Page) -> str:
    """The whole text. What comes from files and cards is escaped, whatever it holds."""
    environment = _environment()
    where = {id(entry): number for number, entry in enumerate(page.explorer.entries)}
    return environment.get_template("report.html").render(
        page=page,
        explorer=page.explorer,
        cost=page.explorer.cost,
        gallery=[(where[id(entry)], entry) for entry in page.gallery],
        certificates=page.certificates,
        layers=LAYERS,
        card_json=_without_surrogates(page.card.to_json()),
        version=VERSION,
        style=_part("style.css"),
        script=_part("explorer.js") + _part("gallery.js"),
    )


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    return environment


def _part(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _without_surrogates(text: str) -> str:
    """JSON whose texts are shown as they are, not by their numbers."""
    shown: Any = json.loads(text)
    return json.dumps(shown, indent=2, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
