"""What the tests of the documents share: fenced blocks, the commands in them, the programs that pyproject.toml declares."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"
DOCS = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return [text for kind, text in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def typed(path: Path) -> list[str]:
    """The commands that a document shows, in order."""
    return [line for text in blocks(path, "sh") for line in text.splitlines()]


def program(name: str) -> click.Command:
    """vtad-run and its kin, as pyproject.toml declares them."""
    module, function = PROJECT["scripts"][name].split(":")
    found: click.Command = getattr(import_module(module), function).command()
    return found


COMMANDS = list(dict.fromkeys(typed(README) + typed(GUIDE)))
OURS = [line for line in COMMANDS if line.startswith("vtad-")]
