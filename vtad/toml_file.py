"""Files in TOML that people write: presets and search spaces. An error names its line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtad_runtime.contract.errors import VtadError, one_line

AT_LINE = re.compile(r"^(.*) \(at line (\d+), column \d+\)$", re.DOTALL)  # how tomllib ends its messages


class TomlFileError(VtadError):
    """A file in TOML that cannot be used. One line: file, line, expected, got."""


@dataclass(frozen=True)
class TomlFile:
    """The values of a file, and where they stand."""

    path: Path
    values: dict[str, Any]
    lines: tuple[str, ...]

    def wrong(self, message: object, *keys: str) -> TomlFileError:
        """An error about the value that these keys lead to, outermost first."""
        return TomlFileError(f"{self.path}, line {self.line(*keys)}: {message}")

    def line(self, *keys: str) -> int:
        """Where the value stands that these keys lead to, from 1; of a key that is not found, where the one before it stands."""
        at = 0
        for depth, key in enumerate(keys):
            name = rf"[\"']?{re.escape(key)}[\"']?\s*"
            # The first key begins its line or stands in the head of a table; later ones may stand within braces.
            starts = re.compile(rf"^\s*{name}[.=]|^\s*\[+\s*{name}[.\]]" if depth == 0 else rf"(?<![\w-]){name}=")
            at = next((i for i in range(at, len(self.lines)) if starts.search(self.lines[i])), at)
        return at + 1


def read_toml(path: Path) -> TomlFile:
    """The values of a file. Raises TomlFileError: absent, unreadable, no text, no TOML."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise TomlFileError(f"{path}: expected a file in TOML, got {one_line(e)}") from e
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise TomlFileError(f"{path}, line {line}: expected text in UTF-8, got other bytes") from e
    lines = tuple(text.splitlines())
    try:
        return TomlFile(path, tomllib.loads(text), lines)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        found = AT_LINE.match(str(e))
        said, line = (found[1], int(found[2])) if found else (one_line(e), max(1, len(lines)))
        raise TomlFileError(f"{path}, line {line}: expected TOML, got text that does not parse ({said})") from e


def toml_value(value: float | str | bool) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    return repr(value)


def toml_comment(text: str) -> str:
    """One line that a file in TOML may hold for people."""
    return "# " + "".join(c if c.isprintable() else "?" for c in text)
