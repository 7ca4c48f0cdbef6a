"""The page as HTML: one file with its style, its script, its plots and its pictures, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vtad.report.content import Page
from vtad.report.pictures import LAYERS
from vtad.run_folder import Run, write_text
from vtad.version import VERSION

TEMPLATES = Path(__file__).parent / "templates"


def write_page(run: Run, page: Page) -> Path:
    """Write report.html into the run's folder; its path. Raises WriteError."""
    path = run.path / "report.html"
    write_text(path, html(page))
    return path


def html(page: Page) -> str:
    """The whole text. What comes from files and cards is escaped, whatever it holds."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    where = {id(entry): number for number, entry in enumerate(page.explorer.entries)}
    return environment.get_template("report.html").render(
        page=page,
        explorer=page.explorer,
        cost=page.explorer.cost,
        gallery=[(where[id(entry)], entry) for entry in page.gallery],
        layers=LAYERS,
        card_json=_without_surrogates(page.card.to_json()),
        version=VERSION,
        style=_part("style.css"),
        script=_part("explorer.js") + _part("gallery.js"),
    )


def _part(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _without_surrogates(text: str) -> str:
    """JSON whose texts are shown as they are, not by their numbers."""
    shown: Any = json.loads(text)
    return json.dumps(shown, indent=2, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
