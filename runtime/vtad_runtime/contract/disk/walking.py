"""One way through a folder: everything below it, linked folders too, each once, dot folders left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(
    root: Path, unreadable: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of its subfolders, names of its files) of `root` and all below it, sorted by name, folder by folder.

    Links to folders are followed, and a folder that was seen already is passed over, so loops end. What the caller takes out of
    the list of subfolders is not entered. `unreadable` hears of a folder that cannot be listed; without it that is passed over.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield Path(folder), subfolders, sorted(names)
