"""`make quick` stays what it is for: a look at every room within a minute."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    ROOT / "vtad",
    ROOT / "benchmark" / "vtad_benchmark",
    ROOT / "export" / "vtad_export",
    ROOT / "runtime" / "vtad_runtime",
)
WHOLE_SUITE = 1000  # tests; whoever runs fewer asked for some of them


def test_every_room_has_tests_that_are_quick(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    if len(items) < WHOLE_SUITE:
        pytest.skip("a question to the whole suite")
    quick = {
        item.path for item in items if not item.get_closest_marker("slow") and not item.get_closest_marker("service")
    }
    named = re.compile(r"\b(vtad|vtad_benchmark|vtad_export|vtad_runtime)\.(\w+)")
    seen = {match.groups() for path in quick for match in named.finditer(path.read_text(encoding="utf-8"))}
    rooms = {(package.name, file.parent.name) for package in PACKAGES for file in package.glob("*/__init__.py")}
    assert len(rooms) > 10
    assert rooms <= seen


def test_every_room_says_what_it_is_for_and_what_it_may_import() -> None:
    for package in PACKAGES:
        for file in package.glob("*/__init__.py"):
            said = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").lower()
            assert "import" in said, f"{file.relative_to(ROOT)}: expected what the room is for and what it may import"
